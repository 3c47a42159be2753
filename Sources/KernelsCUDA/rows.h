// Reading and writing four neighbours of a row at a time.
#pragma once
#include "types.h"

typedef chunkgrpo_cuda_Rows Rows;

// As one vector: of four loads the compiler would move the last one into a branch that it shares.
template <class Store> struct FourOf {
    typedef Store Vector __attribute__((vector_size(4 * sizeof(Store))));
    static constexpr u64 alignment = sizeof(Store) == 8 ? 16 : 4 * sizeof(Store);
    typedef Vector Type __attribute__((aligned(alignment)));
};

// The row of this block's sample; `wide` if four neighbours are one access.
template <class E> struct Row {
    typedef typename FourOf<typename E::Store>::Type Four;
    typename E::Store *p;
    bool wide;

    CHUNKGRPO_DEVICE Row(const Rows &rows, u32 step)
        : p((typename E::Store *)((char *)rows.base + (i64)blockIdx.y * rows.batch_stride +
                                  (i64)step * rows.step_stride)),
          wide(((u64)p & (FourOf<typename E::Store>::alignment - 1)) == 0) {}

    CHUNKGRPO_DEVICE Row(typename E::Store *p, bool wide) : p(p), wide(wide) {}

    // The same where that is known.
    CHUNKGRPO_DEVICE Row as_wide() const { return Row(p, true); }

    // The elements from e on, of n: zeros past the end.
    CHUNKGRPO_DEVICE void load(i64 e, i64 n, typename E::Compute (&to)[4]) const {
        if (wide && e + 4 <= n) {
            const Four four = *(const Four *)(p + e);
#pragma unroll
            for (int i = 0; i < 4; i++) to[i] = E::load(four[i]);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) to[i] = e + i < n ? E::load(p[e + i]) : (typename E::Compute)0;
        }
    }

    CHUNKGRPO_DEVICE void store(i64 e, i64 n, const typename E::Store (&from)[4]) const {
        if (wide && e + 4 <= n) {
            *(Four *)(p + e) = Four{from[0], from[1], from[2], from[3]};
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (e + i < n) p[e + i] = from[i];
        }
    }
};

// scale d as stored in the row, rounded; whether one of them is not finite.
template <class E>
CHUNKGRPO_DEVICE bool store_scaled(const Row<E> &row, i64 e, i64 n, typename E::Compute scale,
                                   const typename E::Compute (&d)[4]) {
    typename E::Store stored[4];
    bool broken = false;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        stored[i] = E::store(mul(scale, d[i]));
        broken |= !is_finite(E::load(stored[i]));
    }
    row.store(e, n, stored);
    return broken;
}
