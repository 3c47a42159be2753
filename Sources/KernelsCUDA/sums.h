// Sums in the CPU's order (Lanes in Sixteens.swift, Pass.swift): within a block of 1,024 elements 16 lanes, element
// modulo 16, of 64 rows in the compute type; the lanes folded as the CPU folds its vectors; blocks in f64 within
// segments of 16; segments in f64.
#pragma once
#include "types.h"

typedef chunkgrpo_cuda_Shape Shape;
typedef chunkgrpo_cuda_Workspace Workspace;
typedef chunkgrpo_cuda_Numbers Numbers;

static constexpr int kBlock = 1024, kThreads = CHUNKGRPO_CUDA_THREADS;
// A block in shared memory: 16 groups of 64, 16 apart so that two groups take different banks. Two tiles are 16 apart
// too.
static constexpr int kGroup = 80, kTile = 16 * kGroup + 16;

// Blocks of a sample that a block of threads takes; see chunkgrpo_cuda_grid().
#ifndef CHUNKGRPO_BLOCKS_EACH
#define CHUNKGRPO_BLOCKS_EACH 2
#endif
template <class C> constexpr int blocks_each() { return sizeof(C) == 8 ? 1 : CHUNKGRPO_BLOCKS_EACH; }

// The lanes' sums, of which each half of a warp has one, to that of the block.
template <bool splits> CHUNKGRPO_DEVICE double fold(float lane) {
    const float eight = add(lane, shuffle_xor(lane, splits ? 1 : 8));
    const float four = add(eight, shuffle_xor(eight, splits ? 8 : 4));
    const double two = add(to_double(four), shuffle_xor(to_double(four), splits ? 2 : 1));
    return add(two, shuffle_xor(two, splits ? 4 : 2));
}

template <bool splits> CHUNKGRPO_DEVICE double fold(double lane) {
    const double eight = add(lane, shuffle_xor(lane, 8));
    const double four = add(eight, shuffle_xor(eight, 4));
    const double two = add(four, shuffle_xor(four, 1));
    return add(two, shuffle_xor(two, 2));
}

// The sum of a tile, for a half of a warp.
template <class E, int unrolled = 16> CHUNKGRPO_DEVICE double sum_of(const typename E::Compute *tile) {
    const int lane = threadIdx.x & 15;
    typename E::Compute sum = 0;
#pragma unroll unrolled
    for (int row = 0; row < 64; row++) sum = add(sum, tile[(row >> 2) * kGroup + (row & 3) * 16 + lane]);
    return fold<E::splits>(sum);
}

// Which of the launch's rows this is.
CHUNKGRPO_DEVICE u32 unit() { return blockIdx.z * gridDim.y + blockIdx.y; }

CHUNKGRPO_DEVICE i64 block_count(const Shape &shape) { return (shape.elements + kBlock - 1) / kBlock; }

CHUNKGRPO_DEVICE double *partial_sums(const Workspace &w, int which, i64 blocks) {
    return w.partial + ((i64)which * gridDim.y * gridDim.z + unit()) * blocks;
}

CHUNKGRPO_DEVICE void report(const Workspace &w, const Shape &shape, u32 place) {
    if (w.status) claim(w.status, (u64)place << 32 | (u64)(shape.first_sample + blockIdx.y + 1));
}

// Σ of a sample's blocks, for a whole warp: a lane takes a segment.
CHUNKGRPO_DEVICE double sum_of_blocks(const double *partial, i64 blocks) {
    const int lane = threadIdx.x & 31;
    double sum = 0;
    for (i64 first = 0; first < blocks; first += 32 * 16) {
        const i64 begin = first + 16 * lane;
        double segment = 0;
#pragma unroll 1
        for (int half = 0; half < 16; half += 8) {
            double block[8]; // more would not fit into registers
#pragma unroll
            for (int i = 0; i < 8; i++)
                block[i] = begin + half + i < blocks ? published(partial + begin + half + i) : 0;
#pragma unroll
            for (int i = 0; i < 8; i++) segment = add(segment, block[i]);
        }
        const i64 left = (blocks - first + 15) / 16;
        // Eight at a time, so that the shuffles do not wait for the sum: past the end are zeros, which add nothing.
#pragma unroll 1
        for (int l = 0; l < 32 && l < left; l += 8) {
            double segments[8];
#pragma unroll
            for (int i = 0; i < 8; i++) segments[i] = shuffle_from(segment, l + i);
#pragma unroll
            for (int i = 0; i < 8; i++) sum = add(sum, segments[i]);
        }
    }
    return sum;
}

// Whether this warp is the last of `arrivals` whose partial sums of a sample are there.
CHUNKGRPO_DEVICE bool is_last(const Workspace &w, u32 arrivals) {
    const bool first = (threadIdx.x & 31) == 0;
    const u32 before = shuffle_from(first ? arrive(&w.arrived[unit()]) : 0, 0);
    if (before != arrivals - 1) return false;
    warp_barrier();
    if (first) w.arrived[unit()] = 0;
    return true;
}

// What a warp does after its partial sums: the last one adds up the sample's and gives them to `use`.
template <int sums, class Use>
CHUNKGRPO_DEVICE void finish(const Workspace &w, u32 arrivals, i64 blocks, const Use &use) {
    if (!is_last(w, arrivals)) return;
    double sum[sums];
#pragma unroll
    for (int which = 0; which < sums; which++) sum[which] = sum_of_blocks(partial_sums(w, which, blocks), blocks);
    if ((threadIdx.x & 31) == 0) use(sum);
}

// The tile of a sample's block, where each block of this block of threads has its own.
template <class C> CHUNKGRPO_DEVICE C *tile_of(C *tiles, i64 block) {
    return tiles + (block & (blocks_each<C>() - 1)) * kTile;
}

// The squares of a thread's four neighbours into a block's tile.
template <class C> CHUNKGRPO_DEVICE void keep_squares(C *tile, const C (&d)[4]) {
    C *place = tile + (threadIdx.x >> 4) * kGroup + 4 * (threadIdx.x & 15);
#pragma unroll
    for (int i = 0; i < 4; i++) place[i] = mul(d[i], d[i]);
}

// What all threads do after a barrier when the squares of all blocks lie in `tile` (sums, blocks_each): a half of a
// warp adds up one of two blocks.
template <class T, int sums, class Use>
CHUNKGRPO_DEVICE void finish_tiles(const Workspace &w, const Shape &shape, const typename T::Compute *tile,
                                   const Use &use) {
    constexpr int each = blocks_each<typename T::Compute>();
    const int which = threadIdx.x >> 5, half = each == 2 ? threadIdx.x >> 4 & 1 : 0;
    if (which >= sums) return;
    const i64 blocks = block_count(shape), first = (i64)blockIdx.x * each;
    const double sum = sum_of<T>(tile + (which * each + half) * kTile), second = shuffle_from(sum, 16);
    if ((threadIdx.x & 31) == 0) {
        double *partial = partial_sums(w, which, blocks) + first;
        publish(partial, sum);
        if (each == 2 && first + 1 < blocks) publish(partial + 1, second);
    }
    finish<sums>(w, sums * gridDim.x, blocks, use);
}

// The same for any number of sums, which `totals` in shared memory has room for.
template <class Use>
CHUNKGRPO_DEVICE void finish_each(const Workspace &w, int sums, u32 arrivals, i64 blocks, double *totals,
                                  const Use &use) {
    if (!is_last(w, arrivals)) return;
#pragma unroll 1
    for (int which = 0; which < sums; which++) {
        const double sum = sum_of_blocks(partial_sums(w, which, blocks), blocks);
        if ((threadIdx.x & 31) == 0) totals[which] = sum;
    }
    if ((threadIdx.x & 31) == 0) use(totals);
}

// Tiles of a block of threads that has many sums.
static constexpr int kTiles = 4;

// Partial sums of one block of a sample, for kernels with any number of sums: those that wants(which) says, of the
// numbers that value(which, i) gives for each of a thread's four neighbours. All threads call it, and at last the first
// warp calls `finish_each`.
template <class E, class Wants, class Value>
CHUNKGRPO_DEVICE void add_up(const Workspace &w, typename E::Compute *tiles, int sums, i64 block, i64 blocks,
                             const Wants &wants, const Value &value) {
    const int t = threadIdx.x, warp = t >> 5;
    int filled = 0;
    u32 order = 0; // which sum is in which tile, 8 bits each
#pragma unroll 1
    for (int which = 0; which <= sums; which++) {
        if (which < sums && wants(which)) {
            typename E::Compute *place = tiles + filled * kTile + (t >> 4) * kGroup + 4 * (t & 15);
#pragma unroll
            for (int i = 0; i < 4; i++) place[i] = value(which, i);
            order |= (u32)which << (8 * filled++);
        }
        if (filled < kTiles && (which < sums || filled == 0)) continue;
        barrier();
        if (warp < filled) {
            const double sum = sum_of<E, 4>(tiles + warp * kTile);
            if ((t & 31) == 0) publish(partial_sums(w, (int)(order >> (8 * warp) & 255), blocks) + block, sum);
        }
        barrier();
        filled = 0;
        order = 0;
    }
}

// Calls body(block of the sample, its first element of this thread) for each block of this block of threads.
template <class C, class Body> CHUNKGRPO_DEVICE void each_block(i64 blocks, const Body &body) {
    const i64 first = (i64)blockIdx.x * blocks_each<C>();
#pragma unroll 1
    for (i64 block = first; block < first + blocks_each<C>() && block < blocks; block++)
        body(block, block * kBlock + 4 * (i64)threadIdx.x);
}

// constant + factor Σd²/total
CHUNKGRPO_DEVICE double result(const Numbers &n, const Shape &shape, double squares) {
    return add(n.constant, mul(n.factor, quotient(squares, shape.total)));
}

// mean|x' - x| / (mean|x| + 1e-8)
CHUNKGRPO_DEVICE double relative_change(const Shape &shape, double change, double size) {
    return quotient(quotient(change, shape.total), add(quotient(size, shape.total), 1e-8));
}
