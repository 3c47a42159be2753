/* Arrays for the tests: tensors over plain memory, the four element types, and numbers that are the same everywhere. */
#ifndef ARRAYS_H
#define ARRAYS_H

#include "check.h"

#include <stdint.h>

/* A tensor that carries its own shape and memory; kept to the end, unless it is freed. */
typedef struct array {
    cgrpo_tensor tensor;
    int64_t shape[4];
    int64_t strides[4];
    int64_t count;
} array;

static inline int64_t element_size(cgrpo_type type) {
    return type == CGRPO_TYPE_F64 ? 8 : type == CGRPO_TYPE_F32 ? 4 : 2;
}

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline double f16_value(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double size = exponent == 0    ? ldexp(mantissa, -24)
                  : exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                                   : ldexp(1024 + mantissa, exponent - 25);
    return bits >> 15 ? -size : size;
}

/* Half-precision neighbour of a number that does not overflow, ties to even. */
static inline uint16_t f16_bits(double value) {
    int exponent;
    double mantissa = frexp(fabs(value), &exponent); /* in [1/2, 1) */
    long rounded = lrint(ldexp(mantissa, 11));       /* 1024 ... 2048; lrint rounds ties to even */
    uint16_t sign = value < 0 ? 0x8000 : 0;
    if (value == 0 || exponent < -13) return (uint16_t)(sign + lrint(ldexp(fabs(value), 24))); /* zero and subnormals */
    return (uint16_t)(sign + ((exponent + 13) << 10) + (rounded - 1024) + 0x400);
}

static inline uint16_t bf16_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline double get(const array *a, int64_t i) {
    switch (a->tensor.type) {
        case CGRPO_TYPE_F64: return ((double *)a->tensor.data)[i];
        case CGRPO_TYPE_F32: return ((float *)a->tensor.data)[i];
        case CGRPO_TYPE_BF16: return float_of_bits((uint32_t)((uint16_t *)a->tensor.data)[i] << 16);
        default: return f16_value(((uint16_t *)a->tensor.data)[i]);
    }
}

static inline void set(array *a, int64_t i, double value) {
    switch (a->tensor.type) {
        case CGRPO_TYPE_F64: ((double *)a->tensor.data)[i] = value; break;
        case CGRPO_TYPE_F32: ((float *)a->tensor.data)[i] = (float)value; break;
        case CGRPO_TYPE_BF16: ((uint16_t *)a->tensor.data)[i] = bf16_bits((float)value); break;
        default: ((uint16_t *)a->tensor.data)[i] = f16_bits(value); break;
    }
}

static inline void array_free(array *a) {
    free(a->tensor.data);
    free(a);
}

/* An array of zeros with up to three sizes; a size of 0 ends the shape. */
static inline array *array_new(cgrpo_type type, int64_t s0, int64_t s1, int64_t s2) {
    array *a = (array *)calloc(1, sizeof *a);
    int64_t sizes[3];
    sizes[0] = s0, sizes[1] = s1, sizes[2] = s2;
    a->count = 1;
    while (a->tensor.ndim < 3 && sizes[a->tensor.ndim] > 0) {
        a->count *= a->shape[a->tensor.ndim] = sizes[a->tensor.ndim];
        a->tensor.ndim++;
    }
    a->tensor.data = calloc((size_t)a->count, (size_t)element_size(type));
    a->tensor.shape = a->shape;
    a->tensor.type = type;
    return a;
}

/* Numbers in (-1, 1) that depend on nothing but `seed` and their index. */
static inline double scattered(uint64_t seed, uint64_t i) {
    uint64_t z = (seed * 0x9e3779b97f4a7c15u) ^ (i + 1) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 4503599627370496.0 - 1;
}

static inline array *array_filled(cgrpo_type type, int64_t s0, int64_t s1, int64_t s2, uint64_t seed) {
    array *a = array_new(type, s0, s1, s2);
    for (int64_t i = 0; i < a->count; i++) set(a, i, scattered(seed, (uint64_t)i));
    return a;
}

static inline array *array_copy(const array *from) {
    array *a = array_new(from->tensor.type, from->shape[0], from->shape[1], from->shape[2]);
    memcpy(a->tensor.data, from->tensor.data, (size_t)(a->count * element_size(from->tensor.type)));
    return a;
}

/* Rows first ... first + count - 1 of an array, in place. */
static inline array *array_rows(const array *from, int64_t first, int64_t count) {
    array *a = (array *)malloc(sizeof *a);
    int64_t row = from->count / from->shape[0];
    *a = *from;
    a->tensor.shape = a->shape;
    a->shape[0] = count;
    a->count = row * count;
    a->tensor.data = (char *)from->tensor.data + first * row * element_size(from->tensor.type);
    return a;
}

/* from[:, index] of a three-dimensional array, in place: rows that are not neighbours. */
static inline array *array_column(const array *from, int64_t index) {
    array *a = (array *)malloc(sizeof *a);
    *a = *from;
    a->shape[1] = from->shape[2], a->shape[2] = 0;
    a->strides[0] = from->shape[1] * from->shape[2], a->strides[1] = 1;
    a->tensor.ndim = 2;
    a->tensor.shape = a->shape;
    a->tensor.strides = a->strides;
    a->tensor.data = (char *)from->tensor.data + index * from->shape[2] * element_size(from->tensor.type);
    a->count = 0; /* get and set do not know strides */
    return a;
}

/* The same numbers in another type, rounded to nearest. */
static inline array *array_as(cgrpo_type type, const array *from) {
    array *a = array_new(type, from->shape[0], from->shape[1], from->shape[2]);
    for (int64_t i = 0; i < a->count; i++) set(a, i, get(from, i));
    return a;
}

static inline int same_bits(const array *left, const array *right) {
    return left->count == right->count &&
           memcmp(left->tensor.data, right->tensor.data, (size_t)(left->count * element_size(left->tensor.type))) == 0;
}

/* A sampler over the shifted schedule (shift 3) of `steps` steps. */
static inline cgrpo_sampler *sampler_new(int64_t steps, cgrpo_dynamics dynamics, double eta, int32_t threads) {
    double *sigmas = (double *)malloc((size_t)(steps + 1) * sizeof *sigmas);
    cgrpo_sampler_options options;
    cgrpo_sampler *sampler = NULL;
    cgrpo_sampler_options_init(&options, sizeof options);
    options.dynamics = dynamics;
    options.eta = eta;
    options.threads = threads;
    CHECK_OK(shifted_schedule(steps, 3, sigmas));
    CHECK_OK(cgrpo_sampler_create(sigmas, steps + 1, &options, &sampler));
    free(sigmas);
    return sampler;
}

#endif
