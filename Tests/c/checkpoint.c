/* Files that are no checkpoints, and writing where it is hard. The argument is the working folder. Tests/faults has
 * several writers, and checkpoints with mutations. */
#define _DEFAULT_SOURCE
#include "arrays.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { D = 3, C = 2 };
static char folder[512], file[600];

static cgrpo_trainer *trainer_of(int64_t width, uint64_t seed) {
    cgrpo_trainer_options options;
    cgrpo_trainer *trainer = NULL;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = D;
    options.condition_size = C;
    options.width = width;
    options.blocks = 1;
    options.embedding_size = 4;
    options.steps = 9;
    options.group_size = 3;
    options.threads = 1;
    options.seed = seed;
    CHECK_OK(cgrpo_trainer_create(&options, &trainer));
    return trainer;
}

static char *read_file(const char *path, size_t *size) {
    FILE *stream = fopen(path, "rb");
    char *bytes = NULL;
    *size = 0;
    if (!CHECK(stream != NULL)) return NULL;
    fseek(stream, 0, SEEK_END);
    *size = (size_t)ftell(stream);
    rewind(stream);
    bytes = (char *)malloc(*size + 1);
    CHECK(fread(bytes, 1, *size, stream) == *size);
    fclose(stream);
    return bytes;
}

static void write_file(const char *path, const char *bytes, size_t size) {
    FILE *stream = fopen(path, "wb");
    if (!CHECK(stream != NULL)) return;
    CHECK(fwrite(bytes, 1, size, stream) == size);
    fclose(stream);
}

/* A child that ends with what `body` returns, and how it ended. */
static pid_t child(int (*body)(int), int number) {
    pid_t pid;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        alarm(300);
        _exit(body(number));
    }
    return pid;
}

static int ended(pid_t pid) {
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int files_in_folder(void) {
    char command[700];
    FILE *lines;
    int count = -1;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    lines = popen(command, "r");
    if (!CHECK(lines != NULL && fscanf(lines, "%d", &count) == 1)) count = -1;
    if (lines) pclose(lines);
    return count;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Files that are none
 */

static int loads_nothing(int number) {
    cgrpo_trainer *trainer = NULL;
    struct rusage usage;
    (void)number;
    CHECK_REFUSED(cgrpo_trainer_load(folder, &trainer), CGRPO_IO_ERROR, "model.safetensors");
    getrusage(RUSAGE_SELF, &usage);
    return !(CHECK(trainer == NULL) && CHECK(usage.ru_maxrss < 300 << 10)) || check_wrong > 0;
}

static void what_is_no_checkpoint_is_refused_before_it_takes_time_or_memory(void) {
    size_t size;
    char *whole, *width, *list;
    int descriptor;
    cgrpo_trainer *trainer = trainer_of(5, 1);
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    whole = read_file(file, &size);
    CHECK(truncate(file, (off_t)8 << 30) == 0); /* mostly a hole */
    CHECK(ended(child(loads_nothing, 0)) == 0);
    width = strstr(whole + 8, "\"width\":\"5\"");
    if (CHECK(width != NULL)) memcpy(width, "\"width\":\"8\"", 11), write_file(file, whole, size);
    CHECK(ended(child(loads_nothing, 0)) == 0);
    list = (char *)malloc(64 << 20);
    for (long i = 0; i < 64 << 20; i++) list[i] = i % 2 ? ',' : '0';
    memcpy(list, "\0\0\0\x03\0\0\0\0[", 9);
    write_file(file, list, 64 << 20);
    CHECK(ended(child(loads_nothing, 0)) == 0);
    CHECK(unlink(file) == 0 && mkfifo(file, 0600) == 0);
    CHECK(ended(child(loads_nothing, 0)) == 0);
    CHECK(unlink(file) == 0 && symlink("/dev/zero", file) == 0);
    CHECK(ended(child(loads_nothing, 0)) == 0);
    CHECK(unlink(file) == 0 && symlink("model.safetensors", file) == 0);
    CHECK(ended(child(loads_nothing, 0)) == 0);
    CHECK(unlink(file) == 0 && mkdir(file, 0700) == 0);
    CHECK(ended(child(loads_nothing, 0)) == 0);
    CHECK(rmdir(file) == 0);
    descriptor = open("/dev/null", O_RDONLY); /* the lowest that is free: no call above has left one open */
    CHECK(descriptor >= 0 && descriptor < 8);
    close(descriptor);
    cgrpo_trainer_destroy(trainer);
    free(whole), free(list);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Writing where it is hard
 */

static int saves_beyond_a_limit(int number) {
    struct rlimit limit = {1000, 1000};
    cgrpo_trainer *trainer = trainer_of(16, 2);
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK_REFUSED(cgrpo_trainer_save(trainer, folder), CGRPO_IO_ERROR, "too large");
    return check_wrong + number;
}

static void a_limit_on_the_size_of_files_is_an_error_and_no_signal(void) {
    cgrpo_trainer *trainer = trainer_of(5, 1), *loaded = NULL;
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    CHECK(ended(child(saves_beyond_a_limit, 0)) == 0);
    CHECK_OK(cgrpo_trainer_load(folder, &loaded));
    CHECK(files_in_folder() == 1);
    cgrpo_trainer_destroy(trainer), cgrpo_trainer_destroy(loaded);
}

/* A link in the place of the file that is written aside is not followed. */
static void links_of_others_are_not_written_to(void) {
    char aside[700], kept[600];
    size_t size;
    cgrpo_trainer *trainer = trainer_of(5, 1);
    char *bytes;
    snprintf(kept, sizeof kept, "%s.kept", folder);
    write_file(kept, "mine", 4);
    snprintf(aside, sizeof aside, "%s.%d-0", file, (int)getpid());
    CHECK(symlink(kept, aside) == 0);
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    bytes = read_file(kept, &size);
    CHECK(size == 4 && memcmp(bytes, "mine", 4) == 0);
    CHECK(unlink(aside) == 0 && mkfifo(aside, 0600) == 0);
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    CHECK(unlink(aside) == 0 && unlink(kept) == 0);
    cgrpo_trainer_destroy(trainer);
    free(bytes);
}

static void a_path_is_bytes(void) {
    char path[600], inner[700];
    cgrpo_trainer *trainer = trainer_of(5, 1), *loaded = NULL;
    snprintf(path, sizeof path, "%s/\xff\xe9 name", folder);
    CHECK_OK(cgrpo_trainer_save(trainer, path));
    CHECK_OK(cgrpo_trainer_load(path, &loaded));
    snprintf(inner, sizeof inner, "%s/model.safetensors", path);
    CHECK(unlink(inner) == 0 && rmdir(path) == 0);
    CHECK_REFUSED(cgrpo_trainer_save(trainer, ""), CGRPO_INVALID_ARGUMENT, "directory");
    cgrpo_trainer_destroy(trainer), cgrpo_trainer_destroy(loaded);
}

int main(int argc, char **argv) {
    snprintf(folder, sizeof folder, "%s/checkpoint.XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(folder) == NULL) return perror(folder), 1;
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    RUN(what_is_no_checkpoint_is_refused_before_it_takes_time_or_memory);
    RUN(a_limit_on_the_size_of_files_is_an_error_and_no_signal);
    RUN(links_of_others_are_not_written_to);
    RUN(a_path_is_bytes);
    return finish("checkpoint");
}
