#ifndef CHUNKGRPO_KERNEL_TABLE_H
#define CHUNKGRPO_KERNEL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The arguments of the kernels, by name. In C, because Swift gives a struct of C's an initialiser with every field's
   name in every module, and one of its own only where it is repeated by hand. Latents (x, next, z, clean) are in one
   type; velocities (v, w, y, the old and the reference one) and gradients in the same, or in bf16 or f16 beside f32
   latents; extra, u and noise in the compute type: double for f64, else float. Those three have room for a whole block
   and lie in the order of the kernels, with zeros to the end of the last sixteen; the caller's noise, in the compute
   type, ends with the block. */

#define CHUNKGRPO_STRUCT(name) struct __attribute__((swift_name(#name))) chunkgrpo_##name
typedef const void *_Nonnull chunkgrpo_in;
typedef void *_Nonnull chunkgrpo_out;

/* One block's share of the sums of a log-probability and of a relative L1 change. */
CHUNKGRPO_STRUCT(BlockSums) {
    double squares;   /* sum of d^2, of the kernel's difference d: x' - m for a step */
    double change;    /* sum of |x' - x| */
    double magnitude; /* sum of |x|; in the forward process of |d| */
};

/* Which of the library's normals: those of a sample and step from element `first` on, a multiple of a block. */
CHUNKGRPO_STRUCT(Draw) {
    uint64_t seed, sampleID;
    uint32_t step;
    ptrdiff_t first;
    chunkgrpo_out scratch; /* room for the generator's constants, twenty vectors, on a 64-byte boundary */
};

/* extra = p y + q z, or one of the two */
CHUNKGRPO_STRUCT(CombineArguments) {
    double p;
    const void *_Nullable y;
    double q;
    const void *_Nullable z;
    chunkgrpo_out extra;
    ptrdiff_t count;
};

/* next = m + s noise with m = a x + b v + extra */
CHUNKGRPO_STRUCT(StepArguments) {
    double a, b, s;
    chunkgrpo_in x, v;
    const void *_Nullable extra;
    chunkgrpo_in noise;
    chunkgrpo_out next;
    bool change; /* sums of x' - x and x are wanted */
    ptrdiff_t count;
};

/* The same with the library's noise, which stays in registers, and no extra; a multiple of 32 elements. */
CHUNKGRPO_STRUCT(NoisyStepArguments) {
    double a, b, s;
    chunkgrpo_in x, v;
    struct chunkgrpo_Draw draw;
    chunkgrpo_out words; /* room for a block of them */
    chunkgrpo_out next;
    bool change;
    ptrdiff_t count;
};

/* d = next - m, and where wanted gradient = scale d */
CHUNKGRPO_STRUCT(DifferenceArguments) {
    double a, b;
    chunkgrpo_in x, v;
    const void *_Nullable extra;
    chunkgrpo_in next;
    double scale;
    void *_Nullable gradient;
    bool streams; /* past the caches where it can be */
    ptrdiff_t count;
};

/* d = v - w, and where wanted gradient = scale d */
CHUNKGRPO_STRUCT(DistanceArguments) {
    chunkgrpo_in v, w;
    double scale;
    void *_Nullable gradient;
    ptrdiff_t count;
};

/* d = m - (next - s noise), and where wanted gradient = scale d */
CHUNKGRPO_STRUCT(MeanDistanceArguments) {
    double a, b, s;
    chunkgrpo_in x, v, noise, next;
    double scale;
    void *_Nullable gradient;
    ptrdiff_t count;
};

/* d = v - u with u = noise - clean, and where wanted gradient = scale d; also the sum of |d|, as `magnitude` */
CHUNKGRPO_STRUCT(ForwardArguments) {
    chunkgrpo_in v, clean, noise;
    bool given; /* the noise is the caller's, in the type of the latents */
    double scale;
    void *_Nullable gradient;
    bool streams; /* past the caches where it can be */
    ptrdiff_t count;
};

/* u = noise - clean, in the compute type, with room for a whole block */
CHUNKGRPO_STRUCT(TargetArguments) {
    chunkgrpo_in clean, noise;
    chunkgrpo_out u;
    ptrdiff_t count;
};

/* d = p v + q w - u, or v - u where w is null; also the sum of |d|, as `magnitude` */
CHUNKGRPO_STRUCT(MixtureArguments) {
    double p;
    chunkgrpo_in v;
    double q;
    const void *_Nullable w;
    chunkgrpo_in u;
    ptrdiff_t count;
};

/* gradient = policy (v - u) + old (oldVelocity - u) + reference (v - referenceVelocity), without the terms that are
 * null */
CHUNKGRPO_STRUCT(ForwardGradientArguments) {
    double policy, old, reference;
    chunkgrpo_in v;
    const void *_Nullable oldVelocity, *_Nullable referenceVelocity;
    chunkgrpo_in u;
    chunkgrpo_out gradient;
    ptrdiff_t count;
};

/* C = A B + bias, or C += A B + bias, for row-major B (k, n), C (m, n) and bias (n) or null; A(i, j) lies at
   i rowStride + j columnStride. n is a multiple of productColumns. */
CHUNKGRPO_STRUCT(ProductArguments) {
    ptrdiff_t m, n, k;
    chunkgrpo_in a;
    ptrdiff_t rowStride, columnStride;
    chunkgrpo_in b;
    bool packed;           /* B's first `panel` columns are a matrix of their own, then the next */
    chunkgrpo_out scratch; /* room for 4,096 numbers; only for what is not packed */
    const void *_Nullable bias;
    chunkgrpo_out c;
    bool adding;
};

/* Rows of the modulation table that the rows of a batch share. */
CHUNKGRPO_STRUCT(ModulationTable) {
    chunkgrpo_out base;
    ptrdiff_t stride;                 /* elements per row of the table */
    const int32_t *_Nonnull contexts; /* which row of the table each row of the batch has */
};

/* y = n (1 + scale) + shift with n = (x - mean) rstd: layer norm without weights of its own, epsilon 1e-6, modulated by
   vectors that begin at `shift` and `scale` of a row of the table. */
CHUNKGRPO_STRUCT(NormArguments) {
    chunkgrpo_in x;
    ptrdiff_t rows, width;
    struct chunkgrpo_ModulationTable modulation;
    ptrdiff_t shift, scale;
    chunkgrpo_out y, mean, rstd;
};

/* dx += the gradient of x for dy; the gradients of shift and scale are added to gradModulation.
   With dn = dy (1 + scale): dx = rstd (dn - mean(dn) - n mean(dn n)). */
CHUNKGRPO_STRUCT(NormGradientArguments) {
    chunkgrpo_in dy, x, mean, rstd;
    ptrdiff_t rows, width;
    struct chunkgrpo_ModulationTable modulation, gradModulation;
    ptrdiff_t shift, scale;
    chunkgrpo_out dx;
};

/* y = x + gate z; y may be x. */
CHUNKGRPO_STRUCT(GateArguments) {
    chunkgrpo_in z, x;
    ptrdiff_t rows, width;
    struct chunkgrpo_ModulationTable modulation;
    ptrdiff_t gate;
    chunkgrpo_out y;
};

/* dz = dy gate; its sum over the rows is added to gradBias, and the gradient of gate to gradModulation. */
CHUNKGRPO_STRUCT(GateGradientArguments) {
    chunkgrpo_in dy, z;
    ptrdiff_t rows, width;
    struct chunkgrpo_ModulationTable modulation, gradModulation;
    ptrdiff_t gate;
    chunkgrpo_out dz, gradBias;
};

/* The numbers of one step of AdamW. */
CHUNKGRPO_STRUCT(AdamWFactors) {
    float keep;        /* 1 - lr weightDecay */
    float scale;       /* of the gradients */
    float rate;        /* lr / (1 - beta1^t) */
    float correction;  /* 1 / sqrt(1 - beta2^t) */
    float beta1, new1; /* beta1 and 1 - beta1 */
    float beta2, new2;
    float epsilon;
};

/* Parameters w and moments m, v after a step with gradients g, into newW, newM, newV, which may be w, m, v. */
CHUNKGRPO_STRUCT(AdamWArguments) {
    struct chunkgrpo_AdamWFactors factors;
    chunkgrpo_in g, w, m, v;
    chunkgrpo_out newW, newM, newV;
    ptrdiff_t count;
};

#endif
