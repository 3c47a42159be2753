// The comparisons of kernels.cpp on a device. It takes the driver alone: device PTX-FOLDER
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

bool run_kernel(const std::string &name, const void *arguments, unsigned x, unsigned y, unsigned z) {
    void *f = function(name);
    if (!f) return false;
    void *parameters[] = {(void *)arguments};
    CUDA(cuLaunchKernel(f, x, y, z, CHUNKGRPO_CUDA_THREADS, 1, 1, 0, nullptr, parameters, nullptr));
    CUDA(cuCtxSynchronize());
    return true;
}

int compare_all(const char *name, bool first_pair_alone);

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "device PTX-FOLDER\n"), 2;
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
    return compare_all("device", false);
}
