// next = a x + b v + p y + q z + s noise: StepPass and NoisedPass.
#pragma once
#include "noise.h"
#include "rows.h"
#include "sums.h"

typedef chunkgrpo_cuda_StepArguments StepArguments;

// Writes the numbers of a sample from its sums of (next - m)^2, |next - x| and |x|.
struct StepResult {
    const StepArguments &k;
    const Numbers &n;
    bool change;

    CHUNKGRPO_DEVICE void operator()(const double *sums) const {
        const i64 at = (i64)blockIdx.y * k.stride;
        const double value = result(n, k.shape, sums[0]);
        double check = add(sums[0], value);
        if (k.log_prob) k.log_prob[at] = value;
        if (change) {
            const double change = relative_change(k.shape, sums[1], sums[2]);
            check = add(check, change);
            k.relative_l1[at] = change;
        }
        if (!is_finite(check)) report(k.workspace, k.shape, n.place);
    }
};

// The library's noise stays in registers: a thread has four elements of each block, 16 apart, as one counter of Philox
// does.
// `whole`: all elements of this block of threads are there.
template <class T, class V, bool change, bool whole> struct NoisyStep {
    typedef typename T::Compute C;
    static constexpr int each = blocks_each<C>(), sums = change ? 3 : 1;

    const StepArguments &k;
    C *tile; // (sums, each)
    C x[each][4], v[each][4];
    int left; // elements from this thread's first one on

    CHUNKGRPO_DEVICE bool has(int block, int q) const { return whole || left > block * kBlock + 16 * q; }

    CHUNKGRPO_DEVICE void load(const typename T::Store *xs, const typename V::Store *vs) {
#pragma unroll
        for (int block = 0; block < each; block++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = block * kBlock + 16 * q;
                x[block][q] = has(block, q) ? T::load(xs[at]) : (C)0;
                v[block][q] = has(block, q) ? V::load(vs[at]) : (C)0;
            }
    }

    CHUNKGRPO_DEVICE void step(int block, const float (&noise)[4], typename T::Store *next, int place) {
        const Numbers &n = k.numbers[0];
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const bool in = has(block, q);
            const C mean = add(mul(real<C>(n.a), x[block][q]), mul(real<C>(n.b), v[block][q]));
            const typename T::Store stored = T::store(add(mean, mul(real<C>(n.s), widened<C>(noise[q]))));
            if (in) next[block * kBlock + 16 * q] = stored;
            const C d = sub(T::load(stored), mean); // rounded: what a later recomputation will see
            C *at = tile + block * kTile + place + 16 * q;
            at[0] = in ? mul(d, d) : (C)0;
            if (change) {
                at[each * kTile] = in ? magnitude(sub(T::load(stored), x[block][q])) : (C)0;
                at[2 * each * kTile] = magnitude(x[block][q]);
            }
        }
    }

    CHUNKGRPO_DEVICE void run(Collector &collector) {
        const int t = threadIdx.x, lane = t & 15, group = t >> 4;
        const i64 first = (i64)blockIdx.x * each * kBlock + 64 * group + lane, rest = k.shape.elements - first;
        left = rest < 0 ? 0 : rest < each * kBlock ? (int)rest : each * kBlock;
        load(Row<T>(k.x, 0).p + first, Row<V>(k.v, 0).p + first);
        const u64 id = sample_id(k.noise, k.shape, blockIdx.y);
        const u32 counter = (u32)(k.shape.first_element >> 2) + blockIdx.x * (each * 256) + t;
        typename T::Store *next = Row<T>(k.next, 0).p + first;
#pragma unroll
        for (int block = 0; block < each; block++) {
            float noise[4];
            normals(philox(counter + 256 * block, k.numbers[0].step, id, k.noise.keys), noise);
            if (block == each - 1) collector.arrive(k.workspace); // before, there are no registers for it
            step(block, noise, next, group * kGroup + lane);
        }
    }
};

template <class T, class V, bool change> CHUNKGRPO_DEVICE void noisy_step(const StepArguments &k) {
    typedef typename T::Compute C;
    constexpr int each = blocks_each<C>();
    CHUNKGRPO_SHARED(C, tile, (change ? 3 : 1) * each * kTile);
    Collector collector;
    if (blockIdx.x < whole_groups<each>(k.shape)) NoisyStep<T, V, change, true>{k, tile}.run(collector);
    else NoisyStep<T, V, change, false>{k, tile}.run(collector);
    if (k.workspace.partial)
        finish_tiles<T, change ? 3 : 1>(k.workspace, k.shape, tile, collector, StepResult{k, k.numbers[0], change});
}

// Noise of four neighbours, or zeros.
template <class T> struct NoiseOfBlock {
    typedef typename T::Compute C;
    const chunkgrpo_cuda_Noise &noise;
    const Shape &shape;
    u32 step;
    float *shared; // kNormals

    CHUNKGRPO_DEVICE void get(i64 block, i64 e, C (&to)[4]) const {
        if (noise.kind == CHUNKGRPO_CUDA_LIBRARY) {
            const i64 first = shape.first_element + block * kBlock;
            draw_normals(noise, shape, step, first, shared);
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[i] = e + i < shape.elements ? widened<C>(shared[(first & 63) + 4 * threadIdx.x + i]) : (C)0;
        } else if (noise.kind == CHUNKGRPO_CUDA_GIVEN) {
            Row<T>(noise.given, step).load(e, shape.elements, to);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) to[i] = 0;
        }
    }
};

// What a mean has beside a x + b v. q z only where q != 0.
template <class T, class V> struct Terms {
    typedef typename T::Compute C;
    const Row<V> y;
    const Row<T> z;
    const C p, q;

    CHUNKGRPO_DEVICE Terms(const Rows &y, const Rows &z, const Numbers &n)
        : y(y, 0), z(z, 0), p(real<C>(n.p)), q(real<C>(n.q)) {
        if (!y.base) this_y = false;
        if (!z.base || q == 0) this_z = false;
    }

    CHUNKGRPO_DEVICE void add_to(C (&mean)[4], i64 e, i64 n) const {
        if (!this_y && !this_z) return;
        C sum[4], other[4];
        if (this_y) {
            y.load(e, n, sum);
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i] = mul(p, sum[i]);
        }
        if (this_z) {
            z.load(e, n, other);
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i] = this_y ? add(sum[i], mul(q, other[i])) : mul(q, other[i]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) mean[i] = add(mean[i], sum[i]);
    }

    bool this_y = true, this_z = true;
};

// m = a x + b v of four neighbours
template <class C> CHUNKGRPO_DEVICE void affine(C a, const C (&x)[4], C b, const C (&v)[4], C (&mean)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) mean[i] = add(mul(a, x[i]), mul(b, v[i]));
}

template <class C> CHUNKGRPO_DEVICE void minus(const C (&u)[4], const C (&v)[4], C (&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = sub(u[i], v[i]);
}

// Elements e, e + 16, e + 32 and e + 48 of a row, of which `left` are there.
template <class E>
CHUNKGRPO_DEVICE void load_apart(const Rows &rows, u32 step, i64 e, i64 left, typename E::Compute (&to)[4]) {
    const typename E::Store *from = Row<E>(rows, step).p + e;
#pragma unroll
    for (int q = 0; q < 4; q++) to[q] = left > 16 * q ? E::load(from[16 * q]) : (typename E::Compute)0;
}

// The noise of the same elements; `shared` has room for kNormals.
template <class T>
CHUNKGRPO_DEVICE void load_noise(const chunkgrpo_cuda_Noise &source, const Shape &shape, u32 step, float *shared,
                                 i64 block, i64 e, i64 left, typename T::Compute (&to)[4]) {
    const i64 first = shape.first_element + block * kBlock;
    float noise[4] = {};
    if (source.kind == CHUNKGRPO_CUDA_GIVEN) return load_apart<T>(source.given, step, e, left, to);
    if (source.kind == CHUNKGRPO_CUDA_LIBRARY && (first & 63)) {
        draw_normals(source, shape, step, first, shared);
#pragma unroll
        for (int q = 0; q < 4; q++) noise[q] = shared[(first & 63) + (e & (kBlock - 1)) + 16 * q];
    } else if (source.kind == CHUNKGRPO_CUDA_LIBRARY) {
        const u64 id = sample_id(source, shape, blockIdx.y);
        normals(philox((u32)(first >> 2) + threadIdx.x, step, id, keys_of(source)), noise);
    }
#pragma unroll
    for (int q = 0; q < 4; q++) to[q] = widened<typename T::Compute>(noise[q]);
}

// The elements are laid out as in NoisyStep, one block at a time.
template <class T, class V> struct AnyStep {
    typedef typename T::Compute C;
    static constexpr int each = blocks_each<C>();
    const StepArguments &k;
    const Numbers &n;
    C *tile; // (3, each)
    float *shared;
    C a, b, s;

    CHUNKGRPO_DEVICE AnyStep(const StepArguments &k, C *tile, float *shared)
        : k(k), n(k.numbers[k.each ? blockIdx.y : 0]), tile(tile), shared(shared), a(real<C>(n.a)), b(real<C>(n.b)),
          s(real<C>(n.s)) {
        if (!k.times) return;
        const double t = k.times[blockIdx.y];
        a = rounded<C>(sub(1.0, t));
        b = 0;
        s = rounded<C>(t);
    }

    CHUNKGRPO_DEVICE void noise_of(i64 block, i64 e, i64 left, C (&to)[4]) const {
        if (s != 0) return load_noise<T>(k.noise, k.shape, n.step, shared, block, e, left, to);
#pragma unroll
        for (int q = 0; q < 4; q++) to[q] = 0;
    }

    CHUNKGRPO_DEVICE void add_terms(i64 e, i64 left, C (&mean)[4]) const {
        const bool with_y = k.y.base, with_z = k.z.base && real<C>(n.q) != 0;
        if (!with_y && !with_z) return;
        C y[4], z[4];
        if (with_y) load_apart<V>(k.y, 0, e, left, y);
        if (with_z) load_apart<T>(k.z, 0, e, left, z);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const C first = mul(real<C>(n.p), y[q]), second = mul(real<C>(n.q), z[q]);
            mean[q] = add(mean[q], !with_z ? first : with_y ? add(first, second) : second);
        }
    }

    CHUNKGRPO_DEVICE void step(int i, i64 block) const {
        const int t = threadIdx.x, lane = t & 15, group = t >> 4;
        const i64 e = block * kBlock + 64 * group + lane, left = k.shape.elements - e;
        C x[4], v[4], mean[4], noise[4];
        load_apart<T>(k.x, 0, e, left, x);
        load_apart<V>(k.v, 0, e, left, v);
        noise_of(block, e, left, noise);
        affine(a, x, b, v, mean);
        add_terms(e, left, mean);
        typename T::Store *next = Row<T>(k.next, 0).p + e;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const bool in = left > 16 * q;
            const typename T::Store stored = T::store(add(mean[q], mul(s, noise[q])));
            if (in) next[16 * q] = stored;
            const C d = sub(T::load(stored), mean[q]);
            C *at = tile + i * kTile + group * kGroup + lane + 16 * q;
            at[0] = in ? mul(d, d) : (C)0;
            if (!k.relative_l1) continue;
            at[each * kTile] = in ? magnitude(sub(T::load(stored), x[q])) : (C)0;
            at[2 * each * kTile] = magnitude(x[q]);
        }
    }

    CHUNKGRPO_DEVICE void run() const {
        const i64 blocks = block_count(k.shape), first = (i64)blockIdx.x * each;
        Collector collector;
#pragma unroll 1
        for (int i = 0; i < each && first + i < blocks; i++) {
            step(i, first + i);
            if (i == 0) collector.arrive(k.workspace); // before, there are no registers for it
        }
        if (!k.workspace.partial) return;
        if (k.relative_l1) finish_tiles<T, 3>(k.workspace, k.shape, tile, collector, StepResult{k, n, true});
        else finish_tiles<T, 1>(k.workspace, k.shape, tile, collector, StepResult{k, n, false});
    }
};

template <class T, class V> CHUNKGRPO_DEVICE void any_step(const StepArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tile, 3 * blocks_each<C>() * kTile);
    CHUNKGRPO_SHARED(float, shared, kNormals);
    AnyStep<T, V>(k, tile, shared).run();
}
