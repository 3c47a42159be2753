/* What the Swift runtime within libchunkgrpo.so may not do in another's process. */
#include <pthread.h>

/* The runtime keeps a thread's number, and locks with it. A forked child's thread has another number: where a second
 * thread met such a lock, both would wait for ever. 0 means that the runtime asks anew. */
extern __thread int runtimes_thread __asm__("_ZZN5swift14threading_impl5linux13ulock_get_tidEvE3tid")
    __attribute__((visibility("hidden")));

static void forget_thread(void) { runtimes_thread = 0; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(0, 0, forget_thread); }

/* The linker puts this in the place of the function that reads SWIFT_DEBUG_…, SWIFT_BACKTRACE and the like, which make
 * the runtime print, take signals or run a program. Their defaults stay. */
void __wrap__ZN5swift7runtime11environment10initializeEPv(void *unused);
void __wrap__ZN5swift7runtime11environment10initializeEPv(void *unused) { (void)unused; }
