// Distances of the forward process, from u = noise - clean: ForwardPass, ForwardExtrasPass and ForwardUpstream.
#pragma once
#include "step.h"

typedef chunkgrpo_cuda_ForwardArguments ForwardArguments;

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
        if (!is_last(k.workspace, gridDim.x)) return;
        const bool first = threadIdx.x == 0;
        bool broken = false;
#pragma unroll 1
        for (int which = 0; which < CHUNKGRPO_CUDA_SUMS; which++) {
            if (!wants(which)) continue;
            const double sum = sum_of_blocks(partial_sums(k.workspace, which, blocks), blocks);
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
        if (k.workspace.partial && threadIdx.x < 32) finish_all(blocks);
    }
};

template <class T, class V> CHUNKGRPO_DEVICE void forward_distance(const ForwardArguments &k) {
    typedef typename T::Compute C;
    CHUNKGRPO_SHARED(C, tiles, kTiles * kTile);
    CHUNKGRPO_SHARED(float, shared, kNormals);
    CHUNKGRPO_SHARED(ForwardCoefficients, coefficients, 1);
    ForwardExtras<T, V>{k, tiles, shared, coefficients}.run();
}
