// Runs the text of PTX on the CPU, in the fibers of cta.h: what is rounded, contracted or left out is what the text
// says. For the instructions that the kernels have; another one is an error, and so is an addition or product of floats
// without .rn, which ptxas may contract, a fused one, an approximate one and one that flushes subnormal numbers. ptxas
// and the device come after it.
#pragma once
#include "cta.h"
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <stdexcept>

namespace ptx {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Value {
    enum Kind : uint8_t { constant, reg, tid, cta_x, cta_y, cta_z, grid_x, grid_y, grid_z } kind = constant;
    uint64_t number = 0; // or the register's
};

struct Thread;
struct Instruction {
    void (*run)(Thread &, const Instruction &) = nullptr;
    int guard = -1, width = 1, target = 0;
    bool unless = false;
    Value v[8]; // the result's register, then operands; of memory the registers, then the address at v[width]
    int64_t offset = 0;
};

struct Kernel {
    std::vector<Instruction> code;
    int registers = 0;
    size_t size = 0; // of the arguments
};

struct Thread {
    uint64_t *r;
    const char *arguments;
    size_t at;
};

inline uint64_t get(Thread &t, const Value &v) {
    switch (v.kind) {
        case Value::constant: return v.number;
        case Value::reg: return t.r[v.number];
        case Value::tid: return cta::thread_index.x;
        case Value::cta_x: return cta::block_index.x;
        case Value::cta_y: return cta::block_index.y;
        case Value::cta_z: return cta::block_index.z;
        case Value::grid_x: return cta::grid.x;
        case Value::grid_y: return cta::grid.y;
        default: return cta::grid.z;
    }
}

template <class T> T as(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> uint64_t bits(T value) {
    uint64_t result = 0;
    memcpy(&result, &value, sizeof value);
    return result;
}
template <class T> T get(Thread &t, const Instruction &i, int n) { return as<T>(get(t, i.v[n])); }
template <class T> void put(Thread &t, const Instruction &i, T value) { t.r[i.v[0].number] = bits(value); }

// Result and two operands of type T.
template <class T, class F> void binary(Thread &t, const Instruction &i) {
    put<T>(t, i, F()(get<T>(t, i, 1), get<T>(t, i, 2)));
}
template <class T, class F> void unary(Thread &t, const Instruction &i) { put<T>(t, i, F()(get<T>(t, i, 1))); }
template <class T, class F> void compare(Thread &t, const Instruction &i) {
    put<uint32_t>(t, i, F()(get<T>(t, i, 1), get<T>(t, i, 2)));
}

template <class T> struct Shift { static constexpr unsigned width = 8 * sizeof(T); };
template <class T> void shift_left(Thread &t, const Instruction &i) {
    const uint32_t n = get<uint32_t>(t, i, 2);
    put<T>(t, i, n >= Shift<T>::width ? T(0) : T(get<T>(t, i, 1) << n));
}
template <class T> void shift_right(Thread &t, const Instruction &i) {
    const uint32_t n = std::min(get<uint32_t>(t, i, 2), Shift<T>::width - 1);
    const bool out = get<uint32_t>(t, i, 2) >= Shift<T>::width && std::is_unsigned_v<T>;
    put<T>(t, i, out ? T(0) : T(get<T>(t, i, 1) >> n));
}

template <class T> struct Wide;
template <> struct Wide<uint16_t> { typedef uint32_t Type; };
template <> struct Wide<int16_t> { typedef int32_t Type; };
template <> struct Wide<uint32_t> { typedef uint64_t Type; };
template <> struct Wide<int32_t> { typedef int64_t Type; };
template <class T> void wide_product(Thread &t, const Instruction &i) {
    typedef typename Wide<T>::Type W;
    put<W>(t, i, W(get<T>(t, i, 1)) * W(get<T>(t, i, 2)));
}
inline void high_product(Thread &t, const Instruction &i) {
    put<uint32_t>(t, i, uint32_t(uint64_t(get<uint32_t>(t, i, 1)) * get<uint32_t>(t, i, 2) >> 32));
}
template <class T> void low_sum(Thread &t, const Instruction &i) { // of integers: mad.lo
    put<T>(t, i, T(get<T>(t, i, 1) * get<T>(t, i, 2) + get<T>(t, i, 3)));
}
template <class T> void bit_field(Thread &t, const Instruction &i) {
    const uint32_t start = get<uint32_t>(t, i, 2), length = get<uint32_t>(t, i, 3);
    put<T>(t, i, T((uint64_t(get<T>(t, i, 1)) >> start) & ((1ull << length) - 1)));
}

template <class T> void move(Thread &t, const Instruction &i) { put<T>(t, i, get<T>(t, i, 1)); }
template <class T> void select(Thread &t, const Instruction &i) {
    put<T>(t, i, get(t, i.v[3]) ? get<T>(t, i, 1) : get<T>(t, i, 2));
}
template <class D, class S> void convert(Thread &t, const Instruction &i) { put<D>(t, i, D(get<S>(t, i, 1))); }
template <class T, class H> void split(Thread &t, const Instruction &i) { // two halves of the last operand
    const uint64_t whole = get(t, i.v[2]);
    t.r[i.v[0].number] = bits(H(whole));
    t.r[i.v[1].number] = bits(H(whole >> 8 * sizeof(H)));
}
template <class T, class H> void join(Thread &t, const Instruction &i) {
    put<T>(t, i, T(T(get<H>(t, i, 2)) << 8 * sizeof(H) | get<H>(t, i, 1)));
}

enum Space { global, shared, param };

template <Space space> char *address(Thread &t, const Instruction &i, size_t size) {
    const uint64_t at = get(t, i.v[i.width]) + i.offset;
    if (space == global) {
        if (at % (size * i.width)) throw Error("a misaligned access");
        return (char *)at;
    }
    if (space == param) return const_cast<char *>(t.arguments) + at;
    return cta::current_block->memory.data() + uint32_t(at);
}

template <class T, Space space> void load(Thread &t, const Instruction &i) {
    const char *from = address<space>(t, i, sizeof(T));
    for (int n = 0; n < i.width; n++) {
        T value;
        memcpy(&value, from + n * sizeof(T), sizeof(T));
        t.r[i.v[n].number] = bits(value);
    }
}
template <class T, Space space> void store(Thread &t, const Instruction &i) {
    char *to = address<space>(t, i, sizeof(T));
    // Words that other blocks read have 8 bytes; see cta.h.
    if (space == global && sizeof(T) == 8 && i.width == 1) return cta::publish((uint64_t *)to, get(t, i.v[0]));
    for (int n = 0; n < i.width; n++) {
        const T value = get<T>(t, i, n);
        memcpy(to + n * sizeof(T), &value, sizeof(T));
    }
}
inline void load_relaxed(Thread &t, const Instruction &i) {
    t.r[i.v[0].number] = cta::published((const uint64_t *)address<global>(t, i, 8));
}
inline void count_atomically(Thread &t, const Instruction &i) {
    t.r[i.v[0].number] = cta::count((uint32_t *)(get(t, i.v[1]) + i.offset), get<uint32_t>(t, i, 2));
}
inline void compare_and_swap(Thread &t, const Instruction &i) {
    t.r[i.v[0].number] = cta::claim((uint64_t *)(get(t, i.v[1]) + i.offset), get(t, i.v[2]), get(t, i.v[3]));
}
inline void shuffle_xor(Thread &t, const Instruction &i) {
    const uint32_t lane = (cta::thread_index.x & 31) ^ get<uint32_t>(t, i, 2);
    t.r[i.v[0].number] = cta::shuffle(get<uint32_t>(t, i, 1), (int)lane);
}
inline void shuffle_from(Thread &t, const Instruction &i) {
    t.r[i.v[0].number] = cta::shuffle(get<uint32_t>(t, i, 1), get<int32_t>(t, i, 2) & 31);
}
inline void block_barrier(Thread &, const Instruction &) { cta::yield(cta::block); }
inline void warp_barrier(Thread &, const Instruction &) { cta::yield(cta::warp); }
inline void branch(Thread &t, const Instruction &i) { t.at = i.target; }
inline void leave(Thread &t, const Instruction &) { t.at = SIZE_MAX; }

inline void run(const Kernel &kernel, const void *arguments) {
    std::vector<uint64_t> registers(kernel.registers);
    Thread t = {registers.data(), (const char *)arguments, 0};
    while (t.at < kernel.code.size()) {
        const Instruction &i = kernel.code[t.at++];
        if (i.guard < 0 || (t.r[i.guard] != 0) != i.unless) i.run(t, i);
    }
}

} // namespace ptx

#include "ptx_parser.h"
