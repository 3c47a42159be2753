/*
 * A rollout and a gradient on a CUDA device, without CUDA's headers: this program needs a driver alone. It makes both
 * on the CPU too and compares the bits.
 *
 *     make lib && make -C examples/c && build/examples/cuda
 */
#include <chunkgrpo.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 4, T = 8, D = 4096, S = T - 1 };

typedef unsigned long long device_address;

/* The functions of the driver that this program calls: look them up in your program as you do elsewhere. */
static struct {
    int (*init)(unsigned), (*device_get)(int *, int), (*primary_context)(void **, int), (*set_context)(void *);
    int (*allocate)(device_address *, size_t), (*synchronize)(void);
    int (*up)(device_address, const void *, size_t), (*down)(void *, device_address, size_t);
} cuda;

static void find(void *library, const char *name, void *function) {
    void *found = dlsym(library, name);
    if (found == NULL) printf("the driver has no %s\n", name), exit(1);
    memcpy(function, &found, sizeof found);
}

static void try_driver(int result) {
    if (result != 0) printf("the CUDA driver says %d\n", result), exit(1);
}

static void try_library(cgrpo_status status) {
    if (status != CGRPO_OK) printf("%s\n", cgrpo_last_error()), exit(1);
}

static int open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context;
    int device;
    if (library == NULL) return 0;
    find(library, "cuInit", &cuda.init), find(library, "cuDeviceGet", &cuda.device_get);
    find(library, "cuDevicePrimaryCtxRetain", &cuda.primary_context);
    find(library, "cuCtxPushCurrent_v2", &cuda.set_context), find(library, "cuCtxSynchronize", &cuda.synchronize);
    find(library, "cuMemAlloc_v2", &cuda.allocate);
    find(library, "cuMemcpyHtoD_v2", &cuda.up), find(library, "cuMemcpyDtoH_v2", &cuda.down);
    try_driver(cuda.init(0)), try_driver(cuda.device_get(&device, 0));
    try_driver(cuda.primary_context(&context, device)), try_driver(cuda.set_context(context));
    return 1;
}

static void *on_device(size_t size, const void *from) {
    device_address at;
    try_driver(cuda.allocate(&at, size));
    void *zeros = calloc(size, 1);
    try_driver(cuda.up(at, from != NULL ? from : zeros, size));
    free(zeros);
    return (void *)(uintptr_t)at;
}

/* The model's place: here v = x - sigma x, by a function that takes tensors of either. Yours runs its network on the
 * queue's stream. */
static int velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *x, const cgrpo_tensor *v) {
    (void)sigma;
    return cgrpo_predicted_image((const cgrpo_sampler *)user, step, x, x, NULL, v) != CGRPO_OK;
}

/* Takes a rollout of all steps, then the gradient of the log-probability of step 2 in the velocity. The arrays are all
 * of the CPU's memory, or all of the device's. */
static void run(cgrpo_sampler *sampler, cgrpo_tensor latents, double *log_probs, const double *upstream, void *v,
                void *dv) {
    const int64_t shape[] = {B, D}, strides[] = {(T + 1) * D, 1};
    cgrpo_trajectory trajectory;
    cgrpo_noise noise;
    cgrpo_trajectory_init(&trajectory, sizeof trajectory);
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = 7;
    trajectory.latents = latents;
    trajectory.log_probs = log_probs;

    cgrpo_tensor x = latents; /* latents[:, 0] */
    x.shape = shape, x.strides = strides, x.ndim = 2;
    try_library(cgrpo_normal(noise.seed, NULL, CGRPO_INITIAL_NOISE, 1, &x));
    try_library(cgrpo_rollout(sampler, &trajectory, T, &noise, velocity, sampler));

    cgrpo_tensor next, at_v, gradient;
    x.data = (float *)latents.data + 2 * D;
    next = x, next.data = (float *)latents.data + 3 * D;
    at_v = x, at_v.strides = NULL, at_v.data = v;
    gradient = at_v, gradient.data = dv;
    try_library(velocity(sampler, 2, 0, &x, &at_v) ? CGRPO_CALLBACK_FAILED : CGRPO_OK);
    try_library(cgrpo_log_prob_vjp(sampler, 2, &x, &at_v, NULL, &next, upstream, &gradient, NULL, NULL));
}

int main(void) {
    static float x[B * (T + 1) * D], v[B * D], dv[B * D], back[B * (T + 1) * D];
    static double log_probs[B * S], back_log_probs[B * S];
    const double upstream[B] = {1, -0.5, 0.25, 2};
    const int64_t shape[] = {B, T + 1, D};
    double sigmas[T + 1];
    cgrpo_schedule_options schedule;
    cgrpo_schedule_options_init(&schedule, sizeof schedule);
    schedule.shift = 3;
    try_library(cgrpo_schedule_make(T, &schedule, sigmas));
    cgrpo_sampler *sampler;
    try_library(cgrpo_sampler_create(sigmas, T + 1, NULL, &sampler));
    cgrpo_tensor latents = {.data = x, .shape = shape, .ndim = 3, .type = CGRPO_TYPE_F32};
    run(sampler, latents, log_probs, upstream, v, dv);

    if (!open_driver()) {
        cgrpo_cuda_prepare(0);
        printf("nothing to compare: %s\n", cgrpo_last_error());
        return 0;
    }
    /* The queue: a stream (here the default one), and memory for the sums on the way. */
    cgrpo_cuda queue;
    cgrpo_cuda_init(&queue, sizeof queue);
    try_library(cgrpo_cuda_workspace(B, D, 1, &queue.workspace_size));
    queue.workspace = on_device(queue.workspace_size, NULL);
    queue.status = (uint64_t *)on_device(sizeof *queue.status, NULL);
    latents.device = CGRPO_DEVICE_CUDA;
    latents.cuda = &queue;
    latents.data = on_device(sizeof x, NULL);
    double *device_log_probs = (double *)on_device(sizeof log_probs, NULL);
    void *device_dv = on_device(sizeof dv, NULL);
    run(sampler, latents, device_log_probs, (const double *)on_device(sizeof upstream, upstream),
        on_device(sizeof v, NULL), device_dv);

    /* Nothing has waited so far. */
    uint64_t status;
    try_driver(cuda.synchronize());
    try_driver(cuda.down(&status, (device_address)(uintptr_t)queue.status, sizeof status));
    try_library(cgrpo_cuda_status(status));
    try_driver(cuda.down(back, (device_address)(uintptr_t)latents.data, sizeof back));
    try_driver(cuda.down(back_log_probs, (device_address)(uintptr_t)device_log_probs, sizeof back_log_probs));
    int same = memcmp(back, x, sizeof x) == 0 && memcmp(back_log_probs, log_probs, sizeof log_probs) == 0;
    printf("rollout of %d steps: %s as on the CPU\n", T, same ? "the same bits" : "OTHER BITS than");
    try_driver(cuda.down(back, (device_address)(uintptr_t)device_dv, sizeof dv));
    int same_gradient = memcmp(back, dv, sizeof dv) == 0;
    printf("gradient of step 2: %s as on the CPU\n", same_gradient ? "the same bits" : "OTHER BITS than");
    cgrpo_sampler_destroy(sampler);
    return !(same && same_gradient);
}
