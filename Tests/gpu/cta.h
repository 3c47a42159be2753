// Blocks of threads on the CPU. Each thread is a fiber, which a barrier, a shuffle or an atomic operation leaves; which
// one goes on is drawn anew each time, in several blocks at once, so that a missing barrier or a race between blocks
// shows. What a thread publishes is seen by others late, and not in the order of writing.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

struct Dimensions {
    unsigned x, y, z;
};

namespace cta {

enum Wait { nothing, block, warp };

typedef std::vector<std::pair<uint64_t *, uint64_t>> Unseen; // written, and not yet visible to others

struct Fiber {
    jmp_buf context;
    std::unique_ptr<char[]> stack;
    bool begun = false, done = false;
    Wait wait = nothing;
    uint64_t slot = 0;
    Unseen unseen;
};

struct Block {
    std::vector<Fiber> fibers;
    Dimensions index;
    std::map<const void *, std::vector<char>> shared;
    std::vector<char> memory; // of the PTX's shared variables
    Unseen unseen;            // of all of its threads at the last barrier
};

typedef std::function<void(const void *arguments)> Kernel;

struct Entry {
    Kernel run;
    size_t size; // of the arguments
};

inline std::map<std::string, Entry> &kernels() {
    static std::map<std::string, Entry> all;
    return all;
}
struct Register {
    Register(const std::string &name, Entry entry) { kernels()[name] = entry; }
};

inline constexpr int threads = 256, warp_size = 32, at_once = 3;
inline constexpr size_t stack_size = 96 << 10, shared_room = 256 << 10;

inline std::vector<Block *> active;
inline Unseen late; // of blocks that have ended

inline Dimensions thread_index, block_index, grid;
inline const Kernel *kernel;
inline const void *arguments;
inline jmp_buf scheduler;
inline Block *current_block;
inline Fiber *current;

inline uint64_t random_state = 88172645463325252ull;
inline unsigned draw() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 32);
}

inline void yield(Wait wait) {
    current->wait = wait;
    if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

inline void hand_on(Fiber &from, Unseen &to) {
    to.insert(to.end(), from.unseen.begin(), from.unseen.end());
    from.unseen.clear();
}

inline void show(Unseen &unseen) {
    for (auto &[to, value] : unseen) *to = value;
    unseen.clear();
}

inline void entry() {
    (*kernel)(arguments);
    hand_on(*current, current_block->unseen);
    current->done = true;
    current->wait = nothing;
    _longjmp(scheduler, 1);
}

inline void resume(Block &b, int t) {
    Fiber &f = b.fibers[t];
    current_block = &b;
    current = &f;
    thread_index = {(unsigned)t, 0, 0};
    block_index = b.index;
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.context, 1);
    f.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = f.stack.get();
    context.uc_stack.ss_size = stack_size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
    setcontext(&context);
}

inline void begin(Block &b, Dimensions index) {
    b.index = index;
    b.fibers.resize(threads);
    for (auto &[tag, memory] : b.shared) memset(memory.data(), 0xff, memory.size());
    b.memory.assign(shared_room, (char)0xff);
    for (auto &f : b.fibers) {
        if (!f.stack) f.stack.reset(new char[stack_size]);
        f.begun = f.done = false;
        f.wait = nothing;
    }
}

// A warp goes on when all of its threads that live wait for it; the block likewise. False when all are done.
inline bool release(Block &b, bool ran) {
    int living = 0, waiting = 0;
    for (int w = 0; w < threads; w += warp_size) {
        int living_here = 0, at = 0;
        for (int t = w; t < w + warp_size; t++)
            if (!b.fibers[t].done) living_here++, at += b.fibers[t].wait == warp, waiting += b.fibers[t].wait == block;
        living += living_here;
        if (!at || at != living_here) continue;
        for (int t = w; t < w + warp_size; t++) b.fibers[t].wait = nothing;
        ran = true;
    }
    if (!living) return false;
    if (waiting == living)
        for (auto &f : b.fibers) {
            f.wait = nothing;
            hand_on(f, b.unseen);
        }
    else if (!ran) fprintf(stderr, "deadlock: %d threads, %d at the barrier\n", living, waiting), abort();
    return true;
}

// Runs each thread that can, in an order that is drawn, up to where it next waits.
inline bool turn(Block &b) {
    static std::vector<int> order;
    order.clear();
    for (int t = 0; t < threads; t++)
        if (!b.fibers[t].done && b.fibers[t].wait == nothing) order.push_back(t);
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[draw() % i]);
    for (int t : order) resume(b, t);
    return release(b, !order.empty());
}

inline bool launch(const std::string &name, const void *given, unsigned x, unsigned y, unsigned z) {
    static Block blocks[at_once];
    auto found = kernels().find(name);
    if (found == kernels().end()) return false;
    kernel = &found->second.run;
    arguments = given;
    grid = {x, y, z};
    std::vector<Dimensions> left;
    for (unsigned i = 0; i < x * y * z; i++) left.push_back({i % x, i / x % y, i / x / y});
    for (size_t i = left.size(); i > 1; i--) std::swap(left[i - 1], left[draw() % i]);
    for (auto &b : blocks)
        if (!left.empty()) begin(b, left.back()), left.pop_back(), active.push_back(&b);
    while (!active.empty()) {
        const unsigned i = draw() % active.size();
        if (turn(*active[i])) continue;
        late.insert(late.end(), active[i]->unseen.begin(), active[i]->unseen.end());
        active[i]->unseen.clear();
        if (left.empty()) active.erase(active.begin() + i);
        else begin(*active[i], left.back()), left.pop_back();
    }
    show(late);
    return true;
}

inline uint64_t shuffle(uint64_t value, int lane) {
    current->slot = value;
    const int own = thread_index.x;
    yield(warp);
    const uint64_t other = current_block->fibers[(own & ~31) | lane].slot;
    yield(warp);
    return other;
}

inline void publish(uint64_t *to, uint64_t value) { current->unseen.push_back({to, value}); }

// Some of what has been written becomes visible to all: of a block what came before its last barrier first.
inline void show_some() {
    if (draw() & 1) show(late);
    for (Block *b : active) {
        if (draw() & 1) show(b->unseen);
        for (auto &f : b->fibers)
            if (b->unseen.empty() && draw() & 1) show(f.unseen);
    }
}

// What is read again and again comes at some time, if it was written.
inline uint64_t published(const uint64_t *from) {
    static int in_vain;
    for (auto *unseen : {&current->unseen, &current_block->unseen})
        for (auto i = unseen->rbegin(); i != unseen->rend(); i++)
            if (i->first == from) return i->second;
    if (*from) return in_vain = 0, *from;
    if (++in_vain > 3000000) fprintf(stderr, "deadlock: a word that nobody writes\n"), exit(1);
    yield(nothing);
    if (!(draw() & 63)) show_some();
    return *from;
}

inline uint32_t count(uint32_t *counter, uint32_t last) {
    const uint32_t before = *counter;
    *counter = before >= last ? 0 : before + 1;
    yield(nothing);
    return before;
}

inline uint64_t claim(uint64_t *word, uint64_t expected, uint64_t value) {
    const uint64_t before = *word;
    if (before == expected) *word = value;
    return before;
}

template <class T> T *shared(const void *tag, size_t count) {
    auto &memory = current_block->shared[tag];
    if (memory.empty()) memory.assign(count * sizeof(T) + 16, (char)0xff);
    return (T *)(((uintptr_t)memory.data() + 15) & ~(uintptr_t)15);
}

} // namespace cta
