/* A save that ends at its n-th system call, or whose n-th call fails, for every n: the directory holds the checkpoint
 * of before or the new one, bit for bit. The calls below stand before the C library's. Argument: the working folder. */
#define _GNU_SOURCE
#include "arrays.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT = 0, SHORT = -1, HALF = -2, CUT = 99, UNHARMED = 98 };
static long at, count;
static int mode;

static int hit(void) {
    if (at == 0 || ++count != at) return 0;
    if (mode == EXIT) _exit(CUT);
    if (mode > 0) errno = mode;
    return 1;
}

#define REAL(name) (__extension__(__typeof__(&name)) dlsym(RTLD_NEXT, #name))

int open(const char *path, int flags, ...) {
    va_list rest;
    int access;
    va_start(rest, flags);
    access = va_arg(rest, int);
    va_end(rest);
    return hit() && mode > 0 ? -1 : REAL(open)(path, flags, access);
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    if (descriptor > 2 && hit()) {
        if (mode > 0) return -1;
        if (mode == HALF && REAL(write)(descriptor, bytes, size / 2) >= 0) _exit(CUT);
        if (size > 1) size /= 2;
    }
    return REAL(write)(descriptor, bytes, size);
}

int close(int descriptor) {
    int fails = descriptor > 2 && hit() && mode > 0, wanted = errno;
    int result = REAL(close)(descriptor);
    return fails ? errno = wanted, -1 : result;
}

int fsync(int descriptor) { return hit() && mode > 0 ? -1 : REAL(fsync)(descriptor); }
int rename(const char *from, const char *to) { return hit() && mode > 0 ? -1 : REAL(rename)(from, to); }
int unlink(const char *path) { return hit() && mode > 0 ? -1 : REAL(unlink)(path); }
int rmdir(const char *path) { return hit() && mode > 0 ? -1 : REAL(rmdir)(path); }
int mkdir(const char *path, mode_t access) { return hit() && mode > 0 ? -1 : REAL(mkdir)(path, access); }

static char base[512], work[600];
static cgrpo_trainer *before, *after;

static cgrpo_trainer *trainer_of(uint64_t seed) {
    cgrpo_trainer_options options;
    cgrpo_trainer *trainer = NULL;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = 3;
    options.condition_size = 2;
    options.width = 5;
    options.blocks = 1;
    options.embedding_size = 4;
    options.threads = 1;
    options.seed = seed;
    CHECK_OK(cgrpo_trainer_create(&options, &trainer));
    return trainer;
}

static void run(const char *format, const char *first, const char *second) {
    char command[1300];
    snprintf(command, sizeof command, format, first, second);
    CHECK(system(command) == 0);
}

/* The seed of the checkpoint in `work`; 0 where there is none. */
static uint64_t found(void) {
    cgrpo_trainer *trainer = NULL;
    cgrpo_trainer_options options;
    options.struct_size = sizeof options;
    if (cgrpo_trainer_load(work, &trainer) != CGRPO_OK) return 0;
    CHECK_OK(cgrpo_trainer_info(trainer, &options, NULL, NULL));
    cgrpo_trainer_destroy(trainer);
    return options.seed;
}

/* One save, cut at its n-th call. 0 where it has no such call. */
static int cut(long n, int how, int has_old) {
    pid_t pid;
    int status = 0, code;
    uint64_t seed;
    run("rm -rf '%s'", work, "");
    if (has_old) run("cp -r '%s' '%s'", base, work);
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        cgrpo_status result;
        at = n, mode = how;
        result = cgrpo_trainer_save(after, work);
        _exit(count < n ? UNHARMED : (int)result);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    code = WEXITSTATUS(status);
    if (code == UNHARMED) return 0;
    seed = found();
    CHECK(code == CGRPO_OK || code == CGRPO_IO_ERROR || code == CUT);
    CHECK(seed == 2 || (code != CGRPO_OK && seed == (has_old ? 1 : 0))); /* what was reported is there */
    return 1;
}

static long cuts;

static void a_save_that_is_cut_leaves_the_old_checkpoint_or_the_new(void) {
    static const int modes[] = {EXIT, HALF, SHORT, EIO, ENOSPC, EINTR, EDQUOT, EROFS};
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
        for (int has_old = 0; has_old < 2; has_old++) {
            long n = 1;
            while (n < 1000 && cut(n, modes[m], has_old)) n++;
            CHECK(n > 5); /* open, write, fsync, close, rename, and the directory's */
            cuts += n - 1;
        }
}

int main(int argc, char **argv) {
    snprintf(base, sizeof base, "%s/checkpoint.XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(base) == NULL) return perror(base), 1;
    snprintf(work, sizeof work, "%s.work", base);
    before = trainer_of(1), after = trainer_of(2);
    CHECK_OK(cgrpo_trainer_save(before, base));
    RUN(a_save_that_is_cut_leaves_the_old_checkpoint_or_the_new);
    run("rm -rf '%s' '%s'", base, work);
    cgrpo_trainer_destroy(before), cgrpo_trainer_destroy(after);
    printf("cuts: %ld saves were cut\n", cuts);
    return finish("cuts");
}
