// The comparisons of kernels.cpp on a device, and times of the kernels that are called most. It takes the driver alone:
//     device PTX-FOLDER [FOLDER ...]: bits with the first one's texts, then times with each. A folder's name may end in
//     _b1: its kernels take one block of 1,024 elements a block of threads.
#include "arrays.h"
#include <dlfcn.h>
#include <new>

typedef int Result;
#define DRIVER(X)                                                                                               \
    X(cuInit, (unsigned))                                                                                       \
    X(cuDeviceGet, (int *, int))                                                                                \
    X(cuDeviceGetName, (char *, int, int))                                                                      \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                                 \
    X(cuCtxPushCurrent_v2, (void *))                                                                            \
    X(cuCtxSynchronize, ())                                                                                     \
    X(cuModuleLoadData, (void **, const void *))                                                                \
    X(cuModuleGetFunction, (void **, void *, const char *))                                                     \
    X(cuLaunchKernel,                                                                                           \
      (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **)) \
    X(cuMemAllocManaged, (unsigned long long *, size_t, unsigned))                                              \
    X(cuMemAlloc_v2, (unsigned long long *, size_t))                                                            \
    X(cuMemsetD8_v2, (unsigned long long, unsigned char, size_t))                                               \
    X(cuMemcpyHtoD_v2, (unsigned long long, const void *, size_t))                                              \
    X(cuMemcpyDtoDAsync_v2, (unsigned long long, unsigned long long, size_t, void *))                           \
    X(cuEventCreate, (void **, unsigned))                                                                       \
    X(cuEventRecord, (void *, void *))                                                                          \
    X(cuEventSynchronize, (void *))                                                                             \
    X(cuEventElapsedTime, (float *, void *, void *))                                                            \
    X(cuGetErrorString, (Result, const char **))
#define X(name, arguments) static Result(*name) arguments;
DRIVER(X)
#undef X

static void check(Result result, const char *what) {
    if (!result) return;
    const char *text = "?";
    cuGetErrorString(result, &text);
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}
#define CUDA(call) check(call, #call)

// All memory of the program is managed memory, which the device and the host both see: what is freed is not used again.
static char *pool = nullptr;
static size_t pool_used = 0;
static const size_t pool_size = 2ull << 30;

static void *allocate(size_t size) {
    if (!pool) {
        if (void *p = malloc(size)) return p;
        throw std::bad_alloc();
    }
    char *p = pool + pool_used;
    pool_used += (size + 63) & ~(size_t)63;
    if (pool_used > pool_size) fprintf(stderr, "The pool of memory is used up.\n"), exit(1);
    return p;
}
void *operator new(size_t size) { return allocate(size); }
void operator delete(void *p) noexcept {
    if ((char *)p < pool || (char *)p >= pool + pool_size) free(p);
}
void operator delete(void *p, size_t) noexcept { operator delete(p); }

static std::map<std::string, void *> modules;
static std::string folder;

static void *function(const std::string &name) {
    const std::string types = name.substr(name.rfind('_', name.rfind('_') - 1) + 1),
                      file = folder + "/" + types + ".ptx";
    void *&module = modules[file];
    if (!module) {
        FILE *f = fopen(file.c_str(), "rb");
        if (!f) fprintf(stderr, "There is no %s.\n", file.c_str()), exit(1);
        char *text = (char *)calloc(1, 4 << 20);
        if (!fread(text, 1, (4 << 20) - 1, f)) exit(1);
        fclose(f);
        CUDA(cuModuleLoadData(&module, text));
        free(text);
    }
    void *result = nullptr;
    return cuModuleGetFunction(&result, module, name.c_str()) ? nullptr : result;
}

static void start(void *f, const void *arguments, unsigned x, unsigned y, unsigned z) {
    void *parameters[] = {(void *)arguments};
    CUDA(cuLaunchKernel(f, x, y, z, CHUNKGRPO_CUDA_THREADS, 1, 1, 0, nullptr, parameters, nullptr));
}

bool run_kernel(const std::string &name, const void *arguments, unsigned x, unsigned y, unsigned z) {
    void *f = function(name);
    if (!f) return false;
    start(f, arguments, x, y, z);
    CUDA(cuCtxSynchronize());
    return true;
}

static char *memory(size_t size) {
    unsigned long long p;
    CUDA(cuMemAlloc_v2(&p, size));
    CUDA(cuMemsetD8_v2(p, 0, size));
    return (char *)p;
}

template <class Body> static double microseconds(const Body &body) {
    const int count = 1000;
    void *begin, *end;
    CUDA(cuEventCreate(&begin, 0));
    CUDA(cuEventCreate(&end, 0));
    double best = 1e9;
    for (int repeat = 0; repeat < 3; repeat++) {
        for (int i = 0; i < 20; i++) body(i);
        CUDA(cuEventRecord(begin, nullptr));
        for (int i = 0; i < count; i++) body(i);
        CUDA(cuEventRecord(end, nullptr));
        CUDA(cuEventSynchronize(end));
        float ms;
        CUDA(cuEventElapsedTime(&ms, begin, end));
        best = std::min(best, 1e3 * (double)ms / count);
    }
    return best;
}

// Latents of 12 x 2,025 x 64, in `sets` places that are taken in turn, so that nothing is found in the cache.
static void times(const char *types, size_t size, size_t velocity_size, int sets) {
    const int64_t batch = 12, elements = 2025 * 64, count = batch * elements;
    const bool single = folder.size() > 3 && folder.substr(folder.size() - 3) == "_b1";
    const int64_t each = single || size == 8 ? 1024 : 2048;
    const unsigned grid = (unsigned)((elements + each - 1) / each);
    std::vector<char *> x, v, next, gradient;
    for (int i = 0; i < sets; i++) {
        x.push_back(memory(count * size)), v.push_back(memory(count * velocity_size));
        next.push_back(memory(count * size)), gradient.push_back(memory(count * velocity_size));
    }
    const size_t bytes = chunkgrpo_cuda_workspace_bytes(batch, elements, 1);
    char *workspace = memory(bytes), *numbers = memory(3 * 8 * batch);
    auto placed = [&](char *base, size_t bytes) {
        return chunkgrpo_cuda_Rows{base, elements * (int64_t)bytes, elements * (int64_t)bytes};
    };
    auto rows = [&](char *base) { return placed(base, size); };
    auto velocities = [&](char *base) { return placed(base, velocity_size); };
    chunkgrpo_cuda_StepArguments k = {};
    k.log_prob = (double *)numbers, k.stride = 1;
    k.shape = {elements, 0, (double)elements, 0};
    chunkgrpo_cuda_divide(&k.workspace, workspace, bytes);
    k.noise.kind = CHUNKGRPO_CUDA_LIBRARY;
    chunkgrpo_cuda_seed(&k.noise, 5);
    auto real = [&](double value) {
        chunkgrpo_cuda_real r = {};
        if (size == 8) r.f64 = value;
        else r.f32 = (float)value;
        return r;
    };
    k.numbers[0].a = real(0.9), k.numbers[0].b = real(-0.1), k.numbers[0].s = real(0.3);
    k.numbers[0].factor = -5, k.numbers[0].slope = 1e-6;
    chunkgrpo_cuda_DifferenceArguments d = {};
    d.log_prob = (double *)numbers, d.upstream = (double *)numbers + 2 * batch, d.stride = d.upstream_stride = 1;
    d.shape = k.shape, d.workspace = k.workspace, d.numbers[0] = k.numbers[0];
    auto time = [&](const char *kernel, double moved, void *arguments, auto set) {
        const std::string name = kernel;
        void *f = function("chunkgrpo_" + name.substr(0, name.find(',')) + "_" + types);
        const double us = microseconds([&](int i) {
            set(i % sets);
            const unsigned blocks = name == "gradient" ? chunkgrpo_cuda_blocks(elements) : grid;
            start(f, arguments, blocks, (unsigned)batch, 1);
        });
        printf("%-28s %-20s %-9s sets %2d %7.2f us %6.0f GB/s\n", folder.c_str(), kernel, types, sets, us,
               moved * (double)count / us / 1e3);
    };
    auto step = [&](int i) { k.x = rows(x[i]), k.v = velocities(v[i]), k.next = rows(next[i]); };
    auto difference = [&](int i) {
        d.x = rows(x[i]), d.v = velocities(v[i]), d.next = rows(next[i]), d.gradient = velocities(gradient[i]);
    };
    const double three = 2.0 * (double)size + (double)velocity_size;
    time("step", three, &k, step);
    k.relative_l1 = (double *)numbers + batch;
    time("step_change", three, &k, step);
    k.relative_l1 = nullptr;
    time("step_any", three, &k, step);
    k.y.base = v[0], k.y.batch_stride = elements * (int64_t)velocity_size, k.numbers[0].p = real(0.2);
    time("step_any, guided", three + (double)velocity_size, &k, step);
    time("difference", three, &d, difference);
    time("difference_gradient", three + (double)velocity_size, &d, difference);
    time("gradient", three + (double)velocity_size, &d, difference);
    chunkgrpo_cuda_DistanceArguments g = {};
    g.upstream = d.upstream, g.distance = (double *)numbers, g.shape = k.shape, g.workspace = k.workspace;
    g.noise = k.noise, g.numbers[0] = k.numbers[0];
    auto distance = [&](int i) {
        g.x = rows(x[i]), g.v = velocities(v[i]), g.w = velocities(next[i]), g.next = rows(next[i]), g.gradient = velocities(gradient[i]);
    };
    if (size == velocity_size) time("distance", 3.0 * (double)size, &g, distance);
    time("mean_distance", three + (double)velocity_size, &g, distance);
    chunkgrpo_cuda_ForwardArguments w = {};
    w.to.distance = (double *)numbers, w.to.absolute = (double *)numbers + batch, w.upstream.distance = d.upstream;
    w.shape = k.shape, w.workspace = k.workspace, w.noise = k.noise;
    time("forward", (double)size + 2.0 * (double)velocity_size, &w, [&](int i) {
        w.clean = rows(x[i]), w.v = velocities(v[i]), w.gradient = velocities(gradient[i]);
    });
    const double us = microseconds([&](int i) {
        CUDA(cuMemcpyDtoDAsync_v2((unsigned long long)next[i % sets], (unsigned long long)x[i % sets], count * size,
                                  nullptr));
    });
    printf("%-28s %-20s %-9s sets %2d %7.2f us %6.0f GB/s\n", "", "copy", types, sets, us,
           2 * (double)size * (double)count / us / 1e3);
    fflush(stdout);
}

int compare_all(const char *name, bool first_pair_alone);

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "device PTX-FOLDER ...\n"), 2;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) return fprintf(stderr, "There is no CUDA driver: %s\n", dlerror()), 1;
#define X(name, arguments) *(void **)&name = dlsym(driver, #name);
    DRIVER(X)
#undef X
    CUDA(cuInit(0));
    int device;
    void *context;
    CUDA(cuDeviceGet(&device, 0));
    CUDA(cuDevicePrimaryCtxRetain(&context, device));
    CUDA(cuCtxPushCurrent_v2(context));
    char name[256];
    CUDA(cuDeviceGetName(name, sizeof name, device));
    printf("%s\n", name);
    unsigned long long p;
    CUDA(cuMemAllocManaged(&p, pool_size, 1));
    pool = (char *)p;
    folder = argv[1];
    const int wrong = compare_all("device", false);
    fflush(stdout);
    for (int i = 1; i < argc; i++) {
        folder = argv[i];
        times("f32_f32", 4, 4, 1);
        times("f32_f32", 4, 4, 8);
        times("bf16_bf16", 2, 2, 8);
        times("f32_bf16", 4, 2, 8);
    }
    return wrong;
}
