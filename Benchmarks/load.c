/* `load PATH`: nanoseconds that a fresh process takes to load the library and to call it once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

int main(int argc, char **argv) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    unsigned (*version)(void) = library ? (unsigned (*)(void))dlsym(library, "cgrpo_abi_version") : NULL;
    if (!version || version() == 0) return fprintf(stderr, "%s\n", dlerror()), 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.0f\n", 1e9 * (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec));
    return 0;
}
