/*
 * A save whose n-th system call ends the process, fails, or writes short, for each n: the folder must then hold a whole
 * checkpoint, the old or the new one, bit for bit; after OK the new one.
 *
 *     cut_saves FOLDER
 */
#include "faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/stat.h>

/* What becomes of the n-th call: one of these, or an errno. */
enum { EXITS = -1, HALF_THEN_EXITS = -2, SHORT = -3, GONE = 99, TOO_FEW = 98 };
static long calls_made, strikes_at; /* 0: never */
static int manner;

static int struck(void) {
    if (strikes_at == 0 || ++calls_made != strikes_at) return 0;
    if (manner == EXITS) _exit(GONE);
    if (manner > 0) errno = manner;
    return 1;
}

#define STRUCK() (struck() && manner > 0)
#define REAL(name)                 \
    static __typeof__(name) *real; \
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, #name)

int open(const char *path, int flags, ...) {
    REAL(open);
    va_list more;
    va_start(more, flags);
    unsigned mode = va_arg(more, unsigned);
    va_end(more);
    return STRUCK() ? -1 : real(path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    REAL(openat);
    va_list more;
    va_start(more, flags);
    unsigned mode = va_arg(more, unsigned);
    va_end(more);
    return STRUCK() ? -1 : real(folder, path, flags, mode);
}
ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    if (file <= 2 || !struck()) return real(file, data, size);
    if (manner == HALF_THEN_EXITS) _exit(real(file, data, size / 2) < 0 ? GONE : GONE);
    return manner > 0 ? -1 : real(file, data, size > 1 ? size / 2 : size);
}
int close(int file) {
    REAL(close);
    int fails = file > 2 && STRUCK(), result = real(file);
    if (!fails) return result;
    errno = manner;
    return -1;
}
#define WRAP(name, parameters, arguments)      \
    int name parameters {                      \
        REAL(name);                            \
        return STRUCK() ? -1 : real arguments; \
    }
WRAP(mkstemp, (char *path), (path))
WRAP(mkostemp, (char *path, int flags), (path, flags))
WRAP(fsync, (int file), (file))
WRAP(fdatasync, (int file), (file))
WRAP(ftruncate, (int file, off_t size), (file, size))
WRAP(fchmod, (int file, mode_t mode), (file, mode))
WRAP(rename, (const char *from, const char *to), (from, to))
WRAP(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(unlink, (const char *path), (path))
WRAP(unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
WRAP(rmdir, (const char *path), (path))
WRAP(mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))

static const struct {
    const char *name;
    int manner;
} manners[] = {
    {"the process ends", EXITS},
    {"half a write, then the process ends", HALF_THEN_EXITS},
    {"a short write", SHORT},
    {"EINTR", EINTR},
    {"EIO", EIO},
    {"ENOSPC", ENOSPC},
    {"EDQUOT", EDQUOT},
    {"EROFS", EROFS},
};

static cgrpo_trainer *trainer;
static char base[300], work[300];
static identity before, after;
static long saves, broken, few;

static int save(void *n) {
    strikes_at = *(long *)n, calls_made = 0;
    cgrpo_status status = cgrpo_trainer_save(trainer, work);
    strikes_at = 0;
    return calls_made < *(long *)n ? TOO_FEW : (int)status;
}

static void copy_base(void) {
    char command[700];
    snprintf(command, sizeof command, "cp -r '%s' '%s'", base, work);
    if (system(command) != 0) abort();
}

/* 0: none, 1: old, 2: new, 3: another */
static int what_is_there(void) {
    cgrpo_trainer *loaded = NULL;
    if (cgrpo_trainer_load(work, &loaded) != CGRPO_OK) return 0;
    identity found = identity_of(loaded);
    cgrpo_trainer_destroy(loaded);
    return memcmp(&found, &before, sizeof found) == 0 ? 1 : memcmp(&found, &after, sizeof found) == 0 ? 2 : 3;
}

static void cut(int m, int existing) {
    for (long n = 1;; n++) {
        remove_folder(work);
        if (existing) copy_base();
        manner = manners[m].manner;
        int outcome = in_child(save, &n, 20);
        if (outcome == TOO_FEW) return;
        int there = what_is_there();
        int holds = outcome == CGRPO_OK ? there == 2 : there == 2 || there == (existing ? 1 : 0);
        int known = outcome == CGRPO_OK || outcome == CGRPO_IO_ERROR || outcome == GONE;
        saves++;
        if (holds && known) continue;
        broken++;
        printf("%s at call %ld, %s: the save gave %d, the folder holds %s\n", manners[m].name, n,
               existing ? "over a checkpoint" : "new", outcome,
               (const char *[]){"nothing that loads", "the old one", "the new one", "another state"}[there]);
    }
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : ".";
    snprintf(base, sizeof base, "%s/checkpoint.base.%d", folder, (int)getpid());
    snprintf(work, sizeof work, "%s/checkpoint.work.%d", folder, (int)getpid());
    trainer = tiny_trainer(1, 3);
    before = identity_of(trainer);
    if (cgrpo_trainer_save(trainer, base) != CGRPO_OK || tiny_iterate(trainer) != CGRPO_OK) return 2;
    after = identity_of(trainer);
    for (size_t m = 0; m < sizeof manners / sizeof *manners; m++)
        for (int existing = 0; existing < 2; existing++) {
            long before_it = saves;
            cut((int)m, existing);
            few += saves - before_it < 5; /* open, write, fsync, close, rename, and the folder's */
        }
    remove_folder(base), remove_folder(work);
    printf("cut saves: %ld cut, %ld broke the promise\n", saves, broken);
    return broken > 0 || few > 0;
}
