// Distances of velocities and of means, and the change of a trajectory: VelocityDistancePass, MeanDistancePass,
// ChangePass.
#pragma once
#include "step.h"

typedef chunkgrpo_cuda_DistanceArguments DistanceArguments;
typedef chunkgrpo_cuda_ChangeArguments ChangeArguments;
typedef chunkgrpo_cuda_NormalArguments NormalArguments;

struct DistanceResult {
    const DistanceArguments &k;
    const Numbers &n;

    CHUNKGRPO_DEVICE void operator()(const double *sums) const {
        const double value = result(n, k.shape, sums[0]);
        if (k.distance) k.distance[blockIdx.y] = value;
        if (!is_finite(value)) report(k.workspace, k.shape, n.place);
    }
};

// What both distances do with the differences that `differ(block, e, d)` makes, and whose gradient is of type V.
template <class T, class V, class Differ>
CHUNKGRPO_DEVICE void distances(const DistanceArguments &k, const Numbers &n, typename T::Compute *tile,
                                const Differ &differ) {
    typedef typename T::Compute C;
    const Row<V> gradient(k.gradient, 0);
    const C scale = rounded<C>(mul(n.slope, k.upstream ? k.upstream[blockIdx.y] : 0));
    const i64 blocks = block_count(k.shape);
    Collector collector;
    collector.arrive(k.workspace);
    bool broken = false;
    each_block<C>(blocks, [&](i64 block, i64 e) CHUNKGRPO_LAMBDA {
        C d[4];
        differ(block, e, d);
        if (k.gradient.base) broken |= store_scaled(gradient, e, k.shape.elements, scale, d);
        keep_squares(tile_of(tile, block), d);
    });
    if (broken) report(k.workspace, k.shape, n.place);
    if (!k.workspace.partial) return;
    finish_tiles<T, 1>(k.workspace, k.shape, tile, collector, DistanceResult{k, n});
}

template <class T> CHUNKGRPO_DEVICE void velocity_distance(const DistanceArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tile, blocks_each<C>() * kTile);
    const Numbers &n = k.numbers[k.each ? blockIdx.y : 0];
    const Row<T> v(k.v, 0), w(k.w, 0);
    distances<T, T>(k, n, tile, [&](i64, i64 e, C(&d)[4]) CHUNKGRPO_LAMBDA {
        C vs[4], ws[4];
        v.load(e, k.shape.elements, vs);
        w.load(e, k.shape.elements, ws);
        minus(vs, ws, d);
    });
}

template <class T, class V> CHUNKGRPO_DEVICE void mean_distance(const DistanceArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tile, blocks_each<C>() * kTile);
    CHUNKGRPO_SHARED(float, shared, kNormals);
    const Numbers &n = k.numbers[k.each ? blockIdx.y : 0];
    const Row<T> x(k.x, 0), next(k.next, 0);
    const Row<V> v(k.v, 0);
    const NoiseOfBlock<T> noise = {k.noise, k.shape, n.step, shared};
    distances<T, V>(k, n, tile, [&](i64 block, i64 e, C(&d)[4]) CHUNKGRPO_LAMBDA {
        C xs[4], vs[4], mean[4], ns[4];
        x.load(e, k.shape.elements, xs);
        v.load(e, k.shape.elements, vs);
        affine(real<C>(n.a), xs, real<C>(n.b), vs, mean);
        noise.get(block, e, ns);
        next.load(e, k.shape.elements, xs);
#pragma unroll
        for (int i = 0; i < 4; i++) d[i] = sub(mean[i], sub(xs[i], mul(real<C>(n.s), ns[i])));
    });
}

struct ChangeResult {
    const ChangeArguments &k;

    CHUNKGRPO_DEVICE void operator()(const double *sums) const {
        const double value = relative_change(k.shape, sums[0], sums[1]);
        k.relative_l1[(i64)blockIdx.y * k.stride + blockIdx.z] = value;
        if (!is_finite(value)) report(k.workspace, k.shape, k.place + blockIdx.z);
    }
};

template <class T> CHUNKGRPO_DEVICE void trajectory_change(const ChangeArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tiles, kTiles * kTile);
    const Row<T> x(k.x, blockIdx.z), next(k.x, blockIdx.z + 1);
    const i64 blocks = block_count(k.shape);
    Collector collector;
    collector.arrive(k.workspace);
    each_block<C>(blocks, [&](i64 block, i64 e) CHUNKGRPO_LAMBDA {
        C xs[4], ns[4];
        x.load(e, k.shape.elements, xs);
        next.load(e, k.shape.elements, ns);
        add_up<T>(
            k.workspace, tiles, 2, block, blocks, [](int) CHUNKGRPO_LAMBDA { return true; },
            [&](int which, int i) CHUNKGRPO_LAMBDA { return magnitude(which ? xs[i] : sub(ns[i], xs[i])); });
    });
    collector.tell();
    barrier();
    finish(k.workspace, 2, blocks, tiles, ChangeResult{k});
}

template <class T> CHUNKGRPO_DEVICE void normal(const NormalArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(float, shared, kNormals);
    const Row<T> x(k.x, 0);
    each_block<C>(block_count(k.shape), [&](i64 block, i64 e) CHUNKGRPO_LAMBDA {
        const i64 first = k.shape.first_element + block * kBlock;
        draw_normals(k.noise, k.shape, k.step, first, shared);
        typename T::Store stored[4];
#pragma unroll
        for (int i = 0; i < 4; i++) stored[i] = T::store(widened<C>(shared[(first & 63) + 4 * threadIdx.x + i]));
        x.store(e, k.shape.elements, stored);
    });
}
