// Latents in any type and layout, and comparisons of every bit.
#pragma once
#include "arguments.h"
#include "cta.h"
#include <chunkgrpo.h>
#include <cmath>

#define TRY(call)                                                                                \
    do {                                                                                         \
        if ((call) != CGRPO_OK) fprintf(stderr, "%s: %s\n", #call, cgrpo_last_error()), exit(2); \
    } while (0)

// Runs a kernel to its end: on the CPU (emulated.cpp) or on a device (device.cpp). False if there is none of that name.
bool run_kernel(const std::string &name, const void *arguments, unsigned x, unsigned y, unsigned z);

inline int comparisons = 0, differences = 0;

struct Layout {
    int64_t gap, offset; // elements between samples, and before the first one
};

inline const char *type_name(cgrpo_type type) {
    static const char *names[] = {"", "f32", "f64", "bf16", "f16"};
    return names[type];
}

inline size_t size_of(cgrpo_type type) { return type == CGRPO_TYPE_F64 ? 8 : type == CGRPO_TYPE_F32 ? 4 : 2; }

// To nearest, ties to even, by way of the next float below and above: not how the kernels do it.
inline uint16_t to_bf16(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    const uint32_t low = bits & 0xffff0000u, high = low + 0x10000u;
    float below, above;
    memcpy(&below, &low, 4);
    memcpy(&above, &high, 4);
    const double down = std::fabs((double)v - below), up = std::fabs((double)above - v);
    return (uint16_t)((down < up || (down == up && !(low & 0x10000u)) ? low : high) >> 16);
}

// (B, steps, D), the samples `gap` apart.
struct Array {
    cgrpo_type type;
    int64_t batch, steps, elements, stride, offset;
    std::vector<double> aligned; // on a 16-byte boundary
    int64_t shape[3], strides[3];

    Array(cgrpo_type type, int64_t batch, int64_t elements, Layout layout, int64_t steps = 1)
        : type(type), batch(batch), steps(steps), elements(elements), stride(steps * elements + layout.gap),
          offset(layout.offset), aligned((size_t)(batch * stride + offset) * size_of(type) / 8 + 4) {
        memset(aligned.data(), 0x5a, aligned.size() * 8);
    }

    char *bytes() { return (char *)(((uintptr_t)aligned.data() + 15) & ~(uintptr_t)15) + offset * size_of(type); }
    char *at(int64_t i) { return bytes() + i * size_of(type); }

    double get(int64_t i) {
        if (type == CGRPO_TYPE_F64) return *(double *)at(i);
        if (type == CGRPO_TYPE_F32) return *(float *)at(i);
        if (type == CGRPO_TYPE_F16) return (double)*(_Float16 *)at(i);
        const uint32_t bits = (uint32_t) * (uint16_t *)at(i) << 16;
        float v;
        memcpy(&v, &bits, 4);
        return v;
    }

    void set(int64_t i, double v) {
        if (type == CGRPO_TYPE_F64) *(double *)at(i) = v;
        else if (type == CGRPO_TYPE_F32) *(float *)at(i) = (float)v;
        else if (type == CGRPO_TYPE_F16) *(_Float16 *)at(i) = (_Float16)v;
        else *(uint16_t *)at(i) = to_bf16((float)v);
    }

    Array &fill(double scale) {
        for (int64_t b = 0; b < batch; b++)
            for (int64_t i = 0; i < steps * elements; i++)
                set(b * stride + i, scale * ((int)cta::draw() * 0x1p-31 + (int)cta::draw() * 0x1p-31));
        return *this;
    }

    // The same numbers in another type.
    Array as(cgrpo_type other) {
        Array result(other, batch, elements, {stride - steps * elements, offset}, steps);
        for (int64_t b = 0; b < batch; b++)
            for (int64_t i = 0; i < steps * elements; i++) result.set(b * stride + i, get(b * stride + i));
        return result;
    }

    // (B, D), or with several steps (B, steps, D).
    cgrpo_tensor tensor() {
        const bool flat = steps == 1;
        shape[0] = batch, shape[1] = flat ? elements : steps, shape[2] = elements;
        strides[0] = stride, strides[1] = flat ? 1 : elements, strides[2] = 1;
        cgrpo_tensor t = {};
        t.data = bytes(), t.shape = shape, t.strides = strides, t.ndim = flat ? 2 : 3, t.type = type;
        return t;
    }

    chunkgrpo_cuda_Rows rows(int64_t step = 0) {
        const int64_t size = (int64_t)size_of(type);
        return {at(step * elements), stride * size, elements * size};
    }
};

inline std::string test_case;

inline void same(const char *what, const void *got, const void *expected, size_t bytes) {
    comparisons++;
    if (!memcmp(got, expected, bytes)) return;
    size_t first = 0;
    while (((const char *)got)[first] == ((const char *)expected)[first]) first++;
    if (differences++ < 20) printf("DIFFERENT: %s, %s, at byte %zu of %zu\n", test_case.c_str(), what, first, bytes);
}

// The gaps too.
inline void same(const char *what, Array &got, Array &expected) {
    same(what, got.aligned.data(), expected.aligned.data(), got.aligned.size() * 8);
}

inline void same(const char *what, const std::vector<double> &got, const std::vector<double> &expected) {
    same(what, got.data(), expected.data(), got.size() * 8);
}

inline void check(const char *what, bool holds) {
    comparisons++;
    if (!holds && differences++ < 20) printf("DIFFERENT: %s, %s\n", test_case.c_str(), what);
}
