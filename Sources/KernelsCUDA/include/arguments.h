#ifndef CHUNKGRPO_CUDA_ARGUMENTS_H
#define CHUNKGRPO_CUDA_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The kernels for CUDA and their arguments: one struct a kernel, which the host fills and cuLaunchKernel copies. The
   same text is compiled by Swift's C compiler and by the kernels' one.

   A kernel's name is chunkgrpo_NAME_LATENTS_VELOCITY, with types f32, f64, bf16, f16: both the same, or f32 latents
   with a velocity (also the unconditional one, and gradients of them) of bf16 or f16. Everything else has the latents'
   type. Names and their arguments:

   - step, step_change (with the relative L1), StepArguments: the library's noise, s != 0, first_element a multiple of
     64, no p y + q z, no `times`, one set of numbers for all, no seed_at.
   - step_any, StepArguments: any of them.
   - difference, difference_gradient, DifferenceArguments: no p y + q z; step t of the launch has numbers[t].
   - gradient, DifferenceArguments: the same without log-probabilities; it takes no sums.
   - difference_any, DifferenceArguments: any of them, one step.
   - distance, DistanceArguments: both types of the name are the velocities'. mean_distance, DistanceArguments.
   - forward (without other velocities) and forward_extras, ForwardArguments.
   - change, ChangeArguments; normal, NormalArguments: both types of the name are the latents'.

   Launch: grid (chunkgrpo_cuda_grid(elements, size of a latent's element), samples, steps), of `gradient`
   (chunkgrpo_cuda_blocks(elements), samples, steps); CHUNKGRPO_CUDA_THREADS threads, no dynamic shared memory. A launch
   takes what its arrays have room for: more samples with numbers or ids of their own, or more steps, are split, with
   every pointer advanced. Numbers and ids that are not used need not be filled. */

#ifdef __cplusplus
#define CHUNKGRPO_CUDA_STRUCT(name) struct chunkgrpo_cuda_##name
#else
#define CHUNKGRPO_CUDA_STRUCT(name) struct __attribute__((swift_name("CUDA" #name))) chunkgrpo_cuda_##name
#endif

/* scripts/build-ptx tries other numbers. */
#ifndef CHUNKGRPO_CUDA_NUMBERS
#define CHUNKGRPO_CUDA_NUMBERS 32
#endif

enum {
    CHUNKGRPO_CUDA_THREADS = 256,
    CHUNKGRPO_CUDA_SAMPLES =
        CHUNKGRPO_CUDA_NUMBERS, /* with numbers or ids of their own, and steps of a trajectory, in a launch */
    CHUNKGRPO_CUDA_SUMS = 11    /* that a kernel adds up at most */
};

/* In the type that the kernel computes in: f64 for latents of f64, else f32. */
typedef union chunkgrpo_cuda_real {
    float f32;
    double f64;
} chunkgrpo_cuda_real;

/* Rows of latents, velocities or noise: that of sample i at step t begins i batch_stride + t step_stride bytes from the
 * base. */
CHUNKGRPO_CUDA_STRUCT(Rows) {
    void *base;
    int64_t batch_stride, step_stride;
};

/* A sample's elements here; which of all its elements the first is; how many the means are over. */
CHUNKGRPO_CUDA_STRUCT(Shape) {
    int64_t elements, first_element;
    double total;
    uint32_t first_sample; /* of the batch: for ids that are not given, and the status word */
};

/* Where sums are kept on the way. chunkgrpo_cuda_workspace_bytes() of them, zero at first and again after each kernel:
   a third for `arrived`, and then `partial`. Without a workspace (null) nothing is added up and no number written. */
CHUNKGRPO_CUDA_STRUCT(Workspace) {
    uint32_t *arrived; /* (steps, samples) */
    double *partial;   /* (sums, steps, samples, blocks of 1,024) */
    uint64_t *status;  /* null, or set to place << 32 | sample + 1 where it is 0 and something is not finite */
};

/* What one sample's kernel computes with. A result is constant + factor sum(d^2)/total. What most kernels read comes
   first, here and in the structs below: each line of constants that is touched is waited for. */
CHUNKGRPO_CUDA_STRUCT(Numbers) {
    chunkgrpo_cuda_real a, b; /* next = a x + b v + p y + q z + s noise */
    double slope;             /* a gradient is (slope upstream) d, its first factor rounded to the type computed in */
    double factor, constant;
    uint32_t step;  /* of the noise */
    uint32_t place; /* for the status word */
    chunkgrpo_cuda_real s, p, q;
    double unconditional; /* slope for the unconditional velocity */
};

/* kind: no noise, which counts as zeros; given rows, of the step numbers.step; the library's. */
enum { CHUNKGRPO_CUDA_NO_NOISE = 0, CHUNKGRPO_CUDA_GIVEN = 1, CHUNKGRPO_CUDA_LIBRARY = 2 };
CHUNKGRPO_CUDA_STRUCT(Noise) {
    uint32_t kind;
    uint32_t has_ids; /* else sample i has the id first_sample + i */
    struct chunkgrpo_cuda_Rows given;
    const uint64_t *seed_at; /* null, or in device memory, instead of the seed that the keys are of */
    const uint64_t *ids_at;  /* null, or in device memory, instead of ids */
    uint32_t keys[20];       /* chunkgrpo_cuda_seed() */
    uint64_t ids[CHUNKGRPO_CUDA_SAMPLES];
};

/* Philox's two keys of each of its ten rounds. */
static inline void chunkgrpo_cuda_seed(struct chunkgrpo_cuda_Noise *noise, uint64_t seed) {
    for (uint32_t round = 0; round < 10; round++) {
        noise->keys[2 * round] = (uint32_t)seed + round * 0x9E3779B9u;
        noise->keys[2 * round + 1] = (uint32_t)(seed >> 32) + round * 0xBB67AE85u;
    }
}

/* next = m + s noise with m = a x + b v + p y + q z. Its sums are of (next - m)^2 as stored, and for the relative L1 of
   |next - x| and |x|. A predicted image is a step with a = 1, b = -sigma w, p = -sigma (1 - w), s = 0 and no noise;
   noised latents are one with v = x and `times`. */
CHUNKGRPO_CUDA_STRUCT(StepArguments) {
    struct chunkgrpo_cuda_Rows x, v, next;
    struct chunkgrpo_cuda_Shape shape;
    struct chunkgrpo_cuda_Workspace workspace;
    double *log_prob, *relative_l1; /* null, or that of sample i at [i stride] */
    int64_t stride;
    struct chunkgrpo_cuda_Noise noise;
    uint32_t each; /* whether sample i has numbers[i], or all have the first */
    struct chunkgrpo_cuda_Numbers numbers[CHUNKGRPO_CUDA_SAMPLES];
    struct chunkgrpo_cuda_Rows y, z; /* unconditional velocity and previous image; base null: without */
    const double *times;             /* null, or t of each sample: a = 1 - t, b = 0, s = t */
};

/* d = next - m, and where wanted the gradients of v and y. q z is not added where q = 0. */
CHUNKGRPO_CUDA_STRUCT(DifferenceArguments) {
    struct chunkgrpo_cuda_Rows x, v, next;
    struct chunkgrpo_cuda_Rows gradient; /* base null: without */
    struct chunkgrpo_cuda_Shape shape;
    const double *upstream; /* of sample i at step t at [i upstream_stride + t]; null: `gradient` is d */
    int64_t upstream_stride;
    struct chunkgrpo_cuda_Workspace workspace;
    double *log_prob; /* null, or that of sample i at step t at [i stride + t] */
    int64_t stride;
    uint32_t idle_zeros; /* gradient: where upstream is 0 for all samples of the launch, it is +0 */
    uint32_t each;
    struct chunkgrpo_cuda_Numbers numbers[CHUNKGRPO_CUDA_SAMPLES];
    struct chunkgrpo_cuda_Rows y, z, unconditional; /* base null: without */
};

/* distance: d = v - w of velocities. mean_distance: d = m - (next - s noise) with m = a x + b v. */
CHUNKGRPO_CUDA_STRUCT(DistanceArguments) {
    struct chunkgrpo_cuda_Rows v, w; /* w of `distance` alone */
    struct chunkgrpo_cuda_Rows x, next;
    struct chunkgrpo_cuda_Rows gradient;
    const double *upstream; /* (samples) */
    double *distance;       /* (samples) or null */
    struct chunkgrpo_cuda_Shape shape;
    struct chunkgrpo_cuda_Workspace workspace;
    struct chunkgrpo_cuda_Noise noise;
    uint32_t each;
    struct chunkgrpo_cuda_Numbers numbers[CHUNKGRPO_CUDA_SAMPLES];
};

/* Numbers of each sample, or null. */
CHUNKGRPO_CUDA_STRUCT(ForwardDistances) {
    double *distance, *absolute, *old_distance, *old_absolute, *reference_distance;
    double *positive_distance, *positive_absolute, *negative_distance, *negative_absolute;
    double *old_divergence, *reference_divergence;
};
CHUNKGRPO_CUDA_STRUCT(ForwardUpstream) {
    const double *distance, *positive_distance, *negative_distance, *old_divergence, *reference_divergence;
};

/* d = v - u with u = noise - clean, and distances of other velocities from u and from v: what has a place to go to.
   Those of the mixtures where beta != 0. The gradient is that of all with an upstream. */
CHUNKGRPO_CUDA_STRUCT(ForwardArguments) {
    struct chunkgrpo_cuda_Rows clean, v;
    struct chunkgrpo_cuda_Rows old, reference; /* base null: without */
    struct chunkgrpo_cuda_Rows gradient;
    double beta;
    struct chunkgrpo_cuda_ForwardDistances to;
    struct chunkgrpo_cuda_ForwardUpstream upstream;
    struct chunkgrpo_cuda_Shape shape;
    struct chunkgrpo_cuda_Workspace workspace;
    struct chunkgrpo_cuda_Noise noise;
    uint32_t step;  /* of the noise */
    uint32_t place; /* for the status word */
};

/* Relative L1 of x at each step t to x at t + 1. */
CHUNKGRPO_CUDA_STRUCT(ChangeArguments) {
    struct chunkgrpo_cuda_Rows x;
    double *relative_l1; /* of sample i at step t at [i stride + t] */
    int64_t stride;
    struct chunkgrpo_cuda_Shape shape;
    struct chunkgrpo_cuda_Workspace workspace;
    uint32_t place; /* of the first step */
};

/* The library's normals into x. */
CHUNKGRPO_CUDA_STRUCT(NormalArguments) {
    struct chunkgrpo_cuda_Rows x;
    struct chunkgrpo_cuda_Shape shape;
    struct chunkgrpo_cuda_Noise noise;
    uint32_t step;
};

/* Blocks of the grid for a sample's elements, of so many bytes each. */
static inline uint32_t chunkgrpo_cuda_grid(int64_t elements, size_t size) {
    int64_t each = size == 8 ? 1024 : 2048;
    return (uint32_t)((elements + each - 1) / each);
}

/* That of `gradient`. */
static inline uint32_t chunkgrpo_cuda_blocks(int64_t elements) { return (uint32_t)((elements + 1023) / 1024); }

/* Enough for any kernel on such latents; overflow is the caller's to rule out. */
static inline size_t chunkgrpo_cuda_partial_count(int64_t samples, int64_t elements, int64_t steps) {
    int64_t sums = steps > CHUNKGRPO_CUDA_SUMS ? steps : CHUNKGRPO_CUDA_SUMS;
    return (size_t)(samples * sums) * (size_t)((elements + 1023) / 1024);
}

static inline size_t chunkgrpo_cuda_workspace_bytes(int64_t samples, int64_t elements, int64_t steps) {
    return 12 * chunkgrpo_cuda_partial_count(samples, elements, steps) + 48;
}

/* How a workspace of so many bytes, on a 16-byte boundary, is divided. */
static inline void chunkgrpo_cuda_divide(struct chunkgrpo_cuda_Workspace *to, void *workspace, size_t bytes) {
    to->arrived = (uint32_t *)workspace;
    to->partial = (double *)((char *)workspace + ((bytes / 3 + 15) & ~(size_t)15));
}

/* The text of the kernels of one pair of types, PTX 7.0 for compute capability 7.5 and later, packed. */
CHUNKGRPO_CUDA_STRUCT(Text) {
    const uint8_t *packed;
    size_t packed_size, size;
};

#ifdef __cplusplus
extern "C" {
#endif

/* Types by their names: "f32", ... False where there are no kernels for the pair. */
bool chunkgrpo_cuda_text(const char *latents, const char *velocity, struct chunkgrpo_cuda_Text *text);
/* Writes size + 1 bytes, the last of them a zero. False where the packed ones are damaged. */
bool chunkgrpo_cuda_unpack(const struct chunkgrpo_cuda_Text *text, char *to);

#ifdef __cplusplus
}
#endif

#endif
