/* `probe B S D`, in a fresh process: what loss and gradient, and single calls, allocate beyond their inputs and
 * outputs, when first called and later. Lines "call turn bytes allocations resident": the most bytes at once, the
 * number of allocations, and by how much the most memory that was ever resident grew. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "measure.c"

/* Every allocation of this process and of the libraries in it comes through here. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
size_t malloc_usable_size(void *);

static int64_t live, peak, allocations;

static void *took(void *p) {
    int64_t now_live = __atomic_add_fetch(&live, p ? (int64_t)malloc_usable_size(p) : 0, __ATOMIC_RELAXED);
    if (now_live > peak) peak = now_live;
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return p;
}

static void gave(void *p) { __atomic_sub_fetch(&live, p ? (int64_t)malloc_usable_size(p) : 0, __ATOMIC_RELAXED); }

void *malloc(size_t size) { return took(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return took(__libc_calloc(count, size)); }
void *realloc(void *p, size_t size) { return gave(p), took(__libc_realloc(p, size)); }
void *memalign(size_t alignment, size_t size) { return took(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return took(__libc_memalign(alignment, size)); }
int posix_memalign(void **p, size_t alignment, size_t size) { return (*p = memalign(alignment, size)) ? 0 : 12; }
void free(void *p) { gave(p), __libc_free(p); }

/* Most memory that was ever resident, in bytes. */
static int64_t resident(void) {
    char line[256];
    long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %lld", &kib) != 1) continue;
    if (file) fclose(file);
    return 1024 * kib;
}

static float *filled(int64_t count) {
    float *p = malloc((size_t)count * sizeof *p);
    for (int64_t i = 0; i < count; i++) p[i] = (float)(i % 17) / 17 - 0.5f;
    return p;
}

static int memory(int64_t batch, int64_t steps, int64_t elements) {
    float *x = filled(batch * (steps + 2) * elements), *v = filled(batch * steps * elements);
    float *grad = filled(batch * steps * elements), *next = filled(batch * elements);
    const struct {
        const char *name;
        int32_t kind;
    } calls[] = {{"loss_gradient", LOSS_GRADIENT}, {"step", STEP}, {"log_prob", LOG_PROB}, {"vjp", VJP}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        job *j = job_create(calls[i].kind, CGRPO_TYPE_F32, CGRPO_TYPE_F32, batch, elements, steps, 1, x, v, next, grad,
                            NULL);
        for (int turn = 0; turn < 2; turn++) {
            int64_t before = live, high = resident();
            peak = live, allocations = 0;
            double time = job_run(j, 1);
            int64_t counted = allocations, most = peak - before;
            if (time < 0) return fprintf(stderr, "%s\n", cgrpo_last_error()), 1;
            printf("%s %s %lld %lld %lld\n", calls[i].name, turn ? "later" : "first", (long long)most,
                   (long long)counted, (long long)(resident() - high));
        }
        job_destroy(j);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4) return memory(atoll(argv[1]), atoll(argv[2]), atoll(argv[3]));
    fputs("usage: probe B S D\n", stderr);
    return 2;
}
