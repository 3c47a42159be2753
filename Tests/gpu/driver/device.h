/* Arrays of tests on a CUDA device, through the driver that is found. */
#ifndef DEVICE_H
#define DEVICE_H

#include "arrays.h"

#include <dlfcn.h>

typedef unsigned long long address;

static void *driver;
static int (*primary)(void **, int), (*push)(void *), (*pop)(void **), (*allocate)(address *, size_t);
static int (*copy_up)(address, const void *, size_t), (*copy_down)(void *, address, size_t);
static int (*create_stream)(void **, unsigned), (*begin_capture)(void *, int), (*end_capture)(void *, void **);
static int (*replay)(void *, void *), (*counted)(int), (*pending)(void *), (*depth)(void), (*wait_for)(void *);
enum { LAUNCHES, WAITS, ALLOCATIONS, FORBIDDEN };

static void find(const char *name, void *function) {
    void *found = dlsym(driver, name);
    if (found == NULL) printf("the driver has no %s\n", name), exit(2);
    memcpy(function, &found, sizeof found);
}

static int open_driver(void) {
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == NULL) return 0;
    find("cuDevicePrimaryCtxRetain", &primary), find("cuCtxPushCurrent_v2", &push), find("cuCtxPopCurrent_v2", &pop);
    find("cuMemAlloc_v2", &allocate), find("cuMemcpyHtoD_v2", &copy_up), find("cuMemcpyDtoH_v2", &copy_down);
    find("cuStreamCreate", &create_stream), find("cuStreamBeginCapture_v2", &begin_capture);
    find("cuStreamEndCapture", &end_capture), find("fake_graph_launch", &replay), find("fake_count", &counted);
    find("fake_pending", &pending), find("fake_depth", &depth), find("cuStreamSynchronize", &wait_for);
    return 1;
}

/* The device that what follows is for. */
static void *context;
static void use(int device) {
    void *old;
    if (context != NULL) pop(&old);
    primary(&context, device), push(context);
}

static void *device_memory(size_t size, const void *from) {
    address at = 0;
    void *zeros = calloc(size, 1);
    if (allocate(&at, size) || copy_up(at, from == NULL ? zeros : from, size)) printf("no device memory\n"), exit(2);
    free(zeros);
    return (void *)(uintptr_t)at;
}

static size_t bytes_of(const array *a) { return (size_t)(a->count * element_size(a->tensor.type)); }

/* The array's copy on the device. */
static cgrpo_tensor device_tensor(const array *a, const cgrpo_cuda *cuda) {
    cgrpo_tensor tensor = a->tensor;
    tensor.data = device_memory(bytes_of(a), a->tensor.data);
    tensor.device = CGRPO_DEVICE_CUDA;
    tensor.cuda = cuda;
    return tensor;
}

static int same_there(const void *there, const void *here, size_t size) {
    void *copy = malloc(size);
    int failed = copy_down(copy, (address)(uintptr_t)there, size);
    int same = !failed && memcmp(copy, here, size) == 0;
    free(copy);
    return same;
}

/* Room for numbers that no result has, so that what is not written shows. */
static double *device_numbers(int64_t count, const double *from) {
    double *bad = (double *)malloc((size_t)count * sizeof *bad);
    for (int64_t i = 0; i < count; i++) bad[i] = from == NULL ? -12345 : from[i];
    double *there = (double *)device_memory((size_t)count * sizeof *bad, bad);
    free(bad);
    return there;
}

/* A queue with a workspace and a status word. */
static cgrpo_cuda queue_for(int64_t batch, int64_t elements, int64_t steps, void *stream) {
    cgrpo_cuda cuda;
    size_t size = 0;
    cgrpo_cuda_init(&cuda, sizeof cuda);
    CHECK_OK(cgrpo_cuda_workspace(batch, elements, steps, &size));
    cuda.stream = stream;
    cuda.workspace = device_memory(size, NULL);
    cuda.workspace_size = size;
    cuda.status = (uint64_t *)device_memory(8, NULL);
    return cuda;
}

static uint64_t status_of(const cgrpo_cuda *cuda) {
    uint64_t word = 0;
    copy_down(&word, (address)(uintptr_t)cuda->status, 8);
    return word;
}

#define SAME(there, here) CHECK(same_there((there).data, (here)->tensor.data, bytes_of(here)))
#define SAME_NUMBERS(there, here, count) CHECK(same_there(there, here, (size_t)(count) * sizeof(double)))
#define FINITE(cuda) CHECK(status_of(cuda) == 0)

#endif
