// A libcuda.so.1 without a GPU. Device memory is memory of the host's that the host may not touch: an access ends the
// process. Kernels are the library's own source (../source.cpp), in random thread order. Work is done when somebody
// waits for it, so that what returns too early or is gone too soon shows. There are two devices, and a kernel may touch
// the memory of its own alone.
//
// FAKE_CUDA_ANY_POINTER=1: any address is memory of device 0, and work is done at once, so that arrays of the host's
// can stand for those of a device.
#include "../cta.h"

#include <sys/mman.h>
#include <algorithm>
#include <deque>
#include <functional>
#include <mutex>

typedef int Result;
typedef unsigned long long Address;

enum {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    invalid_handle = 400,
    not_found = 500,
    launch_failed = 719,
    capture_unsupported = 900
};

namespace {

enum { devices = 2 };

struct Memory {
    size_t size;
    int device;
};
struct Stream {
    int device;
    bool captures = false;
    std::deque<std::function<bool()>> work, captured;
};
struct Module {
    int device;
    std::string text;
};
struct Function {
    int device;
    std::string name;
};

std::recursive_mutex mutex;
std::map<Address, Memory> memory;
int contexts[devices];
Stream defaults[devices];
std::vector<Stream *> streams;
thread_local std::vector<int> current;
int launches, waits, allocations, in_capture;

bool any_pointer() {
    static const bool any = getenv("FAKE_CUDA_ANY_POINTER") != nullptr;
    return any;
}

// All memory of a device, so that one call opens and closes it. What is freed is not used again.
const size_t arena_size = (size_t)1 << 32;
char *arenas[devices];
size_t used[devices];

void open(int device, int mode) {
    if (used[device]) mprotect(arenas[device], used[device], mode);
}

char *take(int device, size_t size) {
    size = (size + 8191) & ~(size_t)4095; // with a page that belongs to nobody
    if (!arenas[device])
        arenas[device] =
            (char *)mmap(nullptr, arena_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arenas[device] == MAP_FAILED || size > arena_size - used[device]) return nullptr;
    used[device] += size;
    return arenas[device] + used[device] - size;
}

// Work that a capture forbids.
Result outside_capture(Result result) {
    for (Stream *s : streams)
        if (s->captures) return in_capture++, capture_unsupported;
    return result;
}

bool finish(Stream &s) {
    bool ok = true;
    if (s.work.empty()) return ok;
    open(s.device, PROT_READ | PROT_WRITE);
    while (!s.work.empty()) ok = s.work.front()() && ok, s.work.pop_front();
    open(s.device, PROT_NONE);
    return ok;
}

Result finish_device(int device) {
    waits++;
    if (Result r = outside_capture(success)) return r;
    bool ok = finish(defaults[device]);
    for (Stream *s : streams)
        if (s->device == device) ok = finish(*s) && ok;
    return ok ? success : launch_failed;
}

Stream *stream_of(void *handle) {
    if (!handle) return &defaults[current.back()];
    auto found = std::find(streams.begin(), streams.end(), handle);
    return found == streams.end() && !any_pointer() ? nullptr : found == streams.end() ? &defaults[0] : *found;
}

typedef std::lock_guard<std::recursive_mutex> Lock;

} // namespace

#define IN_CONTEXT    \
    Lock lock(mutex); \
    if (current.empty()) return invalid_context

extern "C" {

Result cuInit(unsigned) { return success; }
Result cuDriverGetVersion(int *version) { return *version = 12080, success; }
Result cuDeviceGet(int *device, int number) {
    if (number < 0 || number >= devices) return invalid_device;
    return *device = number, success;
}
Result cuDeviceGetCount(int *count) { return *count = devices, success; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &contexts[device], success; }
Result cuCtxPushCurrent_v2(void *context) {
    const long device = (int *)context - contexts;
    if (device < 0 || device >= devices) return invalid_context;
    return current.push_back((int)device), success;
}
Result cuCtxPopCurrent_v2(void **context) {
    if (current.empty()) return invalid_context;
    *context = &contexts[current.back()];
    return current.pop_back(), success;
}
Result cuCtxSynchronize(void) {
    IN_CONTEXT;
    return finish_device(current.back());
}

Result cuModuleLoadData(void **module, const void *image) {
    IN_CONTEXT;
    if (Result r = outside_capture(success)) return r;
    const std::string text = (const char *)image;
    if (text.find(".version 7.0") == std::string::npos || text.find(".target sm_75") == std::string::npos)
        return invalid_image;
    return *module = new Module{current.back(), text}, success;
}
Result cuModuleGetFunction(void **function, void *module, const char *name) {
    IN_CONTEXT;
    const Module &m = *(Module *)module;
    if (m.device != current.back()) return invalid_context;
    // Both the text and the source have it.
    if (m.text.find(std::string(".entry ") + name + "(") == std::string::npos || !cta::kernels().count(name))
        return not_found;
    return *function = new Function{m.device, name}, success;
}
Result cuFuncGetAttribute(int *value, int, void *) {
    IN_CONTEXT;
    if (Result r = outside_capture(success)) return r;
    return *value = 32, success;
}

Result cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                      unsigned shared, void *handle, void **arguments, void **) {
    IN_CONTEXT;
    const Function f = *(Function *)function;
    Stream *stream = stream_of(handle);
    if (f.device != current.back()) return invalid_context;
    if (!stream || stream->device != f.device) return invalid_handle;
    if (!x || !y || !z || y > 65535 || z > 65535 || threads != cta::threads || shared) return invalid_value;
    const char *given = (const char *)arguments[0];
    const std::vector<char> copy(given, given + cta::kernels()[f.name].size);
    auto work = [=] { return cta::launch(f.name, copy.data(), x, y, z); };
    launches++;
    if (stream->captures) return stream->captured.push_back(work), success;
    stream->work.push_back(work);
    return any_pointer() && !finish(*stream) ? launch_failed : success;
}

Result cuPointerGetAttribute(void *value, int attribute, Address address) {
    Lock lock(mutex);
    if (attribute != 9) return invalid_value;
    if (any_pointer()) return *(int *)value = 0, success;
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return invalid_value;
    const auto &[start, block] = *--after;
    if (address >= start + block.size) return invalid_value;
    return *(int *)value = block.device, success;
}

Result cuGetErrorString(Result result, const char **text) {
    static const std::map<Result, const char *> texts = {
        {invalid_value, "invalid argument"},
        {out_of_memory, "out of memory"},
        {invalid_device, "invalid device ordinal"},
        {invalid_image, "device kernel image is invalid"},
        {invalid_context, "invalid device context"},
        {invalid_handle, "invalid resource handle"},
        {not_found, "named symbol not found"},
        {launch_failed, "unspecified launch failure"},
        {capture_unsupported, "operation not permitted when stream is capturing"}};
    auto found = texts.find(result);
    if (found == texts.end()) return invalid_value;
    return *text = found->second, success;
}

Result cuMemAlloc_v2(Address *address, size_t size) {
    IN_CONTEXT;
    allocations++;
    if (Result r = outside_capture(success)) return r;
    if (any_pointer()) return *address = (Address)calloc(size + 1, 1), success;
    *address = (Address)take(current.back(), size);
    if (!*address) return out_of_memory;
    return memory[*address] = {size, current.back()}, success;
}
Result cuMemFree_v2(Address address) {
    IN_CONTEXT;
    if (any_pointer()) return free((void *)address), success;
    auto found = memory.find(address);
    if (found == memory.end()) return invalid_value;
    finish_device(found->second.device);
    return memory.erase(found), success;
}

// On the legacy default stream, which waits for all others.
static Result transfer(Address device, const std::function<void()> &body) {
    IN_CONTEXT;
    int place = 0;
    if (cuPointerGetAttribute(&place, 9, device)) return invalid_value;
    if (Result r = finish_device(place)) return r;
    open(place, PROT_READ | PROT_WRITE);
    body();
    open(place, PROT_NONE);
    return success;
}
Result cuMemcpyHtoD_v2(Address to, const void *from, size_t size) {
    return transfer(to, [=] { memcpy((void *)to, from, size); });
}
Result cuMemcpyDtoH_v2(void *to, Address from, size_t size) {
    return transfer(from, [=] { memcpy(to, (void *)from, size); });
}
Result cuMemsetD8_v2(Address to, unsigned char value, size_t size) {
    return transfer(to, [=] { memset((void *)to, value, size); });
}
// On a stream: it waits for nothing.
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *handle) {
    IN_CONTEXT;
    int there = 0, here = 0;
    Stream *stream = stream_of(handle);
    if (!stream) return invalid_handle;
    if (cuPointerGetAttribute(&there, 9, to) || cuPointerGetAttribute(&here, 9, from) || there != here ||
        there != stream->device)
        return invalid_value;
    auto work = [=] { return memcpy((void *)to, (const void *)from, size), true; };
    if (stream->captures) return stream->captured.push_back(work), success;
    stream->work.push_back(work);
    return any_pointer() && !finish(*stream) ? launch_failed : success;
}

Result cuStreamCreate(void **stream, unsigned) {
    IN_CONTEXT;
    streams.push_back(new Stream{current.back()});
    return *stream = streams.back(), success;
}
Result cuStreamSynchronize(void *handle) {
    IN_CONTEXT;
    waits++;
    Stream *stream = stream_of(handle);
    if (!stream) return invalid_handle;
    if (Result r = outside_capture(success)) return r;
    return finish(*stream) ? success : launch_failed;
}

// Graphs, as far as the tests need them: a graph is what its stream captured.
Result cuStreamBeginCapture_v2(void *handle, int) {
    IN_CONTEXT;
    if (!handle || !stream_of(handle)) return invalid_handle;
    Stream *stream = stream_of(handle);
    return stream->captures = true, stream->captured.clear(), success;
}
Result cuStreamEndCapture(void *handle, void **graph) {
    IN_CONTEXT;
    Stream *stream = stream_of(handle);
    stream->captures = false;
    return *graph = new auto(stream->captured), success;
}
Result fake_graph_launch(void *graph, void *handle) {
    IN_CONTEXT;
    for (auto &work : *(std::deque<std::function<bool()>> *)graph) stream_of(handle)->work.push_back(work);
    return success;
}

// For tests: what has been counted since the last question. 0 launches, 1 waits, 2 allocations, 3 refused in a capture.
int fake_count(int which) {
    Lock lock(mutex);
    return std::exchange(which == 0 ? launches : which == 1 ? waits : which == 2 ? allocations : in_capture, 0);
}
int fake_pending(void *stream) {
    Lock lock(mutex);
    return (int)((Stream *)stream)->work.size();
}
// How many contexts this thread has pushed.
int fake_depth(void) { return (int)current.size(); }

__attribute__((constructor)) static void start(void) {
    for (int i = 0; i < devices; i++) defaults[i].device = i;
}
}
