/*
 * chunkgrpo.hpp - chunkgrpo.h for C++17 and newer. There is nothing to build: it calls the functions of chunkgrpo.h,
 * which stays the manual.
 *
 *     namespace cg = chunkgrpo;
 *
 *     cg::ScheduleOptions spacing;
 *     spacing.shift = 3;
 *     cg::Sampler sampler(cg::schedule_make(17, spacing));
 *     cg::Trajectory<float> trajectory(sampler, {48, 64});
 *     cg::normal(7, CGRPO_INITIAL_NOISE, trajectory.at(0));
 *     cg::Noise noise(7);
 *     sampler.rollout(trajectory, 17, &noise, model);
 *
 * examples/cpp/first.cpp is a whole program.
 *
 * Names     A function has its C name without cgrpo_. Where it begins with a handle it is a method of Sampler, History
 *           or Trainer. cgrpo_chunk_loss_options is ChunkLossOptions, with its defaults and size set.
 * Errors    A call that fails throws Error, with the status and the sentence of cgrpo_last_error.
 * Arrays    Span<T> takes vectors, arrays, std::span, a pointer with a size, or a list in braces. An empty one, {}, is
 * a null pointer. A span of the wrong size is refused before the call. Results come as vectors; for arrays of a
 *           tensor's device, and where nothing may be allocated, pass a span.
 * Tensors   Tensor(x, {B, D}) borrows x, as cgrpo_tensor does; ConstTensor is one that is only read. What borrows, a
 *           span of braces too, lives as long as the call: keep arrays that an option struct points to.
 * Callbacks Any callable. To stop, it throws, and its exception leaves the call: no exception crosses the library.
 * Handles   can be moved, not copied, and free themselves.
 */
#ifndef CHUNKGRPO_HPP
#define CHUNKGRPO_HPP

#include "chunkgrpo.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace chunkgrpo {

/* ==================================================================================================================
 * 1. Basics
 * ================================================================================================================ */

/** A call that failed. what() is the sentence that names the argument, its value and its bounds. */
class Error : public std::runtime_error {
  public:
    Error(cgrpo_status status, const std::string &message) : std::runtime_error(message), status_(status) {}

    cgrpo_status status() const noexcept { return status_; }
    const char *name() const noexcept { return cgrpo_status_name(status_); }

  private:
    cgrpo_status status_;
};

/** Throws what a function of chunkgrpo.h returned, unless it is CGRPO_OK. */
inline void check(cgrpo_status status) {
    if (status != CGRPO_OK) throw Error(status, cgrpo_last_error());
}

/** A borrowed run of elements, as std::span is in C++20. */
template <class T> class Span {
    template <class C> using Pointer = decltype(std::data(std::declval<C &>()));
    template <class C>
    using Fits =
        std::enable_if_t<!std::is_same_v<std::decay_t<C>, Span> &&
                         std::is_convertible_v<std::remove_pointer_t<Pointer<C>> (*)[], T (*)[]>>; /* adds const, and
                                                                                                      nothing else */

  public:
    constexpr Span() noexcept = default;
    constexpr Span(std::nullptr_t) noexcept {}
    constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <class C, class = Fits<C>>
    constexpr Span(C &&container) noexcept : data_(std::data(container)), size_(std::size(container)) {}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winit-list-lifetime" /* a span borrows */
#endif
    template <class U = T, class = std::enable_if_t<std::is_const_v<U>>>
    constexpr Span(std::initializer_list<std::remove_const_t<U>> list) noexcept
        : data_(list.begin()), size_(list.size()) {}
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const { return data_[i]; }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

using Numbers = std::vector<double>;
using Steps = std::vector<std::int64_t>;
using Flags = std::vector<std::uint8_t>;

namespace detail {

[[noreturn]] inline void refuse(const std::string &message) { throw Error(CGRPO_INVALID_ARGUMENT, message); }

inline std::size_t product(std::int64_t a, std::int64_t b) {
    if (a < 0 || b < 0 || (b > 0 && a > std::numeric_limits<std::int64_t>::max() / 16 / b))
        refuse(std::to_string(a) + " x " + std::to_string(b) + " numbers: no array has so many");
    return static_cast<std::size_t>(a * b);
}

/** A span must have that many elements. An empty one is a null pointer, which the library judges. */
template <class T> T *sized(Span<T> span, std::size_t count, const char *name) {
    if (span.data() && span.size() != count)
        refuse(std::string(name) + " has " + std::to_string(span.size()) + " elements, and must have " +
               std::to_string(count));
    return span.data();
}

template <class T> std::int64_t count(Span<T> span) { return static_cast<std::int64_t>(span.size()); }

inline std::int64_t sum(Span<const std::int64_t> sizes) {
    std::uint64_t total = 0; /* the library refuses sizes that are not right */
    for (std::int64_t size : sizes) total += static_cast<std::uint64_t>(size);
    return static_cast<std::int64_t>(total);
}

/** Calls what writes text as far as it goes, and tells the whole length. */
template <class F> std::string text(F write) {
    std::size_t length = 0;
    check(write(nullptr, std::size_t(0), &length));
    std::string result(length + 1, '\0');
    check(write(&result[0], result.size(), &length));
    result.resize(length);
    return result;
}

/** A callable behind a C callback: its exception waits until the library has returned. */
template <class F> struct Callback {
    F &callable;
    std::exception_ptr error = nullptr;

    template <class... Arguments> int operator()(Arguments &&...arguments) noexcept {
        try {
            callable(std::forward<Arguments>(arguments)...);
            return 0;
        } catch (...) {
            error = std::current_exception();
            return 1;
        }
    }

    void check(cgrpo_status status) const {
        if (error) std::rethrow_exception(error);
        chunkgrpo::check(status);
    }
};

} // namespace detail

inline std::string version() { return cgrpo_version(); }
inline std::uint32_t abi_version() { return cgrpo_abi_version(); }
inline std::string status_name(cgrpo_status status) { return cgrpo_status_name(status); }
inline std::string last_error() { return cgrpo_last_error(); }
inline std::string instruction_set() { return cgrpo_instruction_set(); }
inline void set_thread_limit(std::int32_t limit) { check(cgrpo_set_thread_limit(limit)); }

/* Option structs of chunkgrpo.h with their defaults. They are those structs: pass them to C as they are. */
#define CHUNKGRPO_OPTIONS(Name, name)                                                \
    struct Name : cgrpo_##name {                                                     \
        Name() : cgrpo_##name() { cgrpo_##name##_init(this, sizeof(cgrpo_##name)); } \
    };
/* Structs that the library fills. */
#define CHUNKGRPO_RESULT(Name, name)                                          \
    struct Name : cgrpo_##name {                                              \
        Name() : cgrpo_##name() { this->struct_size = sizeof(cgrpo_##name); } \
    };

CHUNKGRPO_OPTIONS(Cuda, cuda)
CHUNKGRPO_OPTIONS(Part, part)
CHUNKGRPO_OPTIONS(ScheduleOptions, schedule_options)
CHUNKGRPO_OPTIONS(SamplerOptions, sampler_options)
CHUNKGRPO_OPTIONS(StepExtras, step_extras)
CHUNKGRPO_OPTIONS(WindowOptions, window_options)
CHUNKGRPO_OPTIONS(AdaptiveOptions, adaptive_options)
CHUNKGRPO_OPTIONS(OptimalOptions, optimal_options)
CHUNKGRPO_OPTIONS(SelectOptions, select_options)
CHUNKGRPO_OPTIONS(AdvantageOptions, advantage_options)
CHUNKGRPO_OPTIONS(ChunkLossOptions, chunk_loss_options)
CHUNKGRPO_OPTIONS(ImportanceOptions, importance_options)
CHUNKGRPO_OPTIONS(ForwardExtras, forward_extras)
CHUNKGRPO_OPTIONS(NFTOptions, nft_options)
CHUNKGRPO_OPTIONS(DGPOOptions, dgpo_options)
CHUNKGRPO_OPTIONS(CRDOptions, crd_options)
CHUNKGRPO_OPTIONS(DPOOptions, dpo_options)
CHUNKGRPO_OPTIONS(TimeOptions, time_options)
CHUNKGRPO_OPTIONS(TrainerOptions, trainer_options)
CHUNKGRPO_OPTIONS(PretrainOptions, pretrain_options)
CHUNKGRPO_RESULT(ChunkStats, chunk_stats)
CHUNKGRPO_RESULT(ForwardStats, forward_stats)
CHUNKGRPO_RESULT(Recipe, recipe)
CHUNKGRPO_RESULT(ForwardMethod, forward_method)
CHUNKGRPO_RESULT(IterationReport, iteration_report)
#undef CHUNKGRPO_OPTIONS
#undef CHUNKGRPO_RESULT

/** The noise of a step: the library's, of a seed, and of ids that stay where they are. */
struct Noise : cgrpo_noise {
    explicit Noise(std::uint64_t of_seed = 0, const std::uint64_t *ids = nullptr) : cgrpo_noise() {
        cgrpo_noise_init(this, sizeof(cgrpo_noise));
        this->seed = of_seed;
        this->sample_ids = ids;
    }
};

/** The cgrpo_type of T. Specialise it for a 16-bit type of yours: CGRPO_TYPE_BF16 or CGRPO_TYPE_F16. */
template <class T> struct ElementType;
template <> struct ElementType<float> : std::integral_constant<cgrpo_type, CGRPO_TYPE_F32> {};
template <> struct ElementType<double> : std::integral_constant<cgrpo_type, CGRPO_TYPE_F64> {};

/** A borrowed array with its shape, to be read. */
class ConstTensor {
    template <class C>
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(std::data(std::declval<C &>()))>>;

  public:
    /** Of a raw pointer; strides in elements, or {} for a contiguous array. */
    ConstTensor(const void *data, cgrpo_type type, Span<const std::int64_t> shape,
                Span<const std::int64_t> strides = {})
        : tensor_{} {
        tensor_.data = const_cast<void *>(data);
        tensor_.type = type;
        set(shape, strides);
    }

    template <class T, class = std::enable_if_t<(ElementType<T>::value > 0)>>
    ConstTensor(const T *data, Span<const std::int64_t> shape, Span<const std::int64_t> strides = {})
        : ConstTensor(data, ElementType<T>::value, shape, strides) {}

    /** Of a vector or an array, which must hold what the shape says. */
    template <class C, class T = Element<C>, class = std::enable_if_t<(ElementType<T>::value > 0)>>
    ConstTensor(const C &container, Span<const std::int64_t> shape, Span<const std::int64_t> strides = {})
        : ConstTensor(static_cast<const void *>(std::data(container)), ElementType<T>::value, shape, strides) {
        reach(std::size(container));
    }

    /** A copy of a tensor of C, as a callback gets it. */
    explicit ConstTensor(const cgrpo_tensor &other) : tensor_(other) {
        std::size_t rank = static_cast<std::size_t>(other.ndim);
        set({other.shape, rank}, {other.strides, other.strides ? rank : 0});
    }

    ConstTensor(const ConstTensor &other) : tensor_(other.tensor_), shape_(other.shape_), strides_(other.strides_) {
        point(other.tensor_.strides != nullptr);
    }
    ConstTensor &operator=(const ConstTensor &other) {
        tensor_ = other.tensor_, shape_ = other.shape_, strides_ = other.strides_;
        point(other.tensor_.strides != nullptr);
        return *this;
    }

    /** For a call of C, or a field of a struct: valid while this tensor lives. */
    const cgrpo_tensor *get() const noexcept { return &tensor_; }

    cgrpo_type type() const noexcept { return tensor_.type; }
    Span<const std::int64_t> shape() const noexcept { return {shape_.data(), static_cast<std::size_t>(tensor_.ndim)}; }
    std::int64_t batch() const { return shape_[0]; }
    /** D, the elements of a sample. */
    std::int64_t elements() const {
        std::int64_t n = 1;
        for (std::int32_t i = 1; i < tensor_.ndim; i++) n *= shape_[static_cast<std::size_t>(i)];
        return n;
    }

    /** The elements of sample i, of a tensor in the CPU's memory. */
    template <class T> Span<const T> row(std::int64_t i) const {
        return {static_cast<const T *>(start(i, ElementType<T>::value)), static_cast<std::size_t>(elements())};
    }

    /** The same array, for a CUDA device: `data` is a device pointer then. `cuda` is borrowed. */
    ConstTensor on(const cgrpo_cuda &cuda) const { return changed<ConstTensor>(*this, &cuda, tensor_.part); }
    /** The same array, as a part of its samples. `part` is borrowed. */
    ConstTensor with(const cgrpo_part &part) const { return changed<ConstTensor>(*this, tensor_.cuda, &part); }

  protected:
    static constexpr std::size_t most = 8; /* dimensions; chunkgrpo.h itself takes 64 */

    void *start(std::int64_t i, cgrpo_type type) const {
        if (type != tensor_.type) throw Error(CGRPO_WRONG_TYPE, "row<T>: T is not the type of the tensor's elements");
        if (i < 0 || i >= batch())
            detail::refuse("row " + std::to_string(i) + " is outside 0 ... " + std::to_string(batch() - 1));
        std::int64_t inner = 1;
        for (std::size_t d = static_cast<std::size_t>(tensor_.ndim); tensor_.strides && d-- > 1; inner *= shape_[d])
            if (shape_[d] > 1 && strides_[d] != inner)
                detail::refuse("row<T>: by strides[" + std::to_string(d) + "] = " + std::to_string(strides_[d]) +
                               " the elements of a sample do not lie side by side, and no span has them");
        std::size_t bytes = type == CGRPO_TYPE_F64 ? 8 : type == CGRPO_TYPE_F32 ? 4 : 2;
        std::int64_t stride = tensor_.strides ? strides_[0] : elements();
        return static_cast<char *>(tensor_.data) + static_cast<std::ptrdiff_t>(bytes) * i * stride;
    }

    template <class Self> static Self changed(const Self &self, const cgrpo_cuda *cuda, const cgrpo_part *part) {
        Self copy(self);
        copy.tensor_.cuda = cuda;
        copy.tensor_.device = cuda ? CGRPO_DEVICE_CUDA : CGRPO_DEVICE_CPU;
        copy.tensor_.part = part;
        return copy;
    }

  private:
    void set(Span<const std::int64_t> shape, Span<const std::int64_t> strides) {
        if (shape.empty() || shape.size() > most)
            detail::refuse("a tensor has " + std::to_string(shape.size()) + " sizes, and must have 1 ... 8");
        detail::sized(strides, shape.size(), "strides");
        for (std::size_t i = 0; i < shape.size(); i++) shape_[i] = shape[i];
        for (std::size_t i = 0; i < strides.size(); i++) strides_[i] = strides[i];
        tensor_.ndim = static_cast<std::int32_t>(shape.size());
        point(!strides.empty());
    }

    void point(bool strided) {
        tensor_.shape = shape_.data();
        tensor_.strides = strided ? strides_.data() : nullptr;
    }

    /** The farthest element must lie within `size`. */
    void reach(std::size_t size) const {
        std::size_t needed = 1;
        bool strided = tensor_.strides != nullptr;
        for (std::size_t i = 0; i < static_cast<std::size_t>(tensor_.ndim); i++) {
            if (shape_[i] < 1) return; /* the library refuses it */
            needed = strided ? needed + detail::product(shape_[i] - 1, strides_[i])
                             : detail::product(static_cast<std::int64_t>(needed), shape_[i]);
        }
        if (needed > size)
            detail::refuse("a tensor's shape needs " + std::to_string(needed) + " elements, and the array has " +
                           std::to_string(size));
    }

    cgrpo_tensor tensor_;
    std::array<std::int64_t, most> shape_{}, strides_{};
};

/** A borrowed array with its shape, to be written. */
class Tensor : public ConstTensor {
    template <class C>
    using Element = std::remove_pointer_t<decltype(std::data(std::declval<C &>()))>; /* a const one has no type */

  public:
    Tensor(void *data, cgrpo_type type, Span<const std::int64_t> shape, Span<const std::int64_t> strides = {})
        : ConstTensor(data, type, shape, strides) {}

    template <class T, class = std::enable_if_t<(ElementType<T>::value > 0)>>
    Tensor(T *data, Span<const std::int64_t> shape, Span<const std::int64_t> strides = {})
        : ConstTensor(data, shape, strides) {}

    template <class C, class T = Element<C>, class = std::enable_if_t<(ElementType<T>::value > 0)>>
    Tensor(C &&container, Span<const std::int64_t> shape, Span<const std::int64_t> strides = {})
        : ConstTensor(container, shape, strides) {}

    explicit Tensor(const cgrpo_tensor &other) : ConstTensor(other) {}

    template <class T> Span<T> row(std::int64_t i) const {
        return {static_cast<T *>(start(i, ElementType<T>::value)), static_cast<std::size_t>(elements())};
    }

    Tensor on(const cgrpo_cuda &cuda) const { return changed<Tensor>(*this, &cuda, get()->part); }
    Tensor with(const cgrpo_part &part) const { return changed<Tensor>(*this, get()->cuda, &part); }
};

inline std::size_t cuda_workspace(std::int64_t batch, std::int64_t elements, std::int64_t steps = 1) {
    std::size_t bytes = 0;
    check(cgrpo_cuda_workspace(batch, elements, steps, &bytes));
    return bytes;
}
inline void cuda_prepare(std::int32_t device) { check(cgrpo_cuda_prepare(device)); }
/** Throws what a kernel has written into a status word. */
inline void cuda_status(std::uint64_t word) { check(cgrpo_cuda_status(word)); }

/* ==================================================================================================================
 * 2. Schedules
 * ================================================================================================================ */

inline Numbers schedule_make(std::int64_t steps, const cgrpo_schedule_options &options = ScheduleOptions()) {
    Numbers sigmas(steps >= 1 && steps <= 1000000 ? static_cast<std::size_t>(steps) + 1 : 1);
    check(cgrpo_schedule_make(steps, &options, sigmas.data()));
    return sigmas;
}

inline Numbers schedule_flash(std::int64_t steps, double shift, std::int64_t kept, double ratio) {
    Numbers sigmas(steps >= 1 && steps <= 1000000 ? static_cast<std::size_t>(steps) + 1 : 1);
    std::int64_t count = 0;
    check(cgrpo_schedule_flash(steps, shift, kept, ratio, sigmas.data(), detail::count(Span<double>(sigmas)), &count));
    sigmas.resize(static_cast<std::size_t>(count));
    return sigmas;
}

inline Numbers timesteps(Span<const double> sigmas, double scale = 1000, bool truncated = false) {
    Numbers result(sigmas.empty() ? 0 : sigmas.size() - 1);
    check(cgrpo_timesteps(sigmas.data(), detail::count(sigmas), scale, truncated, result.data()));
    return result;
}

inline double flux_mu(double pixels, double base_shift = 0.5, double max_shift = 1.15) {
    double mu = 0;
    check(cgrpo_flux_mu(pixels, base_shift, max_shift, &mu));
    return mu;
}

/* ==================================================================================================================
 * 3. Sampler, and 4. Rollouts
 * ================================================================================================================ */

/** Fills `out` (B, ...) with the library's normals. */
inline void normal(std::uint64_t seed, std::int64_t step, const Tensor &out, Span<const std::uint64_t> sample_ids = {},
                   std::int32_t threads = 1) {
    const std::uint64_t *ids = detail::sized(sample_ids, static_cast<std::size_t>(out.batch()), "sample_ids");
    check(cgrpo_normal(seed, ids, step, threads, out.get()));
}

/** The stochastic steps of an iteration. */
inline Steps window_steps(const cgrpo_window_options &options, std::int64_t iteration) {
    Steps steps(options.size > 0 && options.size <= 1000000 ? static_cast<std::size_t>(options.size) : 1);
    std::int64_t count = 0;
    check(cgrpo_window_steps(&options, iteration, steps.data(), detail::count(Span<std::int64_t>(steps)), &count));
    steps.resize(static_cast<std::size_t>(count));
    return steps;
}

inline std::vector<std::uint64_t> forked_ids(Span<const std::uint64_t> sample_ids, std::int64_t batch,
                                             std::int64_t step, std::int64_t branches) {
    std::vector<std::uint64_t> ids(detail::product(batch, branches));
    detail::sized(sample_ids, static_cast<std::size_t>(batch), "sample_ids");
    check(cgrpo_forked_ids(sample_ids.data(), batch, step, branches, ids.data()));
    return ids;
}

/** relative_l1 (B, n) of latents (B, n + 1, ...). */
inline Numbers relative_l1(const ConstTensor &latents, std::int32_t threads = 1) {
    Span<const std::int64_t> shape = latents.shape();
    Numbers result(shape.size() > 1 && shape[1] > 0 ? detail::product(shape[0], shape[1] - 1) : 0);
    check(cgrpo_relative_l1(latents.get(), threads, result.data()));
    return result;
}

/** a, b, s and c of a step. */
struct Coefficients {
    double a, b, s, c;
};

class Sampler;

/** A trajectory with memory of its own, of T: latents (B, T + 1, ...) and log-probabilities (B, S). For memory of the
 *  caller's, and for rollouts of second-order steps that stop midway, fill a cgrpo_trajectory. */
template <class T = float> class Trajectory {
  public:
    /** shape: (B, ...) */
    Trajectory(const Sampler &sampler, Span<const std::int64_t> shape, bool with_relative_l1 = false);

    Numbers log_probs;   /* (B, S) */
    Numbers relative_l1; /* (B, S), or empty */
    std::int64_t position = 0;

    /** latents (B, T + 1, ...) */
    Tensor latents() { return Tensor(values_, shape_); }
    /** latents[:, k] (B, ...): at(0) is to be filled with noise, at(T) are the images */
    Tensor at(std::int64_t k) {
        if (k < 0 || k >= shape_[1])
            detail::refuse("latents " + std::to_string(k) + " are outside 0 ... " + std::to_string(shape_[1] - 1));
        Steps rest(shape_), strides(shape_.size() - 1, 1);
        rest.erase(rest.begin() + 1);
        for (std::size_t i = rest.size() - 1; i > 0; i--) strides[i - 1] = strides[i] * rest[i];
        std::int64_t elements = strides[0];
        strides[0] = elements * shape_[1];
        return Tensor(values_.data() + k * elements, rest, strides);
    }
    Tensor images() { return at(shape_[1] - 1); }
    Span<T> image(std::int64_t i) { return images().template row<T>(i); }

  private:
    Steps shape_;
    std::vector<T> values_;
};

/** An immutable sampler over one schedule. Several threads may use it at once. */
class Sampler {
  public:
    explicit Sampler(Span<const double> sigmas, const cgrpo_sampler_options &options = SamplerOptions()) {
        cgrpo_sampler *made = nullptr;
        check(cgrpo_sampler_create(sigmas.data(), detail::count(sigmas), &options, &made));
        handle_.reset(made);
    }

    const cgrpo_sampler *get() const noexcept { return handle_.get(); }

    /** T + 1 of them, in the sampler's memory. */
    Span<const double> sigmas() const {
        const double *values = nullptr;
        std::int64_t count = 0;
        check(cgrpo_sampler_info(get(), nullptr, &values, &count));
        return {values, static_cast<std::size_t>(count)};
    }
    /** T */
    std::int64_t steps() const { return detail::count(sigmas()) - 1; }
    /** Their arrays are the sampler's memory. */
    SamplerOptions options() const {
        SamplerOptions options;
        check(cgrpo_sampler_info(get(), &options, nullptr, nullptr));
        return options;
    }
    Coefficients coefficients(std::int64_t step) const {
        Coefficients k{};
        check(cgrpo_sampler_coefficients(get(), step, &k.a, &k.b, &k.s, &k.c));
        return k;
    }

    void step(std::int64_t step, const ConstTensor &latents, const ConstTensor &velocity, const cgrpo_noise *noise,
              const Tensor &next_latents, Span<double> log_prob = {}, Span<double> relative_l1 = {},
              const cgrpo_step_extras *extras = nullptr) const {
        std::size_t b = rows(latents);
        check(cgrpo_step(get(), step, latents.get(), velocity.get(), extras, noise, next_latents.get(),
                         detail::sized(log_prob, b, "log_prob"), detail::sized(relative_l1, b, "relative_l1")));
    }

    void log_prob(std::int64_t step, const ConstTensor &latents, const ConstTensor &velocity,
                  const ConstTensor &next_latents, Span<double> log_prob,
                  const cgrpo_step_extras *extras = nullptr) const {
        check(cgrpo_log_prob(get(), step, latents.get(), velocity.get(), extras, next_latents.get(),
                             detail::sized(log_prob, rows(latents), "log_prob")));
    }
    Numbers log_prob(std::int64_t step, const ConstTensor &latents, const ConstTensor &velocity,
                     const ConstTensor &next_latents, const cgrpo_step_extras *extras = nullptr) const {
        Numbers result(rows(latents));
        log_prob(step, latents, velocity, next_latents, result, extras);
        return result;
    }

    /** grad_unconditional: or null; log_prob: or {} */
    void log_prob_vjp(std::int64_t step, const ConstTensor &latents, const ConstTensor &velocity,
                      const ConstTensor &next_latents, Span<const double> grad_log_prob, const Tensor &grad_velocity,
                      Span<double> log_prob = {}, const cgrpo_step_extras *extras = nullptr,
                      const Tensor *grad_unconditional = nullptr) const {
        std::size_t b = rows(latents);
        check(cgrpo_log_prob_vjp(get(), step, latents.get(), velocity.get(), extras, next_latents.get(),
                                 detail::sized(grad_log_prob, b, "grad_log_prob"), grad_velocity.get(),
                                 grad_unconditional ? grad_unconditional->get() : nullptr,
                                 detail::sized(log_prob, b, "log_prob")));
    }

    /** log_prob, and the residual x' - m that residual_vjp needs alone: for a host with an autograd of its own */
    Numbers log_prob_residual(std::int64_t step, const ConstTensor &latents, const ConstTensor &velocity,
                              const ConstTensor &next_latents, const Tensor &residual,
                              const cgrpo_step_extras *extras = nullptr) const {
        Numbers result(rows(latents));
        check(cgrpo_log_prob_residual(get(), step, latents.get(), velocity.get(), extras, next_latents.get(),
                                      residual.get(), result.data()));
        return result;
    }
    /** grad_velocity: may be the residual; grad_unconditional: or null */
    void residual_vjp(std::int64_t step, const ConstTensor &residual, Span<const double> grad_log_prob,
                      const Tensor &grad_velocity, const cgrpo_step_extras *extras = nullptr,
                      const Tensor *grad_unconditional = nullptr) const {
        check(cgrpo_residual_vjp(get(), step, residual.get(), extras,
                                 detail::sized(grad_log_prob, rows(residual), "grad_log_prob"), grad_velocity.get(),
                                 grad_unconditional ? grad_unconditional->get() : nullptr));
    }

    void predicted_image(std::int64_t step, const ConstTensor &latents, const ConstTensor &velocity,
                         const Tensor &image, const cgrpo_step_extras *extras = nullptr) const {
        check(cgrpo_predicted_image(get(), step, latents.get(), velocity.get(), extras, image.get()));
    }

    /** velocity(step, sigma, latents, out): writes the model's velocity at `latents` into `out`. */
    template <class F>
    void rollout(cgrpo_trajectory &trajectory, std::int64_t end, const cgrpo_noise *noise, F &&velocity) const {
        /* Within what catches exceptions: a tensor of too many sizes is refused. */
        auto model = [&velocity](std::int64_t step, double sigma, const cgrpo_tensor *latents,
                                 const cgrpo_tensor *out) {
            velocity(step, sigma, ConstTensor(*latents), Tensor(*out));
        };
        detail::Callback<decltype(model)> callback{model};
        auto call = [](void *user, std::int64_t step, double sigma, const cgrpo_tensor *latents,
                       const cgrpo_tensor *out) -> int {
            return (*static_cast<detail::Callback<decltype(model)> *>(user))(step, sigma, latents, out);
        };
        callback.check(cgrpo_rollout(get(), &trajectory, end, noise, call, &callback));
    }
    template <class T, class F>
    void rollout(Trajectory<T> &trajectory, std::int64_t end, const cgrpo_noise *noise, F &&velocity) const {
        Tensor latents = trajectory.latents();
        cgrpo_trajectory c{};
        cgrpo_trajectory_init(&c, sizeof c);
        c.latents = *latents.get();
        std::size_t trained = detail::product(latents.shape()[0], latents.shape()[1] - 2);
        c.log_probs = detail::sized(Span<double>(trajectory.log_probs), trained, "log_probs");
        c.relative_l1 = trajectory.relative_l1.empty()
                            ? nullptr
                            : detail::sized(Span<double>(trajectory.relative_l1), trained, "relative_l1");
        c.position = trajectory.position;
        rollout(c, end, noise, std::forward<F>(velocity));
        trajectory.position = c.position;
    }

    /** (B, n) of velocities (B, n, ...); first_steps: {} or (B) */
    Numbers trajectory_log_probs(std::int64_t first_step, const ConstTensor &latents, const ConstTensor &velocities,
                                 Span<const std::int64_t> first_steps = {}) const {
        Numbers result(cells(velocities));
        check(cgrpo_trajectory_log_probs(get(), first_step, detail::sized(first_steps, rows(latents), "first_steps"),
                                         latents.get(), velocities.get(), result.data()));
        return result;
    }
    void trajectory_log_probs_vjp(std::int64_t first_step, const ConstTensor &latents, const ConstTensor &velocities,
                                  Span<const double> grad_log_probs, const Tensor &grad_velocities,
                                  Span<const std::int64_t> first_steps = {}) const {
        check(cgrpo_trajectory_log_probs_vjp(
            get(), first_step, detail::sized(first_steps, rows(latents), "first_steps"), latents.get(),
            velocities.get(), detail::sized(grad_log_probs, cells(velocities), "grad_log_probs"),
            grad_velocities.get()));
    }

    /** The same of residuals (B, n, ...), as log_prob_residual and residual_vjp have them. */
    Numbers trajectory_residuals(std::int64_t first_step, const ConstTensor &latents, const ConstTensor &velocities,
                                 const Tensor &residuals, Span<const std::int64_t> first_steps = {}) const {
        Numbers result(cells(velocities));
        check(cgrpo_trajectory_residuals(get(), first_step, detail::sized(first_steps, rows(latents), "first_steps"),
                                         latents.get(), velocities.get(), residuals.get(), result.data()));
        return result;
    }
    void trajectory_residuals_vjp(std::int64_t first_step, const ConstTensor &residuals,
                                  Span<const double> grad_log_probs, const Tensor &grad_velocities,
                                  Span<const std::int64_t> first_steps = {}) const {
        check(cgrpo_trajectory_residuals_vjp(
            get(), first_step, detail::sized(first_steps, rows(residuals), "first_steps"), residuals.get(),
            detail::sized(grad_log_probs, cells(residuals), "grad_log_probs"), grad_velocities.get()));
    }

    /** divergence, grad_divergence: (B) or {}; grad_velocity: with grad_divergence */
    void divergence_from_velocity(std::int64_t step, cgrpo_divergence kind, const ConstTensor &velocity,
                                  const ConstTensor &other_velocity, Span<double> divergence,
                                  Span<const double> grad_divergence = {}, const Tensor *grad_velocity = nullptr,
                                  Span<const std::int64_t> steps = {}) const {
        std::size_t b = rows(velocity);
        check(cgrpo_divergence_from_velocity(get(), step, detail::sized(steps, b, "steps"), kind, velocity.get(),
                                             other_velocity.get(), detail::sized(divergence, b, "divergence"),
                                             detail::sized(grad_divergence, b, "grad_divergence"),
                                             grad_velocity ? grad_velocity->get() : nullptr));
    }
    void divergence_from_sampled(std::int64_t step, cgrpo_divergence kind, const ConstTensor &latents,
                                 const ConstTensor &velocity, const cgrpo_noise *noise, const ConstTensor &next_latents,
                                 Span<double> divergence, Span<const double> grad_divergence = {},
                                 const Tensor *grad_velocity = nullptr, Span<const std::int64_t> steps = {}) const {
        std::size_t b = rows(velocity);
        check(cgrpo_divergence_from_sampled(
            get(), step, detail::sized(steps, b, "steps"), kind, latents.get(), velocity.get(), noise,
            next_latents.get(), detail::sized(divergence, b, "divergence"),
            detail::sized(grad_divergence, b, "grad_divergence"), grad_velocity ? grad_velocity->get() : nullptr));
    }

    Numbers tempflow_weights(Span<const std::int64_t> sizes) const {
        Numbers weights(sizes.size());
        check(cgrpo_tempflow_weights(get(), sizes.data(), detail::count(sizes), weights.data()));
        return weights;
    }
    Numbers gradient_weights(cgrpo_gradient_weighting kind, Span<const std::int64_t> sizes) const {
        Numbers weights(sizes.size());
        check(cgrpo_gradient_weights(get(), kind, sizes.data(), detail::count(sizes), weights.data()));
        return weights;
    }

  private:
    static std::size_t rows(const ConstTensor &tensor) { return static_cast<std::size_t>(tensor.batch()); }
    static std::size_t cells(const ConstTensor &tensor) {
        return tensor.shape().size() > 1 ? detail::product(tensor.shape()[0], tensor.shape()[1]) : 0;
    }

    struct Destroy {
        void operator()(cgrpo_sampler *handle) const noexcept { cgrpo_sampler_destroy(handle); }
    };
    std::unique_ptr<cgrpo_sampler, Destroy> handle_;
};

template <class T>
Trajectory<T>::Trajectory(const Sampler &sampler, Span<const std::int64_t> shape, bool with_relative_l1)
    : shape_(shape.begin(), shape.end()) {
    if (shape_.empty()) detail::refuse("a trajectory's shape is (B, ...), and this has no sizes");
    std::int64_t steps = sampler.steps();
    std::size_t trained = detail::product(shape_[0], steps - 1), elements = 1;
    shape_.insert(shape_.begin() + 1, steps + 1);
    for (std::int64_t size : shape_) elements = detail::product(static_cast<std::int64_t>(elements), size);
    values_.resize(elements);
    log_probs.resize(trained);
    if (with_relative_l1) relative_l1.resize(trained);
}

/* ==================================================================================================================
 * 5. Chunks
 * ================================================================================================================ */

namespace detail {

template <class F> Steps plan(std::int64_t steps, F write) {
    Steps sizes(steps >= 1 && steps <= 1000000 ? static_cast<std::size_t>(steps) : 1);
    std::int64_t count = 0;
    check(write(sizes.data(), static_cast<std::int64_t>(sizes.size()), &count));
    sizes.resize(static_cast<std::size_t>(count));
    return sizes;
}

} // namespace detail

inline Steps plan_fixed(std::int64_t steps, std::int64_t size) {
    return detail::plan(steps, [&](std::int64_t *sizes, std::int64_t capacity, std::int64_t *count) {
        return cgrpo_plan_fixed(steps, size, sizes, capacity, count);
    });
}

/** relative_l1: (B, S) */
inline Steps plan_adaptive(Span<const double> relative_l1, std::int64_t batch, std::int64_t steps,
                           const cgrpo_adaptive_options &options = AdaptiveOptions()) {
    detail::sized(relative_l1, detail::product(batch, steps), "relative_l1");
    return detail::plan(steps, [&](std::int64_t *sizes, std::int64_t capacity, std::int64_t *count) {
        return cgrpo_plan_adaptive(relative_l1.data(), batch, steps, &options, sizes, capacity, count);
    });
}

struct OptimalPlan {
    Steps sizes;
    Numbers curve; /* (S) */
    double explained;
};

inline OptimalPlan plan_optimal(Span<const double> relative_l1, std::int64_t batch, std::int64_t steps,
                                const cgrpo_optimal_options &options = OptimalOptions()) {
    OptimalPlan result{};
    detail::sized(relative_l1, detail::product(batch, steps), "relative_l1");
    result.curve.resize(detail::product(1, steps));
    result.sizes = detail::plan(steps, [&](std::int64_t *sizes, std::int64_t capacity, std::int64_t *count) {
        return cgrpo_plan_optimal(relative_l1.data(), batch, steps, &options, sizes, capacity, count,
                                  result.curve.data(), &result.explained);
    });
    return result;
}

inline std::string plan_describe(Span<const std::int64_t> sizes) {
    return detail::text([&](char *text, std::size_t capacity, std::size_t *length) {
        return cgrpo_plan_describe(sizes.data(), detail::count(sizes), text, capacity, length);
    });
}

inline Steps plan_carry(Span<const std::int64_t> sizes, Span<const double> from, Span<const double> to) {
    Steps carried(sizes.size());
    check(cgrpo_plan_carry(sizes.data(), detail::count(sizes), from.data(), detail::count(from), to.data(),
                           detail::count(to), carried.data()));
    return carried;
}

/** (B, K) of relative_l1 (B, S) */
inline Numbers chunk_weights(Span<const double> relative_l1, std::int64_t batch, Span<const std::int64_t> sizes) {
    std::int64_t steps = detail::sum(sizes);
    Numbers weights(detail::product(batch, detail::count(sizes)));
    detail::sized(relative_l1, detail::product(batch, steps), "relative_l1");
    check(cgrpo_chunk_weights(relative_l1.data(), batch, steps, sizes.data(), detail::count(sizes), weights.data()));
    return weights;
}

/** (B, K), 1 or 0 */
inline Flags chunk_select(std::int64_t batch, std::int64_t chunk_count,
                          const cgrpo_select_options &options = SelectOptions()) {
    Flags selection(detail::product(batch, chunk_count));
    check(cgrpo_chunk_select(batch, chunk_count, &options, selection.data()));
    return selection;
}

/* ==================================================================================================================
 * 6. Objective
 * ================================================================================================================ */

/** Of rewards (count, R), R = options.reward_count. */
inline Numbers advantages(Span<const double> rewards, const cgrpo_advantage_options &options = AdvantageOptions()) {
    std::int64_t of_each = options.reward_count > 0 ? options.reward_count : 1;
    if (detail::count(rewards) % of_each)
        detail::refuse("rewards has " + std::to_string(rewards.size()) + " elements, and reward_count is " +
                       std::to_string(of_each));
    Numbers result(static_cast<std::size_t>(detail::count(rewards) / of_each));
    check(cgrpo_advantages(rewards.data(), static_cast<std::int64_t>(result.size()), &options, result.data()));
    return result;
}

/** Each prompt's recent rewards. */
class History {
  public:
    History(std::int64_t capacity, std::int64_t min_count) {
        cgrpo_history *made = nullptr;
        check(cgrpo_history_create(capacity, min_count, &made));
        handle_.reset(made);
    }

    cgrpo_history *get() const noexcept { return handle_.get(); }

    Numbers update(Span<const std::int64_t> prompts, Span<const double> rewards) {
        Numbers result(prompts.size());
        detail::sized(rewards, prompts.size(), "rewards");
        check(cgrpo_history_update(get(), prompts.data(), rewards.data(), detail::count(prompts), result.data()));
        return result;
    }

    /** Prompts and their rewards, to be saved. */
    std::pair<Steps, Numbers> rewards() const {
        std::int64_t count = 0;
        check(cgrpo_history_rewards(get(), nullptr, nullptr, 0, &count));
        std::pair<Steps, Numbers> saved{Steps(static_cast<std::size_t>(count)),
                                        Numbers(static_cast<std::size_t>(count))};
        if (count) check(cgrpo_history_rewards(get(), saved.first.data(), saved.second.data(), count, &count));
        return saved;
    }

  private:
    struct Destroy {
        void operator()(cgrpo_history *handle) const noexcept { cgrpo_history_destroy(handle); }
    };
    std::unique_ptr<cgrpo_history, Destroy> handle_;
};

inline Numbers diversity(const ConstTensor &features, std::int64_t group_size, std::int32_t threads = 1) {
    Numbers result(static_cast<std::size_t>(features.batch()));
    check(cgrpo_diversity(features.get(), group_size, threads, result.data()));
    return result;
}

inline Flags best_of_n(Span<const double> scores, std::int64_t keep) {
    Flags chosen(scores.size());
    check(cgrpo_best_of_n(scores.data(), detail::count(scores), keep, chosen.data()));
    return chosen;
}

struct ChunkLoss {
    double loss = 0;
    Numbers grad_log_probs; /* (B, S) */
    Numbers ratios;         /* (B, K) */
    ChunkStats stats;
};

/** Log-probabilities (B, S); advantages by options.advantage_level. Arrays of the options are not looked at here. */
inline ChunkLoss chunk_loss(Span<const double> new_log_probs, Span<const double> old_log_probs,
                            Span<const double> advantages, std::int64_t batch, Span<const std::int64_t> sizes,
                            const cgrpo_chunk_loss_options &options = ChunkLossOptions()) {
    std::int64_t steps = detail::sum(sizes), chunks = detail::count(sizes);
    std::size_t cells = detail::product(batch, steps);
    std::int64_t wide = options.advantage_level == CGRPO_ADVANTAGE_LEVEL_CHUNK  ? chunks
                        : options.advantage_level == CGRPO_ADVANTAGE_LEVEL_STEP ? steps
                                                                                : 1;
    detail::sized(new_log_probs, cells, "new_log_probs");
    detail::sized(old_log_probs, cells, "old_log_probs");
    detail::sized(advantages, detail::product(batch, wide), "advantages");
    ChunkLoss result;
    result.grad_log_probs.resize(cells);
    result.ratios.resize(detail::product(batch, chunks));
    check(cgrpo_chunk_loss(new_log_probs.data(), old_log_probs.data(), advantages.data(), batch, steps, sizes.data(),
                           chunks, &options, &result.loss, result.grad_log_probs.data(), result.ratios.data(),
                           &result.stats));
    return result;
}

/** A total begins as ChunkStats(). */
inline void chunk_stats_merge(cgrpo_chunk_stats &total, const cgrpo_chunk_stats &other) {
    check(cgrpo_chunk_stats_merge(&total, &other));
}

/** ratios, hinges, grad_hinges: (B) or {}; grad_velocity: with grad_hinges */
inline void norm_hinge(const ConstTensor &velocity, const ConstTensor &reference_velocity, Span<double> ratios,
                       Span<double> hinges, Span<const double> grad_hinges = {}, const Tensor *grad_velocity = nullptr,
                       std::int32_t threads = 1) {
    std::size_t b = static_cast<std::size_t>(velocity.batch());
    check(cgrpo_norm_hinge(velocity.get(), reference_velocity.get(), threads, detail::sized(ratios, b, "ratios"),
                           detail::sized(hinges, b, "hinges"), detail::sized(grad_hinges, b, "grad_hinges"),
                           grad_velocity ? grad_velocity->get() : nullptr));
}

inline Numbers gcpo_weights(Span<const std::int64_t> sizes) {
    Numbers weights(sizes.size());
    check(cgrpo_gcpo_weights(sizes.data(), detail::count(sizes), weights.data()));
    return weights;
}

/** (B, K) of log-probabilities (B, S) */
inline Numbers importance_weights(Span<const double> log_probs, Span<const double> behaviour_log_probs,
                                  std::int64_t batch, Span<const std::int64_t> sizes,
                                  const cgrpo_importance_options &options = ImportanceOptions()) {
    std::int64_t steps = detail::sum(sizes);
    Numbers weights(detail::product(batch, detail::count(sizes)));
    detail::sized(log_probs, detail::product(batch, steps), "log_probs");
    detail::sized(behaviour_log_probs, detail::product(batch, steps), "behaviour_log_probs");
    check(cgrpo_importance_weights(log_probs.data(), behaviour_log_probs.data(), batch, steps, sizes.data(),
                                   detail::count(sizes), &options, weights.data()));
    return weights;
}

/** (B, S) of rewards (B, S + 1) */
inline Numbers step_gains(Span<const double> rewards, std::int64_t batch, std::int64_t steps, cgrpo_gain kind) {
    Numbers gains(detail::product(batch, steps));
    detail::sized(rewards, detail::product(batch, steps + 1), "rewards");
    check(cgrpo_step_gains(rewards.data(), batch, steps, kind, gains.data()));
    return gains;
}

/** (B, S) of rewards (B, S) */
inline Numbers step_advantages(Span<const double> rewards, std::int64_t batch, std::int64_t steps,
                               const cgrpo_advantage_options &options = AdvantageOptions()) {
    Numbers result(detail::product(batch, steps));
    detail::sized(rewards, result.size(), "rewards");
    check(cgrpo_step_advantages(rewards.data(), batch, steps, &options, result.data()));
    return result;
}

/** (B, S) of rewards (B) and nodes (B, S); log_probs: (B, S) or {} */
inline Numbers tree_advantages(Span<const double> rewards, Span<const std::int64_t> nodes, std::int64_t steps,
                               Span<const double> log_probs = {},
                               const cgrpo_advantage_options &options = AdvantageOptions()) {
    std::int64_t batch = detail::count(rewards);
    Numbers result(detail::product(batch, steps));
    check(cgrpo_tree_advantages(rewards.data(), detail::sized(nodes, result.size(), "nodes"),
                                detail::sized(log_probs, result.size(), "log_probs"), batch, steps, &options,
                                result.data()));
    return result;
}

struct ZeroStdGroups {
    Flags mask; /* 1 where a sample's group says something */
    std::int64_t groups = 0, zero_std = 0;
};

inline ZeroStdGroups zero_std_groups(Span<const double> rewards,
                                     const cgrpo_advantage_options &options = AdvantageOptions()) {
    ZeroStdGroups result;
    result.mask.resize(rewards.size());
    check(cgrpo_zero_std_groups(rewards.data(), detail::count(rewards), &options, result.mask.data(), &result.groups,
                                &result.zero_std));
    return result;
}

inline Numbers win_rates(Span<const double> rewards, const cgrpo_advantage_options &options = AdvantageOptions()) {
    Numbers rates(rewards.size());
    check(cgrpo_win_rates(rewards.data(), detail::count(rewards), &options, rates.data()));
    return rates;
}

inline Recipe recipe_named(const std::string &name) {
    Recipe recipe;
    check(cgrpo_recipe_named(name.c_str(), &recipe));
    return recipe;
}

inline std::string recipe_describe(const std::string &name) {
    return detail::text([&](char *text, std::size_t capacity, std::size_t *length) {
        return cgrpo_recipe_describe(name.c_str(), text, capacity, length);
    });
}

/* ==================================================================================================================
 * 7. Forward process
 * ================================================================================================================ */

inline void forward_noised(const ConstTensor &clean, Span<const double> times, const cgrpo_noise &noise,
                           std::int64_t draw, const Tensor &noised, std::int32_t threads = 1) {
    detail::sized(times, static_cast<std::size_t>(clean.batch()), "times");
    check(cgrpo_forward_noised(clean.get(), times.data(), &noise, draw, threads, noised.get()));
}

/** distance, grad_distance: (B) or {}; grad_velocity: or null */
inline void forward_distance(const ConstTensor &clean, const ConstTensor &velocity, const cgrpo_noise &noise,
                             std::int64_t draw, Span<double> distance, Span<const double> grad_distance = {},
                             const Tensor *grad_velocity = nullptr, const cgrpo_forward_extras *extras = nullptr,
                             std::int32_t threads = 1) {
    std::size_t b = static_cast<std::size_t>(clean.batch());
    check(cgrpo_forward_distance(
        clean.get(), velocity.get(), &noise, draw, threads, extras, detail::sized(distance, b, "distance"),
        detail::sized(grad_distance, b, "grad_distance"), grad_velocity ? grad_velocity->get() : nullptr));
}

struct NFTLoss {
    double loss = 0;
    Numbers grad_positive_distance, grad_negative_distance; /* (B, N) */
    ForwardStats stats;
};

/** Distances (B, N), advantages (B) */
inline NFTLoss nft_loss(Span<const double> positive_distance, Span<const double> negative_distance,
                        Span<const double> advantages, std::int64_t count,
                        const cgrpo_nft_options &options = NFTOptions()) {
    std::int64_t batch = detail::count(advantages);
    std::size_t cells = detail::product(batch, count);
    NFTLoss result;
    result.grad_positive_distance.resize(cells), result.grad_negative_distance.resize(cells);
    check(cgrpo_nft_loss(detail::sized(positive_distance, cells, "positive_distance"),
                         detail::sized(negative_distance, cells, "negative_distance"), advantages.data(), batch, count,
                         &options, &result.loss, result.grad_positive_distance.data(),
                         result.grad_negative_distance.data(), &result.stats));
    return result;
}

struct MatchingLogProbs {
    Numbers log_probs, slopes; /* slopes: d log_prob / d distance */
};

inline MatchingLogProbs matching_log_probs(Span<const double> distances, Span<const double> times,
                                           cgrpo_matching_weighting weighting, double power = 0.25) {
    MatchingLogProbs result{Numbers(distances.size()), Numbers(distances.size())};
    check(cgrpo_matching_log_probs(distances.data(), detail::sized(times, distances.size(), "times"),
                                   detail::count(distances), weighting, power, result.log_probs.data(),
                                   result.slopes.data()));
    return result;
}

struct DistanceLoss {
    double loss = 0;
    Numbers grad_distance; /* (B, N) */
    ForwardStats stats;
};

namespace detail {
/** A loss of distances (B, N) beside those of another velocity. */
template <class Function, class Options>
DistanceLoss distance_loss(Function function, Span<const double> distance, Span<const double> other, const char *name,
                           Span<const double> advantages, std::int64_t times, const Options &options) {
    std::int64_t batch = count(advantages);
    std::size_t cells = product(batch, times);
    DistanceLoss result;
    result.grad_distance.resize(cells);
    check(function(sized(distance, cells, "distance"), sized(other, cells, name), advantages.data(), batch, times,
                   &options, &result.loss, result.grad_distance.data(), &result.stats));
    return result;
}
} // namespace detail

inline DistanceLoss dgpo_loss(Span<const double> distance, Span<const double> reference_distance,
                              Span<const double> advantages, std::int64_t count,
                              const cgrpo_dgpo_options &options = DGPOOptions()) {
    return detail::distance_loss(cgrpo_dgpo_loss, distance, reference_distance, "reference_distance", advantages, count,
                                 options);
}

inline DistanceLoss crd_loss(Span<const double> distance, Span<const double> old_distance,
                             Span<const double> advantages, std::int64_t count,
                             const cgrpo_crd_options &options = CRDOptions()) {
    return detail::distance_loss(cgrpo_crd_loss, distance, old_distance, "old_distance", advantages, count, options);
}

struct DPOLoss {
    double loss = 0;
    Numbers grad_chosen_distance, grad_rejected_distance; /* (P, N) */
    ForwardStats stats;
};

/** All distances (P, N) */
inline DPOLoss dpo_loss(Span<const double> chosen_distance, Span<const double> rejected_distance,
                        Span<const double> chosen_reference_distance, Span<const double> rejected_reference_distance,
                        std::int64_t pairs, std::int64_t count, const cgrpo_dpo_options &options = DPOOptions()) {
    std::size_t cells = detail::product(pairs, count);
    DPOLoss result;
    result.grad_chosen_distance.resize(cells), result.grad_rejected_distance.resize(cells);
    check(cgrpo_dpo_loss(detail::sized(chosen_distance, cells, "chosen_distance"),
                         detail::sized(rejected_distance, cells, "rejected_distance"),
                         detail::sized(chosen_reference_distance, cells, "chosen_reference_distance"),
                         detail::sized(rejected_reference_distance, cells, "rejected_reference_distance"), pairs, count,
                         &options, &result.loss, result.grad_chosen_distance.data(),
                         result.grad_rejected_distance.data(), &result.stats));
    return result;
}

/** Sample numbers: chosen, rejected. group_ids: {} or one for each score */
inline std::pair<Steps, Steps> preference_pairs(Span<const double> scores, std::int64_t group_size,
                                                Span<const std::int64_t> group_ids = {}) {
    std::pair<Steps, Steps> pairs{Steps(scores.size()), Steps(scores.size())};
    std::int64_t count = 0;
    check(cgrpo_preference_pairs(scores.data(), detail::count(scores), group_size,
                                 detail::sized(group_ids, scores.size(), "group_ids"), pairs.first.data(),
                                 pairs.second.data(), &count));
    pairs.first.resize(static_cast<std::size_t>(count)), pairs.second.resize(static_cast<std::size_t>(count));
    return pairs;
}

/** (B, N) */
inline Numbers times(std::int64_t batch, std::int64_t count, std::int64_t draw,
                     const cgrpo_time_options &options = TimeOptions()) {
    Numbers result(detail::product(batch, count));
    check(cgrpo_times(batch, count, draw, &options, result.data()));
    return result;
}

inline ForwardMethod forward_method_named(const std::string &name) {
    ForwardMethod method;
    check(cgrpo_forward_method_named(name.c_str(), &method));
    return method;
}

inline std::string forward_method_describe(const std::string &name) {
    return detail::text([&](char *text, std::size_t capacity, std::size_t *length) {
        return cgrpo_forward_method_describe(name.c_str(), text, capacity, length);
    });
}

/* ==================================================================================================================
 * 8. Embedded policy and trainer
 * ================================================================================================================ */

class Trainer {
  public:
    explicit Trainer(const cgrpo_trainer_options &options) {
        cgrpo_trainer *made = nullptr;
        check(cgrpo_trainer_create(&options, &made));
        handle_.reset(made);
    }
    /** The directory's bytes are those of a path. */
    static Trainer load(const std::string &directory) {
        cgrpo_trainer *made = nullptr;
        check(cgrpo_trainer_load(directory.c_str(), &made));
        return Trainer(made);
    }
    void save(const std::string &directory) const { check(cgrpo_trainer_save(get(), directory.c_str())); }

    cgrpo_trainer *get() const noexcept { return handle_.get(); }

    /** Their arrays are the trainer's memory. */
    TrainerOptions options() const {
        TrainerOptions options;
        check(cgrpo_trainer_info(get(), &options, nullptr, nullptr));
        return options;
    }
    std::int64_t parameter_count() const {
        std::int64_t count = 0;
        check(cgrpo_trainer_info(get(), nullptr, &count, nullptr));
        return count;
    }
    std::int64_t iterations() const {
        std::int64_t count = 0;
        check(cgrpo_trainer_info(get(), nullptr, nullptr, &count));
        return count;
    }

    void pretrain(const ConstTensor &images, const ConstTensor &conditions,
                  const cgrpo_pretrain_options &options = PretrainOptions()) {
        check(cgrpo_trainer_pretrain(get(), images.get(), conditions.get(), &options, nullptr, nullptr));
    }
    /** progress(done, total, loss) */
    template <class F>
    void pretrain(const ConstTensor &images, const ConstTensor &conditions, const cgrpo_pretrain_options &options,
                  F &&progress) {
        detail::Callback<std::remove_reference_t<F>> callback{progress};
        auto call = [](void *user, std::int64_t done, std::int64_t total, double loss) -> int {
            return (*static_cast<detail::Callback<std::remove_reference_t<F>> *>(user))(done, total, loss);
        };
        callback.check(cgrpo_trainer_pretrain(get(), images.get(), conditions.get(), &options, call, &callback));
    }

    /** reward(images, prompts, rewards): writes a number for each image into `rewards`. */
    template <class F> IterationReport iterate(const ConstTensor &conditions, F &&reward) {
        detail::Callback<std::remove_reference_t<F>> callback{reward};
        auto call = [](void *user, const cgrpo_tensor *images, const std::int64_t *prompt, double *rewards) -> int {
            auto &back = *static_cast<detail::Callback<std::remove_reference_t<F>> *>(user);
            std::size_t batch = static_cast<std::size_t>(images->shape[0]);
            return back(ConstTensor(*images), Span<const std::int64_t>(prompt, batch), Span<double>(rewards, batch));
        };
        IterationReport report;
        callback.check(cgrpo_trainer_iterate(get(), conditions.get(), call, &callback, &report));
        return report;
    }

    /** The host's sum over the ranks is a C function, which throws nothing; `user` must stay until the replica is
     * removed. */
    void set_replica(std::int64_t rank, std::int64_t ranks, cgrpo_all_reduce_fn all_reduce, void *user) {
        check(cgrpo_trainer_set_replica(get(), rank, ranks, all_reduce, user));
    }
    /** The trainer is alone again. */
    void remove_replica() { check(cgrpo_trainer_set_replica(get(), 0, 1, nullptr, nullptr)); }

    void sample(const ConstTensor &conditions, const Tensor &images, std::uint64_t seed, double eta = 0,
                cgrpo_parameters parameters = CGRPO_PARAMETERS_AVERAGED) const {
        check(cgrpo_trainer_sample(get(), conditions.get(), parameters, eta, seed, images.get()));
    }

    void velocity(const ConstTensor &latents, double sigma, const ConstTensor &conditions, const Tensor &velocity,
                  cgrpo_parameters parameters = CGRPO_PARAMETERS_AVERAGED) const {
        check(cgrpo_trainer_velocity(get(), parameters, latents.get(), sigma, conditions.get(), velocity.get()));
    }

  private:
    explicit Trainer(cgrpo_trainer *made) : handle_(made) {}

    struct Destroy {
        void operator()(cgrpo_trainer *handle) const noexcept { cgrpo_trainer_destroy(handle); }
    };
    std::unique_ptr<cgrpo_trainer, Destroy> handle_;
};

} // namespace chunkgrpo

#endif /* CHUNKGRPO_HPP */
