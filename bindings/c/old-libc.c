/* libchunkgrpo.so loads with every C library from glibc 2.28 on (RHEL 8, Debian 10): a symbol that was given a newer
 * version since is taken in its older one, which every later glibc has too. The library's own name, hidden, jumps to
 * it. `scripts/check-exports` finds a symbol that is missing here. */
#ifdef __x86_64__

#define OLDER(name, version)                                                                                    \
    __asm__(".symver before_" #name ", " #name "@" version "\n"                                                 \
            ".pushsection .text\n.globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" #name ":\n" \
            "\tjmp *before_" #name "@GOTPCREL(%rip)\n.size " #name ", . - " #name "\n.popsection\n");

/* 2.29 and 2.35: they no longer call matherr(), which nobody has; the numbers are the same. */
OLDER(exp, "GLIBC_2.2.5")
OLDER(exp2, "GLIBC_2.2.5")
OLDER(log, "GLIBC_2.2.5")
OLDER(log2, "GLIBC_2.2.5")
OLDER(pow, "GLIBC_2.2.5")
OLDER(hypotf, "GLIBC_2.2.5")

/* 2.32 and 2.34: they moved from libpthread and libdl into libc; the Makefile names both libraries. */
OLDER(dladdr, "GLIBC_2.2.5")
OLDER(dlerror, "GLIBC_2.2.5")
OLDER(dlopen, "GLIBC_2.2.5")
OLDER(dlsym, "GLIBC_2.2.5")
OLDER(pthread_attr_getstacksize, "GLIBC_2.2.5")
OLDER(pthread_attr_setstacksize, "GLIBC_2.2.5")
OLDER(pthread_create, "GLIBC_2.2.5")
OLDER(pthread_mutex_trylock, "GLIBC_2.2.5")
OLDER(pthread_sigmask, "GLIBC_2.2.5")
OLDER(sem_open, "GLIBC_2.2.5")

/* 2.33: before, stat() was inline and called this, with the number of struct stat's layout. */
struct stat;
int __fxstat(int layout, int file, struct stat *status);
int __xstat(int layout, const char *path, struct stat *status);
__attribute__((visibility("hidden"))) int fstat(int file, struct stat *status) { return __fxstat(1, file, status); }
__attribute__((visibility("hidden"))) int stat(const char *path, struct stat *status) {
    return __xstat(1, path, status);
}

/* libstdc++ of GCC 11: std::__throw_bad_array_new_length(). */
void __cxa_throw_bad_array_new_length(void) __attribute__((noreturn));
void older_throw(void) __asm__("_ZSt28__throw_bad_array_new_lengthv") __attribute__((visibility("hidden"), noreturn));
void older_throw(void) { __cxa_throw_bad_array_new_length(); }

#endif
