/*
 * Two processes save different trainers into one folder, each from two threads at once, and a third loads it all the
 * while: no save is refused, and what is loaded is the one or the other, whole. In the end there is one file.
 *
 *     writers FOLDER [SAVES]
 */
#include "faults.h"

#include <dirent.h>

enum { THREADS = 2 };
static char folder[300];
static long saves_each; /* by a thread */
static identity known[2];
static struct counts {
    long saved, refused, loaded, unloadable, mixed;
    int writing;
    char error[200];
} * counts;

static void *save_often(void *trainer) {
    for (long i = 0; i < saves_each; i++) {
        int right = cgrpo_trainer_save(trainer, folder) == CGRPO_OK;
        __atomic_add_fetch(right ? &counts->saved : &counts->refused, 1, __ATOMIC_RELAXED);
        if (!right) snprintf(counts->error, sizeof counts->error, "%s", cgrpo_last_error());
    }
    return NULL;
}

static int writer(int index) {
    pthread_t threads[THREADS];
    cgrpo_trainer *trainer = tiny_trainer((uint64_t)index, 1);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, save_often, trainer);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return 0;
}

static void load_once(void) {
    cgrpo_trainer *loaded = NULL;
    counts->loaded++;
    if (cgrpo_trainer_load(folder, &loaded) != CGRPO_OK) {
        counts->unloadable++;
        snprintf(counts->error, sizeof counts->error, "%s", cgrpo_last_error());
        return;
    }
    identity found = identity_of(loaded);
    counts->mixed += memcmp(&found, &known[0], sizeof found) != 0 && memcmp(&found, &known[1], sizeof found) != 0;
    cgrpo_trainer_destroy(loaded);
}

static int files_in_folder(void) {
    int count = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) count += entry->d_name[0] != '.';
    if (entries != NULL) closedir(entries);
    return count;
}

int main(int argc, char **argv) {
    pid_t writers[2];
    long saves = argument_or(argc, argv, 2, 200);
    int status, failed = 0;
    saves_each = (saves + 2 * THREADS - 1) / (2 * THREADS);
    counts = shared_memory(sizeof *counts);
    snprintf(folder, sizeof folder, "%s/checkpoint.writers.%d", argc > 1 ? argv[1] : ".", (int)getpid());
    for (int i = 0; i < 2; i++) {
        cgrpo_trainer *trainer = tiny_trainer((uint64_t)i, 1);
        known[i] = identity_of(trainer);
        if (i == 0 && cgrpo_trainer_save(trainer, folder) != CGRPO_OK) return 2;
        cgrpo_trainer_destroy(trainer);
    }
    for (int i = 0; i < 2; i++)
        if ((writers[i] = fork()) == 0) alarm(600), _exit(writer(i));
    for (int left = 2; left > 0;) {
        load_once();
        for (int i = 0; i < 2; i++)
            if (writers[i] != 0 && waitpid(writers[i], &status, WNOHANG) == writers[i])
                writers[i] = 0, left--, failed += status != 0;
    }
    load_once();
    const int files = files_in_folder();
    remove_folder(folder);
    if (counts->error[0] != 0) printf("%s\n", counts->error);
    printf("writers: %ld saves, %ld refused; %ld loads, %ld unloadable, %ld of another state; %d writers ended, %d "
           "file left\n",
           counts->saved + counts->refused, counts->refused, counts->loaded, counts->unloadable, counts->mixed, failed,
           files);
    return counts->refused + counts->unloadable + counts->mixed + failed > 0 || files != 1;
}
