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
template <class E, int unrolled = 64> CHUNKGRPO_DEVICE double sum_of(const typename E::Compute *tile) {
    const typename E::Compute *own = tile + (threadIdx.x & 15);
    typename E::Compute sum = 0;
#pragma unroll unrolled
    for (int row = 0; row < 64; row++) sum = add(sum, own[(row >> 2) * kGroup + (row & 3) * 16]);
    return fold<E::splits>(sum);
}

// Which of the launch's rows this is.
CHUNKGRPO_DEVICE u32 unit() { return blockIdx.z * gridDim.y + blockIdx.y; }

CHUNKGRPO_DEVICE i64 block_count(const Shape &shape) { return (shape.elements + kBlock - 1) / kBlock; }

// The blocks of threads that have so many blocks of a sample each, to their last element.
template <int each> CHUNKGRPO_DEVICE u32 whole_groups(const Shape &shape) {
    return (u32)((u64)shape.elements / (each * kBlock));
}

CHUNKGRPO_DEVICE double *partial_sums(const Workspace &w, int which, i64 blocks) {
    return w.partial + ((i64)which * gridDim.y * gridDim.z + unit()) * blocks;
}

CHUNKGRPO_DEVICE void report(const Workspace &w, const Shape &shape, u32 place) {
    if (w.status) claim(w.status, (u64)place << 32 | (u64)(shape.first_sample + blockIdx.y + 1));
}

// A partial sum goes to another block of threads as a word that is zero before the kernel and after it. Sums are at
// least +0, or NaN: with the sign turned none is zero. So a word says by itself that it is there, and no fence or count
// has to follow it.
static constexpr u64 kSign = (u64)1 << 63;

CHUNKGRPO_DEVICE void publish(double *to, double sum) { write_word((u64 *)to, bits(sum) ^ kSign); }

// The sum whose word was read a first time. Its block runs (see Collector), so that it comes: but for a workspace that
// two kernels use at once, where it is NaN after some seconds.
CHUNKGRPO_DEVICE double awaited(double *from, u64 word) {
    for (u32 tries = 1 << 22; !word && tries; tries--) word = read_word((const u64 *)from);
    write_word((u64 *)from, 0);
    return number(word ? word ^ kSign : (u64)0x7ff8000000000000);
}

// The block of threads that adds up a sample's partial sums: the one that begins last. All others run by then, and wait
// for nobody. Its count is asked for when a block begins and needed when it ends.
struct Collector {
    u32 before = 0; // of the first thread

    CHUNKGRPO_DEVICE void arrive(const Workspace &w) {
        if (threadIdx.x == 0 && w.partial) before = count(&w.arrived[unit()], gridDim.x);
    }

    // A barrier comes between both.
    CHUNKGRPO_DEVICE void tell() const {
        if (threadIdx.x == 0) *flag() = before == gridDim.x - 1;
    }
    CHUNKGRPO_DEVICE static bool is_here() { return *flag(); }

  private:
    CHUNKGRPO_DEVICE static u32 *flag() {
        CHUNKGRPO_SHARED(u32, last, 1);
        return last;
    }
};

// sum + Σ of up to 32 segments, for a whole warp: a lane takes a segment.
CHUNKGRPO_DEVICE double add_segments(double sum, const double *blocks, u32 segments) {
    double segment = 0;
#pragma unroll 8
    for (int i = 0; i < 16; i++) segment = add(segment, blocks[i]);
        // Eight at a time, so that the shuffles do not wait for the sum: past the end are zeros, which add nothing.
#pragma unroll 1
    for (u32 l = 0; l < 32 && l < segments; l += 8) {
        double eight[8];
#pragma unroll
        for (int i = 0; i < 8; i++) eight[i] = shuffle_from(segment, l + i);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = add(sum, eight[i]);
    }
    return sum;
}

// Σ of a sample's blocks, for the first warp; all threads call it. `space` in shared memory has room for 32 segments,
// 17 doubles apart so that lanes take different banks.
CHUNKGRPO_DEVICE double sum_of_blocks(double *partial, u32 blocks, double *space) {
    double *place = space + (threadIdx.x >> 4) * 17 + (threadIdx.x & 15);
    double sum = 0;
#pragma unroll 1
    for (u32 first = 0; first < blocks; first += 2 * kThreads) {
        const u32 left = blocks - first;
        const bool has_one = threadIdx.x < left, has_other = threadIdx.x + kThreads < left;
        double *from = partial + first + threadIdx.x;
        const u64 near = has_one ? read_word((const u64 *)from) : 0;
        const u64 far = has_other ? read_word((const u64 *)from + kThreads) : 0;
        const double one = has_one ? awaited(from, near) : 0, other = has_other ? awaited(from + kThreads, far) : 0;
        barrier();
        place[0] = one;
        place[kThreads / 16 * 17] = other;
        barrier();
        if (threadIdx.x < 32) sum = add_segments(sum, space + 17 * threadIdx.x, (left + 15) / 16);
    }
    return sum;
}

// What all threads do after their partial sums, and after a barrier: the collector's add up the sample's, and the first
// one gives them to `use`. `space`: of sum_of_blocks, and as many numbers more.
template <class Use>
CHUNKGRPO_DEVICE void finish(const Workspace &w, int sums, i64 blocks, void *space, const Use &use) {
    if (!Collector::is_here()) return;
    double *totals = (double *)space + 32 * 17;
#pragma unroll 1
    for (int which = 0; which < sums; which++) {
        const double sum = sum_of_blocks(partial_sums(w, which, blocks), (u32)blocks, (double *)space);
        if (threadIdx.x == 0) totals[which] = sum;
    }
    if (threadIdx.x == 0) use(totals);
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

// What all threads do when the squares of all blocks lie in `tile` (sums, blocks_each): a half of a warp adds up a
// tile.
template <class T, int sums, class Use>
CHUNKGRPO_DEVICE void finish_tiles(const Workspace &w, const Shape &shape, typename T::Compute *tile,
                                   const Collector &collector, const Use &use) {
    constexpr int each = blocks_each<typename T::Compute>(), tiles = sums * each;
    collector.tell();
    barrier();
    const i64 blocks = block_count(shape);
    if (threadIdx.x >> 5 <= (tiles - 1) >> 1) {
        const int half = threadIdx.x >> 4, own = half < tiles ? half : tiles - 1;
        const i64 block = (i64)blockIdx.x * each + (own & (each - 1));
        const double sum = sum_of<T>(tile + own * kTile);
        if ((threadIdx.x & 15) == 0 && half == own && block < blocks)
            publish(partial_sums(w, own / each, blocks) + block, sum);
    }
    finish(w, sums, blocks, tile, use);
}

// Tiles of a block of threads that has many sums.
static constexpr int kTiles = 4;

// Partial sums of one block of a sample, for kernels with any number of sums: those that wants(which) says, of the
// numbers that value(which, i) gives for each of a thread's four neighbours. All threads call it, and at last `finish`.
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
