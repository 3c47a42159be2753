// d = next - m of given next latents and the gradients: DifferencePass, TrajectoryPass.
#pragma once
#include "step.h"

typedef chunkgrpo_cuda_DifferenceArguments DifferenceArguments;

// Writes the log-probability of a sample at a step.
struct DifferenceResult {
    const DifferenceArguments &k;
    const Numbers &n;

    CHUNKGRPO_DEVICE void operator()(const double *sums) const {
        const double value = result(n, k.shape, sums[0]);
        if (k.log_prob) k.log_prob[(i64)blockIdx.y * k.stride + blockIdx.z] = value;
        if (!is_finite(value)) report(k.workspace, k.shape, n.place);
    }
};

// Whether one of the squares, or their sum, is too large.
template <class C> CHUNKGRPO_DEVICE bool is_too_large(const C (&d)[4]) {
    return !is_finite(add(add(mul(d[0], d[0]), mul(d[1], d[1])), add(mul(d[2], d[2]), mul(d[3], d[3]))));
}

// Fastest where all rows begin on a boundary of four elements and all elements of this block of threads are there.
// Without sums it has one block of a sample: more blocks of threads fit in, and some write while others read.
template <class T, class V, bool gradient, bool sums> struct Difference {
    typedef typename T::Compute C;
    static constexpr int each = sums ? blocks_each<C>() : 1;

    const DifferenceArguments &k;
    const Numbers &n;
    C *tile; // (each)
    const Row<T> x, next;
    const Row<V> v, out;

    CHUNKGRPO_DEVICE Difference(const DifferenceArguments &k, const Numbers &n, C *tile)
        : k(k), n(n), tile(tile), x(k.x, blockIdx.z), next(k.next, blockIdx.z), v(k.v, blockIdx.z),
          out(k.gradient, blockIdx.z) {}

    CHUNKGRPO_DEVICE double upstream(u32 sample) const {
        return k.upstream[(i64)sample * k.upstream_stride + blockIdx.z];
    }

    // Whether no sample of the launch has a gradient at this step: then the CPU writes zeros.
    CHUNKGRPO_DEVICE bool is_idle() const {
        if (!k.idle_zeros || upstream(blockIdx.y) != 0) return false;
        for (u32 i = 0; i < gridDim.y; i++)
            if (upstream(i) != 0) return false;
        return true;
    }

    // Of so many blocks from block `from` of this block of threads. All that lies in memory is asked for before any of
    // it is needed: the latents first, then the numbers.
    template <bool whole, int count> CHUNKGRPO_DEVICE bool differences(int from, Collector &collector) const {
        const i64 block = (i64)blockIdx.x * each + from, first = block * kBlock + 4 * threadIdx.x;
        const i64 end = whole ? first + count * kBlock : k.shape.elements;
        C xs[count][4], vs[count][4], ns[count][4];
        bool broken = false;
        if (sums && from == 0) collector.arrive(k.workspace);
#pragma unroll
        for (int i = 0; i < count; i++) {
            get<whole>(x, first + i * kBlock, end, xs[i]);
            get<whole>(v, first + i * kBlock, end, vs[i]);
            get<whole>(next, first + i * kBlock, end, ns[i]);
        }
        const bool residual = sums && !k.upstream;
        const C scale = !gradient ? 0 : residual ? 1 : rounded<C>(mul(n.slope, upstream(blockIdx.y)));
#pragma unroll
        for (int i = 0; i < count; i++) {
            C mean[4], d[4];
            affine(real<C>(n.a), xs[i], real<C>(n.b), vs[i], mean);
            minus(ns[i], mean, d);
            if (gradient) broken |= put<whole>(first + i * kBlock, end, scale, d);
            if (sums) keep_squares(tile + (from + i) * kTile, d);
            else broken |= is_too_large(d);
        }
        return broken;
    }

    CHUNKGRPO_DEVICE bool all_differences(Collector &collector) const {
        if (x.wide && v.wide && next.wide && (!gradient || out.wide) && blockIdx.x < whole_groups<each>(k.shape))
            return differences<true, each>(0, collector);
        bool broken = false;
#pragma unroll 1
        for (int i = 0; i < each; i++) broken |= differences<false, 1>(i, collector);
        return broken;
    }

    CHUNKGRPO_DEVICE void run() const {
        if (gradient && !sums && is_idle()) return clear();
        Collector collector;
        const bool broken = all_differences(collector);
        if (gradient && broken) report(k.workspace, k.shape, n.place);
        if (sums && k.workspace.partial)
            finish_tiles<T, 1>(k.workspace, k.shape, tile, collector, DifferenceResult{k, n});
    }

  private:
    template <bool whole, class E> CHUNKGRPO_DEVICE static void get(const Row<E> &row, i64 e, i64 end, C (&to)[4]) {
        (whole ? row.as_wide() : row).load(e, end, to);
    }

    template <bool whole> CHUNKGRPO_DEVICE bool put(i64 e, i64 end, C scale, const C (&d)[4]) const {
        return store_scaled(whole ? out.as_wide() : out, e, end, scale, d);
    }

    CHUNKGRPO_DEVICE void clear() const {
        const typename V::Store zeros[4] = {};
        out.store((i64)blockIdx.x * kBlock + 4 * threadIdx.x, k.shape.elements, zeros);
    }
};

template <class T, class V, bool gradient> CHUNKGRPO_DEVICE void difference(const DifferenceArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tile, blocks_each<C>() * kTile);
    Difference<T, V, gradient, true>(k, k.numbers[blockIdx.z], tile).run();
}

template <class T, class V> CHUNKGRPO_DEVICE void gradient(const DifferenceArguments &k) {
    Difference<T, V, true, false>(k, k.numbers[blockIdx.z], nullptr).run();
}

template <class T, class V> CHUNKGRPO_DEVICE void any_difference(const DifferenceArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tile, blocks_each<C>() * kTile);
    const Numbers &n = k.numbers[k.each ? blockIdx.y : 0];
    const Row<T> x(k.x, 0), next(k.next, 0);
    const Row<V> v(k.v, 0), gradient(k.gradient, 0), unconditional(k.unconditional, 0);
    const Terms<T, V> terms(k.y, k.z, n);
    const double upstream = k.upstream ? k.upstream[(i64)blockIdx.y * k.upstream_stride] : 0;
    const C scale = k.upstream ? rounded<C>(mul(n.slope, upstream)) : 1,
            other = rounded<C>(mul(n.unconditional, upstream));
    const i64 count = k.shape.elements, blocks = block_count(k.shape);
    Collector collector;
    collector.arrive(k.workspace);
    bool broken = false;
    each_block<C>(blocks, [&](i64 block, i64 e) CHUNKGRPO_LAMBDA {
        C xs[4], vs[4], mean[4], d[4];
        x.load(e, count, xs);
        v.load(e, count, vs);
        affine(real<C>(n.a), xs, real<C>(n.b), vs, mean);
        terms.add_to(mean, e, count);
        next.load(e, count, xs);
        minus(xs, mean, d);
        if (k.unconditional.base) broken |= store_scaled(unconditional, e, count, other, d);
        if (k.gradient.base) broken |= store_scaled(gradient, e, count, scale, d);
        if (k.workspace.partial) keep_squares(tile_of(tile, block), d);
        else broken |= is_too_large(d);
    });
    if (broken) report(k.workspace, k.shape, n.place);
    if (!k.workspace.partial) return;
    finish_tiles<T, 1>(k.workspace, k.shape, tile, collector, DifferenceResult{k, n});
}
