// The library's normals: the CPU's Philox.swift, BoxMuller.swift and Normals.swift.
#pragma once
#include "types.h"

struct Words {
    u32 w0, w1, w2, w3;
};

// Philox4x32-10; the keys of a round are keys[2 round] and keys[2 round + 1].
template <class Keys> CHUNKGRPO_DEVICE Words philox(u32 counter, u32 step, u64 id, const Keys &keys) {
    u32 c0 = counter, c1 = step, c2 = (u32)id, c3 = (u32)(id >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u32 low0 = 0xD2511F53u * c0, high0 = high_product(0xD2511F53u, c0);
        const u32 low1 = 0xCD9E8D57u * c2, high1 = high_product(0xCD9E8D57u, c2);
        c0 = high1 ^ c1 ^ keys[2 * round];
        c2 = high0 ^ c3 ^ keys[2 * round + 1];
        c1 = low1;
        c3 = low0;
    }
    return {c0, c1, c2, c3};
}

CHUNKGRPO_DEVICE float horner(float sum, float z, float next) { return add(mul(sum, z), next); }

// -2 ln u for u = (w + 1/2)/2^32
CHUNKGRPO_DEVICE float squared_radius(u32 w) {
    const u32 high = (u32)((int)w >> 31);
    const float small = add((float)(int)(w ^ high), 0.5f);
    const float m = (int)w < 0 ? mul(small, -0x1p-32f) : sub(number((bits(small) & 0x007fffffu) | 0x3f000000u), 1.0f);
    const u32 exponent = (bits(small) >> 23) + 0xffffff62u;
    const float e = (float)(int)(exponent & ~high), m2 = mul(m, m);
    const float even4 = horner(horner(-2.8297012f, m2, -2.419914f), m2, -0.5278589f);
    const float even = horner(horner(even4, m2, -0.66727114f), m2, -2.0f);
    const float odd = horner(horner(horner(-3.2812252f, m2, -0.3633891f), m2, 0.48728305f), m2, 0.99999022f);
    return add(mul(add(mul(odd, m), even), m), mul(-1.3862944f, e));
}

// Box-Muller: r cos(theta) and r sin(theta).
CHUNKGRPO_DEVICE void box_muller(u32 w0, u32 w1, float &first, float &second) {
    const float radius = root(squared_radius(w0));
    const u32 turned = w1 + 0x20000000u;
    const float f = mul((float)(int)(w1 << 2), 0x1p-32f), z = mul(f, f);
    const float sine = mul(horner(horner(horner(-0.004628752f, z, 0.07969201f), z, -0.645965f), z, 1.5707964f), f);
    const float cosine3 = horner(horner(0.00088610698f, z, -0.02085249f), z, 0.25366828f);
    const float cosine = horner(horner(cosine3, z, -1.2337005f), z, 1.0f);
    const bool odd = (turned & 0x40000000u) != 0;
    const float r = number(bits(radius) ^ (turned & 0x80000000u));
    first = mul(r, odd ? sub(0.0f, sine) : cosine);
    second = mul(r, odd ? cosine : sine);
}

// Elements l, l + 16, l + 32 and l + 48 of a sample's 64 elements g, for counter 16 g + l.
CHUNKGRPO_DEVICE void normals(const Words &w, float (&noise)[4]) {
    box_muller(w.w0, w.w1, noise[0], noise[1]);
    box_muller(w.w2, w.w3, noise[2], noise[3]);
}

CHUNKGRPO_DEVICE u64 sample_id(const chunkgrpo_cuda_Noise &noise, const chunkgrpo_cuda_Shape &shape, u32 sample) {
    if (noise.ids_at) return device_number(noise.ids_at + sample);
    return noise.has_ids ? noise.ids[sample] : (u64)(shape.first_sample + sample);
}

// The keys of the seed, wherever it is.
struct Keys {
    u32 k0, k1;
    CHUNKGRPO_DEVICE u32 operator[](int i) const {
        return i & 1 ? k1 + (u32)(i / 2) * 0xBB67AE85u : k0 + (u32)(i / 2) * 0x9E3779B9u;
    }
};

CHUNKGRPO_DEVICE Keys keys_of(const chunkgrpo_cuda_Noise &noise) {
    if (!noise.seed_at) return {noise.keys[0], noise.keys[1]};
    const u64 seed = device_number(noise.seed_at);
    return {(u32)seed, (u32)(seed >> 32)};
}

// Room for the normals of a block, wherever in 64 elements it begins.
static constexpr int kNormals = 1024 + 64;

// The normals of a block's elements, the first of which is element `first` of the sample, into shared memory: that of
// the block's element e at [first % 64 + e].
CHUNKGRPO_DEVICE void draw_normals(const chunkgrpo_cuda_Noise &noise, const chunkgrpo_cuda_Shape &shape, u32 step,
                                   i64 first, float *shared) {
    const u32 sample = blockIdx.y, t = threadIdx.x, count = first & 63 ? 272 : 256;
    const u64 id = sample_id(noise, shape, sample);
    const Keys keys = keys_of(noise);
    barrier(); // the last block's normals have been read
#pragma unroll 1
    for (u32 c = t; c < count; c += 256) {
        float values[4];
        normals(philox((u32)(first >> 6) * 16 + c, step, id, keys), values);
#pragma unroll
        for (int q = 0; q < 4; q++) shared[(c >> 4) * 64 + 16 * q + (c & 15)] = values[q];
    }
    barrier();
}
