#include "kernelswide.h"

#include <stddef.h>

void chunkgrpo_kernels_avx2(void *place) __attribute__((weak));
void chunkgrpo_kernels_avx512(void *place) __attribute__((weak));

int chunkgrpo_kernels_wide(int avx512, void *place) {
    void (*kernels)(void *) = avx512 ? chunkgrpo_kernels_avx512 : chunkgrpo_kernels_avx2;
    if (kernels == NULL) return 0;
    kernels(place);
    return 1;
}
