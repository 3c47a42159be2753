// Distances of the forward process, from u = noise - clean: ForwardPass, ForwardExtrasPass and ForwardUpstream.
#pragma once
#include "step.h"

typedef chunkgrpo_cuda_ForwardArguments ForwardArguments;

struct ForwardResult {
    const ForwardArguments &k;

    CHUNKGRPO_DEVICE void operator()(const double *sums) const {
        const double distance = quotient(sums[0], k.shape.total), absolute = quotient(sums[1], k.shape.total);
        if (k.to.distance) k.to.distance[blockIdx.y] = distance;
        if (k.to.absolute) k.to.absolute[blockIdx.y] = absolute;
        if (!is_finite(distance) || !is_finite(absolute)) report(k.workspace, k.shape, k.place);
    }
};

// d = v - u alone. The elements are laid out as in NoisyStep, one block at a time.
template <class T, class V> struct Forward {
    typedef typename T::Compute C;
    static constexpr int each = blocks_each<C>();
    const ForwardArguments &k;
    C *tile; // (2, each)
    float *shared;

    // Whether an element of the gradient is not finite.
    CHUNKGRPO_DEVICE bool differences(int i, i64 block, C scale) const {
        const int t = threadIdx.x, lane = t & 15, group = t >> 4;
        const i64 e = block * kBlock + 64 * group + lane, left = k.shape.elements - e;
        C clean[4], v[4], noise[4];
        load_apart<T>(k.clean, 0, e, left, clean);
        load_apart<V>(k.v, 0, e, left, v);
        load_noise<T>(k.noise, k.shape, k.step, shared, block, e, left, noise);
        typename V::Store *gradient = Row<V>(k.gradient, 0).p + e;
        bool broken = false;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const bool in = left > 16 * q;
            const C d = sub(v[q], sub(noise[q], clean[q]));
            C *at = tile + i * kTile + group * kGroup + lane + 16 * q;
            at[0] = in ? mul(d, d) : (C)0;
            at[each * kTile] = in ? magnitude(d) : (C)0;
            if (!k.gradient.base || !in) continue;
            const typename V::Store stored = V::store(mul(scale, d));
            gradient[16 * q] = stored;
            broken |= !is_finite(V::load(stored));
        }
        return broken;
    }

    CHUNKGRPO_DEVICE void run() const {
        const double upstream = k.upstream.distance ? k.upstream.distance[blockIdx.y] : 0;
        const C scale = rounded<C>(mul(quotient(2.0, k.shape.total), upstream));
        const i64 blocks = block_count(k.shape), first = (i64)blockIdx.x * each;
        Collector collector;
        collector.arrive(k.workspace);
        bool broken = false;
#pragma unroll 1
        for (int i = 0; i < each && first + i < blocks; i++) broken |= differences(i, first + i, scale);
        if (broken) report(k.workspace, k.shape, k.place);
        if (k.workspace.partial) finish_tiles<T, 2>(k.workspace, k.shape, tile, collector, ForwardResult{k});
    }
};

template <class T, class V> CHUNKGRPO_DEVICE void forward_distance(const ForwardArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tile, 2 * blocks_each<C>() * kTile);
    CHUNKGRPO_SHARED(float, shared, kNormals);
    Forward<T, V>{k, tile, shared}.run();
}

// In the order of chunkgrpo_cuda_ForwardDistances.
enum ForwardSum {
    kDistance,
    kAbsolute,
    kOldDistance,
    kOldAbsolute,
    kReferenceDistance,
    kPositiveDistance,
    kPositiveAbsolute,
    kNegativeDistance,
    kNegativeAbsolute,
    kOldDivergence,
    kReferenceDivergence
};

CHUNKGRPO_DEVICE double *place_of(const ForwardArguments &k, int which) { return (&k.to.distance)[which]; }

CHUNKGRPO_DEVICE double upstream_at(const double *numbers) { return numbers ? numbers[blockIdx.y] : 0; }

// The gradient policy (v - u) + old (v_old - u) + reference (v - v_ref).
struct ForwardCoefficients {
    double policy, old, reference;
};

CHUNKGRPO_DEVICE ForwardCoefficients forward_coefficients(const ForwardArguments &k) {
    const double plus = upstream_at(k.upstream.positive_distance), minus = upstream_at(k.upstream.negative_distance);
    const double old = upstream_at(k.upstream.old_divergence), beta = k.beta;
    const double factor = quotient(2.0, k.shape.total);
    const double policy = add(add(upstream_at(k.upstream.distance), old), mul(mul(beta, beta), add(plus, minus)));
    const double mixed = mul(beta, sub(mul(sub(1.0, beta), plus), mul(add(1.0, beta), minus)));
    return {mul(factor, policy), mul(factor, sub(mixed, old)),
            mul(factor, upstream_at(k.upstream.reference_divergence))};
}

template <class T, class V> struct ForwardExtras {
    typedef typename T::Compute C;
    const ForwardArguments &k;
    C *tiles; // kTiles
    float *shared;
    ForwardCoefficients *coefficients;

    CHUNKGRPO_DEVICE bool wants(int which) const { return which == kDistance || place_of(k, which); }

    // The difference that a sum is of. With p = v and q = old, the mixtures are beta p + (1 - beta) q and (1 + beta) q
    // - beta p.
    CHUNKGRPO_DEVICE C difference(int which, C v, C old, C reference, C u) const {
        switch (which) {
            case kDistance:
            case kAbsolute: return sub(v, u);
            case kOldDistance:
            case kOldAbsolute: return sub(old, u);
            case kReferenceDistance: return sub(reference, u);
            case kOldDivergence: return sub(v, old);
            case kReferenceDivergence: return sub(v, reference);
            default: break;
        }
        const double beta = which < kNegativeDistance ? k.beta : -k.beta;
        return sub(add(mul(rounded<C>(beta), v), mul(rounded<C>(sub(1.0, beta)), old)), u);
    }

    CHUNKGRPO_DEVICE void sums(i64 block, i64 blocks, const C (&v)[4], const C (&old)[4], const C (&reference)[4],
                               const C (&u)[4]) const {
        add_up<T>(
            k.workspace, tiles, CHUNKGRPO_CUDA_SUMS, block, blocks,
            [&](int which) CHUNKGRPO_LAMBDA { return wants(which); },
            [&](int which, int i) CHUNKGRPO_LAMBDA {
                const bool absolute = which == kAbsolute || which == kOldAbsolute || which == kPositiveAbsolute ||
                                      which == kNegativeAbsolute;
                const C d = difference(which, v[i], old[i], reference[i], u[i]);
                return absolute ? magnitude(d) : mul(d, d);
            });
    }

    CHUNKGRPO_DEVICE bool gradient(const Row<V> &out, i64 e, const C (&v)[4], const C (&old)[4],
                                   const C (&reference)[4], const C (&u)[4]) const {
        const C of_policy = rounded<C>(coefficients->policy), of_old = rounded<C>(coefficients->old);
        const C of_reference = rounded<C>(coefficients->reference);
        typename V::Store stored[4];
        bool broken = false;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            C sum = mul(of_policy, sub(v[i], u[i]));
            if (k.old.base) sum = add(sum, mul(of_old, sub(old[i], u[i])));
            if (k.reference.base) sum = add(sum, mul(of_reference, sub(v[i], reference[i])));
            stored[i] = V::store(sum);
            broken |= !is_finite(V::load(stored[i]));
        }
        out.store(e, k.shape.elements, stored);
        return broken;
    }

    CHUNKGRPO_DEVICE void finish_all(i64 blocks) const {
        if (!Collector::is_here()) return;
        const bool first = threadIdx.x == 0;
        bool broken = false;
#pragma unroll 1
        for (int which = 0; which < CHUNKGRPO_CUDA_SUMS; which++) {
            if (!wants(which)) continue;
            const double sum = sum_of_blocks(partial_sums(k.workspace, which, blocks), (u32)blocks, (double *)tiles);
            const double mean = quotient(sum, k.shape.total);
            double *place = place_of(k, which);
            if (first && place) place[blockIdx.y] = mean;
            broken |= !is_finite(mean);
        }
        if (first && broken) report(k.workspace, k.shape, k.place);
    }

    CHUNKGRPO_DEVICE void run() const {
        const Row<T> clean(k.clean, 0);
        const Row<V> v(k.v, 0), old(k.old, 0), reference(k.reference, 0), out(k.gradient, 0);
        const NoiseOfBlock<T> noise = {k.noise, k.shape, k.step, shared};
        const i64 count = k.shape.elements, blocks = block_count(k.shape);
        Collector collector;
        collector.arrive(k.workspace);
        if (threadIdx.x == 0) *coefficients = forward_coefficients(k);
        barrier();
        bool broken = false;
        each_block<C>(blocks, [&](i64 block, i64 e) CHUNKGRPO_LAMBDA {
            C vs[4], os[4] = {}, rs[4] = {}, u[4], xs[4];
            clean.load(e, count, xs);
            noise.get(block, e, u);
            minus(u, xs, u);
            v.load(e, count, vs);
            if (k.old.base) old.load(e, count, os);
            if (k.reference.base) reference.load(e, count, rs);
            if (k.workspace.partial) sums(block, blocks, vs, os, rs, u);
            if (k.gradient.base) broken |= gradient(out, e, vs, os, rs, u);
        });
        if (broken) report(k.workspace, k.shape, k.place);
        if (!k.workspace.partial) return;
        collector.tell();
        barrier();
        finish_all(blocks);
    }
};

template <class T, class V> CHUNKGRPO_DEVICE void forward_extras(const ForwardArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tiles, kTiles * kTile);
    CHUNKGRPO_SHARED(float, shared, kNormals);
    CHUNKGRPO_SHARED(ForwardCoefficients, coefficients, 1);
    ForwardExtras<T, V>{k, tiles, shared, coefficients}.run();
}
