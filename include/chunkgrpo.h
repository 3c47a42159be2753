/*
 * chunkgrpo.h - chunk-level policy optimisation (Chunk-GRPO, arXiv 2510.21583) for flow-matching models.
 *
 * The host owns the model. This library owns what lies between the velocity that the model returns and the gradient
 * that it gets back: noise, sampling step, log-probability, trajectory, chunks, advantages, objective, gradient.
 * This file is its manual, in the order in which you meet it:
 *
 *   1. Basics        version, status, errors, options, tensors
 *   2. Schedules     sigmas: plain arrays of double
 *   3. Sampler       one affine Gaussian step  x' = a x + b v + s e
 *   4. Rollouts      many steps, whole or chunk by chunk
 *   5. Chunks        plans, weights, selection
 *   6. Objective     advantages, chunk loss, gradient, divergences; published recipes
 *   7. Forward process  noised latents, distances, objectives without an SDE
 *   8. Embedded policy and trainer: a small velocity network that the library trains by itself
 *
 * A first program is examples/c/first.c; a whole training run is examples/c/digits.c.
 *
 * Notation. B samples, T sampling steps, S = T - 1 trained steps (the last one is left out), D elements per sample,
 * K chunks. sigma falls from 1 (noise) to 0 (image), x = (1 - sigma) x0 + sigma e, velocity v = e - x0.
 *
 * C99 and C++. Every array is row-major; "(B, S)" names its shape.
 *
 * Names. An enumeration cgrpo_<enum> has the values CGRPO_<ENUM>_<VALUE>; those of cgrpo_status alone are short. Values
 * never change. The comment of a field begins with its default.
 */
#ifndef CHUNKGRPO_H
#define CHUNKGRPO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ==================================================================================================================
 * 1. Basics
 *
 * - A function that can fail returns a cgrpo_status. No function prints, exits or traps, and none but
 *   cgrpo_set_thread_limit keeps state outside its handle.
 * - A call that returns an error changes no handle and no `position`. Arguments are checked before anything is written;
 *   when an error is only found on the way (a NaN in the latents, a callback that fails), the contents of the output
 *   buffers are unspecified and are to be thrown away.
 * - Pointers are borrowed for the length of the call, unless said otherwise. The library frees only its own handles.
 * - Handles of type `const` may be used from several threads at once. Other handles: one thread at a time.
 * - Memory for what grows with the arguments is asked for, and where it is missing the call returns
 *   CGRPO_OUT_OF_MEMORY. The Swift runtime's own small allocations, below 1 KB (a handle, a sentence), end the process
 *   where they fail. So do OpenBLAS's: the embedded trainer looks before each of its products whether there is room.
 * - A callback returns. A C++ exception, longjmp or pthread_exit must not leave it: the call would never end, and its
 *   handle would stay in use. A callback may call the library.
 * - A call computes in the processor's default floating-point mode (rounding to nearest, subnormals kept, nothing
 *   trapped), whatever the caller's mode is, and gives the mode back. Callbacks run in the caller's mode.
 * - Each thread that calls has 31 KB of thread-local memory of the library's.
 * - A thread is not cancelled in a call: pthread_cancel of the default, deferred, type takes effect after it. Callbacks
 *   are part of their call.
 * - The library reads no environment variable but CHUNKGRPO_SIMD, and takes no signal. OpenBLAS, which it loads, reads
 *   its own (OPENBLAS_..., OMP_...).
 * ================================================================================================================ */

/** Version of the library that this header belongs to. */
#define CGRPO_VERSION "0.1.0"

/** Version of the binary interface that this header describes. It changes when programs built against an older header
 * no longer run, and is the number in the shared library's name. */
#define CGRPO_ABI_VERSION 2

/** The binary interface of the loaded library; it equals CGRPO_ABI_VERSION when header and library fit. */
uint32_t cgrpo_abi_version(void);

/** Semantic version of the loaded library, such as CGRPO_VERSION. Static storage. */
const char *cgrpo_version(void);

typedef int32_t cgrpo_status;
enum {
    CGRPO_OK = 0,
    CGRPO_INVALID_ARGUMENT = 1, /* null, out of bounds, wrong shape, contradictory */
    CGRPO_WRONG_TYPE = 2,       /* an element type or a device that the call does not take, or a mix of types */
    CGRPO_NON_FINITE = 3,       /* NaN or infinity in latents, velocity, reward, log-probability or ratio */
    CGRPO_OUT_OF_MEMORY = 4,    /* for what grows with the arguments; see below */
    CGRPO_CALLBACK_FAILED = 5,  /* a callback returned non-zero */
    CGRPO_IO_ERROR = 6,         /* a file could not be read or written, or is not what it should be */
    CGRPO_DEVICE_FAILED = 7     /* no CUDA driver, or it refused a call */
};

/** Message of the last error on this thread, one sentence in UTF-8; "" before any. Valid until the next failing call of
 * this thread. A call that succeeds does not clear it. */
const char *cgrpo_last_error(void);

/** Name of a status, such as "CGRPO_NON_FINITE"; "unknown status" for other numbers. Static storage. */
const char *cgrpo_status_name(cgrpo_status status);

/*
 * Threads. All calls share one thread pool, which starts at the first call that needs it. If another call is using it,
 * a call runs on its own thread. Idle workers spin for 50 microseconds, then sleep; their stacks have 1 MB.
 * Results never depend on any of this.
 *
 * Fork. Any process may fork at any time, and the child may call the library: its pool starts anew. A fork waits until
 * the calls of other threads come to a rest, which takes milliseconds on an idle machine, or end: two seconds at the
 * most. A thread that is in a callback is at rest. vfork and posix_spawn do not wait, and need not.
 */

/** Sets the most threads that any call of this process uses, the caller's own among them: 1 ... 256; 1 = the library
 *  starts none. The default is 256: each call's own number decides. Calls that already run keep theirs. */
cgrpo_status cgrpo_set_thread_limit(int32_t limit);

/** The vectors that the kernels use: "baseline", "avx2" or "avx512". The library takes the widest that the processor
 * and the build have; the environment variable CHUNKGRPO_SIMD can ask for less. All give the same bits. Only the
 * embedded policy's results differ with "baseline". Static storage. */
const char *cgrpo_instruction_set(void);

/*
 * Options are structs that begin with their own size. Later versions append fields:
 *
 *     cgrpo_sampler_options options;
 *     cgrpo_sampler_options_init(&options, sizeof options);     // sets struct_size and every default
 *     options.eta = 0.3;
 *
 * A null pointer for options means all defaults. A field that this library does not know is refused unless it is zero.
 *
 * A struct that the library fills (statistics, reports, recipes) has no _init: set its struct_size before the call.
 */

typedef int32_t cgrpo_type;
enum { CGRPO_TYPE_F32 = 1, CGRPO_TYPE_F64 = 2, CGRPO_TYPE_BF16 = 3, CGRPO_TYPE_F16 = 4 };

typedef int32_t cgrpo_device;
enum { CGRPO_DEVICE_CPU = 0, CGRPO_DEVICE_CUDA = 1 };

/**
 * The queue of calls on tensors of a CUDA device; below is more of them. Set struct_size and defaults with
 * cgrpo_cuda_init.
 *
 * A workspace serves one stream at a time: calls that run at the same time need one each.
 */
typedef struct cgrpo_cuda {
    size_t struct_size;
    void *stream;          /* null, the legacy default stream; or a CUstream, or cudaStream_t, of the tensors' device */
    void *workspace;       /* null, where a call gives no numbers; else device memory, on a 16-byte boundary, of
                              cgrpo_cuda_workspace bytes, which the caller has once filled with zeros */
    size_t workspace_size; /* 0; in bytes. It stays the same for a workspace, and so does its address */
    uint64_t *status;      /* null, or a number in device memory, 0 at first, which a kernel that finds something not
                              finite sets, the first one alone. Read it with cgrpo_cuda_status where the host waits
                              anyway, and set it to 0 again */
    const uint64_t *seed;  /* null, or in device memory: read by the kernels instead of a noise's seed, so that the
                              replay of a CUDA graph draws new noise */
    const uint64_t *sample_ids; /* null, or (B) in device memory: likewise instead of a noise's sample_ids */
} cgrpo_cuda;

/**
 * Which elements of its samples a tensor holds, and which of them count: shards of samples that several processes share
 * (sequence parallelism), and samples of unequal length (audio). All tensors of a call have the same part; where it is
 * null, they hold whole samples.
 *
 * A shard holds the elements first_element ... of each sample, in the order of the whole. Its noise is that of these
 * elements, to the bit, wherever the cut is. Means, and so the slopes of gradients, are over the whole sample. One
 * shard does not know the sums of the others, so a number takes two calls, whatever the function:
 *
 *     part.sums = sums;                 cgrpo_log_prob(..., NULL);       writes this shard's share of the sums
 *     MPI_Allreduce(MPI_IN_PLACE, sums, count, MPI_DOUBLE, MPI_SUM, ...);
 *     part.reduced = 1;                 cgrpo_log_prob(..., log_prob);   reads the sums alone, no tensor
 *
 * Each block of 1,024 elements of a sample has its place in the sums, so that the numbers have the bits of the whole
 * where the cuts are multiples of 1,024. Elsewhere the sums in f32 of a block that is cut are rounded otherwise: then
 * the numbers differ from the whole's by some 1e-7 of that block's share (f64: 1e-16), and are the same on all ranks.
 * What is not finite anywhere is refused by the second call, on every rank. A gradient takes one call, and no sums.
 *
 * A sample of which lengths[i] elements count has the numbers of that many alone, to the bit: means are over them.
 * Beyond them velocities and noise are not read; next latents, images and noised latents are those that were there,
 * normals and gradients are 0. Latents whose frames follow one another, (B, frames, channels), have lengths of frames x
 * channels.
 */
typedef struct cgrpo_part {
    size_t struct_size;
    int64_t first_element;  /* 0: where in its sample the tensor's first element lies */
    int64_t total_elements; /* 0 = the tensor's: D, the elements of a whole sample */
    const int64_t *lengths; /* null: all of D count; else (B), each 1 ... D */
    double *sums;     /* null, or (P, B, n, N), for n steps and N = ceil(D / 1024) blocks. P is 3 for cgrpo_step, 2
                         for cgrpo_relative_l1, 2 for cgrpo_forward_distance and 11 where it has other velocities,
                         else 1. Not for cgrpo_rollout */
    int32_t reduced;  /* 0; 1: sums are those of all shards, to be read */
    int32_t reserved; /* 0 */
} cgrpo_part;

void cgrpo_part_init(cgrpo_part *part, size_t struct_size);

/**
 * A borrowed array. Storage is f32, f64, bf16 or f16; arithmetic is f64 for f64 and f32 for the others. All latents,
 * velocities and noise of one call have one type; but beside f32 latents the velocities may all be bf16 or f16, as
 * autocast gives them: results are those of the same velocities as f32, bit for bit. A gradient has the velocity's
 * type.
 *
 * shape    `ndim` sizes, each >= 1. Latents are (B, ...): D is the product of the sizes after the first.
 * strides  distances in elements, or null for a contiguous array. The sizes after the batch (and, for trajectories, the
 *          step) must be contiguous; the strides of batch and step are free.
 *
 * A tensor that is written may be a tensor that is read, with the same address and strides, unless its function says
 * otherwise. In any other way it must not overlap one: that is refused. Arrays of numbers must not overlap what is
 * written.
 */
typedef struct cgrpo_tensor {
    void *data;             /* the first element */
    const int64_t *shape;   /* ndim sizes */
    const int64_t *strides; /* null: contiguous; else ndim distances in elements */
    int32_t ndim;           /* 1 ... 64 */
    cgrpo_type type;        /* of the elements */
    cgrpo_device device;    /* where data is */
    int32_t reserved;       /* 0 */
    const cgrpo_cuda *cuda; /* null on the CPU; on a CUDA device null for the default stream without a workspace */
    const cgrpo_part
        *part; /* null: whole samples. cgrpo_diversity, cgrpo_norm_hinge, the trainer and CUDA devices take no others */
} cgrpo_tensor;

/*
 * CUDA. The functions of sections 3 and 4, the divergences, and the noised latents and distances of the forward process
 * also take tensors whose memory is a CUDA device's. They give the CPU's bits. Each puts kernels on the call's stream
 * and returns: it waits for nothing and allocates nothing, so that it can be captured in a CUDA graph.
 * examples/c/cuda.c is a whole program.
 *
 * - All tensors of a call lie on one device, and have the same `cuda` or equal ones.
 * - Arrays of double, read or written, are device pointers then: log_prob(s), relative_l1, grad_log_prob(s), times,
 *   distances, divergences and their gradients. `steps`, `first_steps`, `guidances` and a noise's seed and sample_ids
 *   stay in host memory, and are copied before the call returns.
 * - What is not finite cannot be seen by the call: it goes into `status`. So do numbers of device arrays that a call on
 *   the CPU would refuse.
 * - cgrpo_rollout takes no memory there: the callback's velocity is where later latents will lie. A sampler with steps
 *   of second order needs `previous_image`, which is written step by step.
 * - The number of threads does not count. cgrpo_norm_hinge, cgrpo_diversity and the trainer refuse such tensors.
 * - The driver is looked up when the first such tensor comes: libcuda.so.1, of CUDA 11 or later. The kernels are then
 *   compiled for the device, which the driver keeps for the next process. Calls use the primary context of the tensors'
 *   device, as PyTorch, CuPy and JAX do, whatever context is current.
 */

void cgrpo_cuda_init(cgrpo_cuda *cuda, size_t struct_size);

/** Bytes of a workspace for any call on latents of such a size. steps: 1, but of a trajectory those that it holds. */
cgrpo_status cgrpo_cuda_workspace(int64_t batch, int64_t elements, int64_t steps, size_t *bytes);

/** Loads the driver and compiles the kernels for a device, which the first call there would do: a stream that is being
 *  captured cannot wait for it. CGRPO_DEVICE_FAILED where there is no driver or no such device. */
cgrpo_status cgrpo_cuda_prepare(int32_t device);

/** The sentence for a status word that was copied from the device: CGRPO_OK for 0, else CGRPO_NON_FINITE, and
 *  cgrpo_last_error names sample and step. */
cgrpo_status cgrpo_cuda_status(uint64_t word);

/* ==================================================================================================================
 * 2. Schedules
 *
 * A schedule is T + 1 sigmas in double, strictly falling, from at most 1 to at least 0. Bring your own, or fill one.
 * A first sigma closer to 1 than 1e-6, which float32 leaves of 1, is taken as 1.
 * ================================================================================================================ */

/* The options below give any schedule of diffusers' FlowMatchEulerDiscreteScheduler (0.42), in its order: T base
 * points, shift, terminal stretch, spacing, a final 0. The defaults are linear; SD3 and GCPO set shift 3. */
typedef int32_t cgrpo_schedule_base;
enum {
    /* t_k = 1 - k/T (GCPO, DanceGRPO, the FLUX pipeline's linspace(1, 1/n, n)) */
    CGRPO_SCHEDULE_BASE_LINEAR = 1,
    /* what set_timesteps(n) takes when it is given no sigmas: n points from 1 to the smallest training sigma, 1/1000,
       already shifted. A static shift is then applied twice (diffusers issue 13243), as in Flow-GRPO on SD3. */
    CGRPO_SCHEDULE_BASE_DIFFUSERS = 2,
    /* t_k = 1 - k/T (1 - 1/1000): diffusers' UniPCMultistepScheduler with use_flow_sigmas (Wan's pipelines,
       Flow-Factory's UniPC scheduler). They lower a first sigma of 1 by 1e-6 for UniPC's logarithms; here it is 1 */
    CGRPO_SCHEDULE_BASE_UNIPC = 3
};

typedef int32_t cgrpo_schedule_shift;
enum {
    CGRPO_SCHEDULE_SHIFT_STATIC = 1,      /* shift t / (shift t + 1 - t)  (SD3, arXiv 2403.03206) */
    CGRPO_SCHEDULE_SHIFT_EXPONENTIAL = 2, /* e^mu / (e^mu + 1/t - 1)  (FLUX; mu by cgrpo_flux_mu) */
    CGRPO_SCHEDULE_SHIFT_LINEAR = 3       /* mu / (mu + 1/t - 1)  (diffusers' time_shift_type="linear") */
};

typedef int32_t cgrpo_schedule_spacing;
enum {
    CGRPO_SCHEDULE_SPACING_SHIFTED = 1,     /* where the shift put them */
    CGRPO_SCHEDULE_SPACING_KARRAS = 2,      /* evenly in sigma^(1/7) (arXiv 2206.00364) */
    CGRPO_SCHEDULE_SPACING_EXPONENTIAL = 3, /* evenly in ln sigma */
    CGRPO_SCHEDULE_SPACING_BETA = 4         /* quantiles of Beta(0.6, 0.6) (arXiv 2407.12173) */
};

typedef struct cgrpo_schedule_options {
    size_t struct_size;
    cgrpo_schedule_base base;        /* CGRPO_SCHEDULE_BASE_LINEAR */
    cgrpo_schedule_shift shift_kind; /* CGRPO_SCHEDULE_SHIFT_STATIC */
    double shift;                    /* 1; > 0; for the static shift */
    double mu;                       /* 0; for the other shifts: -30 ... 30 (exponential), > 0 (linear) */
    double terminal;                /* 0 = none; else in (0, 1): the last sigma before the final 0 is stretched to it */
    cgrpo_schedule_spacing spacing; /* CGRPO_SCHEDULE_SPACING_SHIFTED */
    int32_t reserved;               /* 0 */
} cgrpo_schedule_options;

void cgrpo_schedule_options_init(cgrpo_schedule_options *options, size_t struct_size);

/** Writes steps + 1 sigmas. steps: 1 ... 1,000,000; one step goes from 1 to 0. */
cgrpo_status cgrpo_schedule_make(int64_t steps, const cgrpo_schedule_options *options, double *sigmas);

/**
 * MixGRPO-Flash's schedule (Tencent-Hunyuan/MixGRPO run_sample_step): the first `kept` (1 ... steps - 1) of `steps`
 * shifted steps, then floor((steps + 1 - kept) ratio) evenly spaced times from there to 0, shifted. Writes at most
 * `capacity` sigmas (steps + 1 are enough) and their number. A ratio (in (0, 1]) that leaves no step after `kept` is an
 * error.
 */
cgrpo_status cgrpo_schedule_flash(int64_t steps, double shift, int64_t kept, double ratio, double *sigmas,
                                  int64_t capacity, int64_t *sigma_count);

/** The timestep of each of the T steps as a model wants it, scale sigma. truncated 1: whole numbers, which GCPO,
 *  DanceGRPO and MixGRPO feed their model while the step itself uses sigma. sigmas (sigma_count = T + 1), timesteps
 *  (T). */
cgrpo_status cgrpo_timesteps(const double *sigmas, int64_t sigma_count, double scale, int32_t truncated,
                             double *timesteps);

/** FLUX's mu for an image of width x height = `pixels`: linear in the sequence length pixels/16^2, from base_shift
 * (0.5) at 256 tokens to max_shift (1.15) at 4,096. Round each side down to a multiple of 16 first, as the pipelines
 * do: 1920 x 1080 has 1920 x 1072 pixels in tokens. */
cgrpo_status cgrpo_flux_mu(double pixels, double base_shift, double max_shift, double *mu);

/* ==================================================================================================================
 * 3. Sampler
 *
 * Every sampler is x' = a x + b v + s e with e ~ N(0, I); it only decides a, b and s for a step from sigma to sigma'
 * (d = sigma - sigma'). The mean is m = a x + b v. Second-order steps add c h, with h the image that the step before
 * predicted. The log-probability is averaged over the D elements, as in all public code:
 *
 *     log_prob = -|x' - m|^2 / (2 D s^2) - ln s - ln(2 pi)/2          d log_prob / dv = b (x' - m) / (D s^2)
 *
 * It is always taken from the stored x' (rounded to its type). On the policy that sampled, the importance ratio is
 * therefore exactly 1.
 * ================================================================================================================ */

typedef int32_t cgrpo_dynamics;
enum {
    /* g = eta sqrt(sigma/(1 - sigma*)), sigma* = sigma_1 where sigma = 1, else sigma;
       a = 1 - g^2 d/(2 sigma), b = -d (1 + g^2 (1 - sigma)/(2 sigma)), s = g sqrt(d)
       (Flow-GRPO, arXiv 2505.05470; GCPO flow_grpo_step) */
    CGRPO_DYNAMICS_FLOW_SDE = 1,
    /* the same with g = eta (DanceGRPO, arXiv 2505.07818; GCPO flux_step) */
    CGRPO_DYNAMICS_DANCE_SDE = 2,
    /* s = sigma' sin(pi eta/2), q = sqrt(sigma'^2 - s^2), a = (1 - sigma') + q,
       b = -sigma (1 - sigma') + (1 - sigma) q (FlowCPS, arXiv 2509.05952) */
    CGRPO_DYNAMICS_CPS = 3,
    /* Euler: a = 1, b = -d, s = 0 */
    CGRPO_DYNAMICS_ODE = 4,
    /* DPM-Solver++ with noise (arXiv 2211.01095, sde-dpmsolver++), no eta. With x0 = x - sigma v,
       e^-h = (1 - sigma) sigma' / (sigma (1 - sigma')), i = (1 - sigma')(1 - e^-2h):
       x' = (sigma'/sigma) e^-h x + i x0 + sigma' sqrt(1 - e^-2h) e. Order 2 adds i/2 (x0 - h0) h/h_0 with h0, h_0
       the image and the h of the step before (midpoint) */
    CGRPO_DYNAMICS_DPM_SDE = 5,
    /* DPM-Solver++ without noise: i = (1 - sigma')(1 - e^-h), x' = (sigma'/sigma) x + i x0, s = 0 */
    CGRPO_DYNAMICS_DPM_ODE = 6,
    /* Flow-SDE's form with g = m + (sigma_1 - m) sigma, m = wan_sigma_min, no eta (Flow-GRPO's Wan script, where m is
       0; Flash-GRPO, arXiv 2605.15980) */
    CGRPO_DYNAMICS_WAN_SDE = 7,

    /* The other published samplers have the form of CPS, with another q and s (q^2 + s^2 = sigma'^2), or of Flow-SDE,
       with another g. docs/samplers.md has them in one table. */

    /* CPS with q = sigma' e^(-h eta^2/2), the exact reverse SDE; eta = sqrt(2) is first-order DPM_SDE (Precise, arXiv
       2605.23522; Tencent-Hunyuan/Precise) */
    CGRPO_DYNAMICS_PRECISE = 8,
    /* CPS with q = sigma' exp(-eta^2/2 (1/sigma' - 1/sigma)) (Precise's dance_precise) */
    CGRPO_DYNAMICS_PRECISE_DANCE = 9,
    /* g sqrt(d) = eta sqrt(ln((1 - sigma')/(1 - sigma*)) - d), sigma* = min(sigma, 1 - 3e-3): Flow-SDE with its
       variance integrated. Refused where a step ends within 3e-3 of 1 and that is negative (SAGE-GRPO;
       Tencent-Hunyuan/SAGE-GRPO sage_grpo with sde_solver) */
    CGRPO_DYNAMICS_SAGE = 10,
    /* g = eta (m + (sigma_1 - m) sigma): the Wan SDE with an eta (Flash-GRPO; Tencent-Hunyuan/UniRL) */
    CGRPO_DYNAMICS_FLASH_SDE = 11,
    /* CPS with q = sigma'/(1 + eta): EDM's churn, eta is gamma (arXiv 2206.00364; FDFO, arXiv 2603.12893) */
    CGRPO_DYNAMICS_EDM_CHURN = 12,
    /* CPS with q = 0, no eta: the predicted image with new noise (consistency models; CM-GRPO, arXiv 2605.15190;
       mvp-ai-lab/RAVEN) */
    CGRPO_DYNAMICS_CONSISTENCY = 13
};

typedef int32_t cgrpo_log_prob_form;
enum {
    CGRPO_LOG_PROB_FORM_GAUSSIAN = 1,     /* the formula above */
    CGRPO_LOG_PROB_FORM_SQUARED_ERROR = 2 /* -mean (x' - m)^2: what Flow-GRPO and Flow-Factory use with CPS */
};

typedef int32_t cgrpo_last_step;
enum {
    CGRPO_LAST_STEP_AS_OTHERS = 1, /* the last step is like the others (Flow-GRPO) */
    CGRPO_LAST_STEP_ODE = 2        /* the last step takes no noise: with a final sigma of 0 it returns the predicted
                                      image x0 = x - sigma v (GCPO, DanceGRPO) */
};

typedef struct cgrpo_sampler_options {
    size_t struct_size;
    cgrpo_dynamics dynamics;           /* CGRPO_DYNAMICS_FLOW_SDE */
    cgrpo_log_prob_form log_prob_form; /* CGRPO_LOG_PROB_FORM_GAUSSIAN */
    double eta;                        /* 0.7; >= 0; for CPS at most 1; for EDM_CHURN it is gamma */
    double wan_sigma_min;              /* 0; in [0, 1]; for WAN_SDE and FLASH_SDE */
    cgrpo_last_step last_step;         /* CGRPO_LAST_STEP_AS_OTHERS; Flow-GRPO's, as dynamics and eta are. The embedded
                                          policy and Python's scheduler, which make pictures, have the ODE */
    int32_t threads;                   /* 1; 0 ... 256, 0 = one per core. The results are the same for any number. */
    const double *etas;                /* null, or one for each of the T steps instead of eta */
    const int64_t *window;  /* null: every step takes `dynamics`. Else the steps that do, in rising order; see
                               cgrpo_window_steps */
    int64_t window_count;   /* 0 with a null window; an empty window is an error, and so is one of the last step alone,
                               which is never trained */
    cgrpo_dynamics outside; /* CGRPO_DYNAMICS_ODE for the other steps; or CGRPO_DYNAMICS_DPM_ODE */
    cgrpo_dynamics after;   /* 0 = outside; for the steps after the window's last (MixGRPO-Flash:
                               CGRPO_DYNAMICS_DPM_ODE, with cgrpo_schedule_flash) */
    int32_t dpm_order;      /* 2; 1 or 2; the first and the last step are of order 1 */
    int32_t reserved;       /* 0 */
} cgrpo_sampler_options;

void cgrpo_sampler_options_init(cgrpo_sampler_options *options, size_t struct_size);

/** An immutable sampler over one schedule. */
typedef struct cgrpo_sampler cgrpo_sampler;

/** Copies the sigmas (sigma_count = T + 1 of them). Refuses sigmas that do not strictly fall within [0, 1]. */
cgrpo_status cgrpo_sampler_create(const double *sigmas, int64_t sigma_count, const cgrpo_sampler_options *options,
                                  cgrpo_sampler **sampler);
void cgrpo_sampler_destroy(cgrpo_sampler *sampler); /* null is fine */

/**
 * The sigmas and options of a sampler: cgrpo_sampler_create with them makes its equal. Each may be null. The arrays are
 * the sampler's own memory, valid until it is destroyed.
 *
 * options      set its struct_size before the call
 * sigmas       (sigma_count = T + 1)
 */
cgrpo_status cgrpo_sampler_info(const cgrpo_sampler *sampler, cgrpo_sampler_options *options, const double **sigmas,
                                int64_t *sigma_count);

/** a, b, s and c of one step, step 0 ... T - 1. `c` may be null; only second-order steps have one other than 0. */
cgrpo_status cgrpo_sampler_coefficients(const cgrpo_sampler *sampler, int64_t step, double *a, double *b, double *s,
                                        double *c);

/**
 * The noise of a step: the caller's, or the library's.
 *
 * The library's noise is Philox4x32-10 with a Box-Muller transform in f32. It is a function of (seed, sample id, step,
 * element) alone: the same for any batch split, thread count or machine. It can be made again instead of stored. Give
 * each sample of a training run its own id.
 */
typedef struct cgrpo_noise {
    size_t struct_size;
    const cgrpo_tensor *given;  /* null: the library's. cgrpo_step: like the latents. cgrpo_rollout: (B, T, ...) */
    uint64_t seed;              /* 0 */
    const uint64_t *sample_ids; /* null: 0 ... B - 1; else B of them */
} cgrpo_noise;

void cgrpo_noise_init(cgrpo_noise *noise, size_t struct_size);

/** Step number that stands for the initial noise in cgrpo_normal. */
#define CGRPO_INITIAL_NOISE (-1)

/**
 * Fills `out` (B, ...) with the library's normals for `step` (0 ... 2^31 - 1, or CGRPO_INITIAL_NOISE).
 * For one initial noise per group, give all samples of the group the same id.
 */
cgrpo_status cgrpo_normal(uint64_t seed, const uint64_t *sample_ids, int64_t step, int32_t threads,
                          const cgrpo_tensor *out);

/**
 * Advanced: inputs of a step beside latents and velocity. A null pointer for extras means none of them.
 *
 * Classifier-free guidance in the step: the velocity is u + guidance (v - u) for the call's `velocity` v and u =
 * `unconditional`. Nothing is written in between, and the gradient goes to both.
 *
 * One batch may mix steps: with `steps` each sample is at its own, and takes that step's noise. The results are the
 * bits of the samples one by one. Functions without extras take such steps beside their step.
 */
typedef struct cgrpo_step_extras {
    size_t struct_size;
    const cgrpo_tensor *unconditional;  /* null: no guidance; like the latents */
    double guidance;                    /* 1; needs `unconditional` where it is not 1 */
    const cgrpo_tensor *previous_image; /* null, or x0 = x - sigma v of the step before, which second-order steps need
                                           (c != 0); like the latents. cgrpo_predicted_image makes it. Of samples
                                           at other steps it is not read */
    const int64_t *steps;    /* null: the call's step for all; else (B), each 0 ... T - 1, and the call's step
                                must be 0 */
    const double *guidances; /* null: `guidance` for all; else (B), and `guidance` must be 1 */
} cgrpo_step_extras;

void cgrpo_step_extras_init(cgrpo_step_extras *extras, size_t struct_size);

/**
 * One step: next_latents = a x + b v + s e. `next_latents` may be `latents`.
 *
 * extras       or null
 * noise        may be null where s = 0
 * log_prob     (B) or null; 0 where s = 0, so that a deterministic step drops out of every ratio
 * relative_l1  (B) or null: mean|x' - x| / (mean|x| + 1e-8)
 */
cgrpo_status cgrpo_step(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                        const cgrpo_tensor *velocity, const cgrpo_step_extras *extras, const cgrpo_noise *noise,
                        const cgrpo_tensor *next_latents, double *log_prob, double *relative_l1);

/** Log-probability (B) of given next_latents. extras: or null. An error where s = 0 for any sample: a deterministic
 *  step has no density. */
cgrpo_status cgrpo_log_prob(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                            const cgrpo_tensor *velocity, const cgrpo_step_extras *extras,
                            const cgrpo_tensor *next_latents, double *log_prob);

/**
 * Vector-Jacobian product: grad_velocity = grad_log_prob[i] * d log_prob[i] / d velocity[i]. A gradient that is too
 * large for its type is CGRPO_NON_FINITE.
 *
 * extras              or null
 * grad_log_prob       (B)
 * grad_velocity       like the latents, written. Large gradients (all four tensors > half the last-level cache; f32 or
 *                     bf16, on a 32-byte boundary) are written with non-temporal stores
 * grad_unconditional  null, or the gradient of the unconditional velocity, written. Of the tensors that
 *                     are read it may be `unconditional` alone
 * log_prob            (B) or null: written in the same pass
 */
cgrpo_status cgrpo_log_prob_vjp(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                                const cgrpo_tensor *velocity, const cgrpo_step_extras *extras,
                                const cgrpo_tensor *next_latents, const double *grad_log_prob,
                                const cgrpo_tensor *grad_velocity, const cgrpo_tensor *grad_unconditional,
                                double *log_prob);

/**
 * Advanced: for a host with an autograd of its own. cgrpo_log_prob_residual is cgrpo_log_prob, and writes the residual
 * r = x' - m in the same pass: the next latents less the mean of the step. A forward pass keeps it, alone, and the
 * backward pass is cgrpo_residual_vjp: gradients have the bits of cgrpo_log_prob_vjp, from one array instead of three.
 *
 * Latents and velocities are both f32 or both f64, the type that is computed in. One of 16 bits would round the
 * residual, and is CGRPO_WRONG_TYPE: there, and where a host can scale no array, keep latents, velocity and next
 * latents, and call cgrpo_log_prob_vjp.
 *
 * extras              or null. cgrpo_residual_vjp takes those of the forward pass: it reads steps, guidance and
 *                     guidances, and no tensor of them, which may be null
 * residual            like the velocity; written by the forward pass. It may be `velocity`, or another that is read
 * log_prob            (B)
 * grad_log_prob       (B)
 * grad_velocity       like the residual, written. It may be `residual`
 * grad_unconditional  null, or the gradient of the unconditional velocity, written. It lies apart from both
 */
cgrpo_status cgrpo_log_prob_residual(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                                     const cgrpo_tensor *velocity, const cgrpo_step_extras *extras,
                                     const cgrpo_tensor *next_latents, const cgrpo_tensor *residual, double *log_prob);
cgrpo_status cgrpo_residual_vjp(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *residual,
                                const cgrpo_step_extras *extras, const double *grad_log_prob,
                                const cgrpo_tensor *grad_velocity, const cgrpo_tensor *grad_unconditional);

/** image = x - sigma v of a step, with the guided velocity where extras (or null) have one. `image` may be `latents`.
 */
cgrpo_status cgrpo_predicted_image(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                                   const cgrpo_tensor *velocity, const cgrpo_step_extras *extras,
                                   const cgrpo_tensor *image);

/**
 * Advanced: windows of stochastic steps that move along the trajectory, iteration by iteration (MixGRPO, arXiv
 * 2507.21802; Flow-GRPO-Fast; Flow-Factory; verl-omni). A function of the iteration alone.
 */
typedef int32_t cgrpo_window_strategy;
enum {
    /* the first window throughout */
    CGRPO_WINDOW_STRATEGY_FIXED = 1,
    /* a start drawn anew each iteration, of the windows that fit */
    CGRPO_WINDOW_STRATEGY_RANDOM = 2,
    /* `size` single steps drawn anew each iteration, without replacement */
    CGRPO_WINDOW_STRATEGY_SUBSET = 3,
    /* `iterations` per window, then `stride` steps further */
    CGRPO_WINDOW_STRATEGY_PROGRESSIVE = 4,
    /* the same, with floor(iterations (1 - t/end) + least t/end) at start t, at least `least` */
    CGRPO_WINDOW_STRATEGY_LINEAR_DECAY = 5,
    /* the same, with ceil(iterations e^(-decay max(0, t - threshold))) */
    CGRPO_WINDOW_STRATEGY_EXPONENTIAL_DECAY = 6
};

typedef int32_t cgrpo_window_end;
enum {
    CGRPO_WINDOW_END_WRAP = 1, /* after the last window the first again */
    CGRPO_WINDOW_END_STOP = 2, /* an error */
    CGRPO_WINDOW_END_STAY = 3  /* the last that fits whole, for ever (verl-omni) */
};
/* MixGRPO's own code goes on with windows that hold no step, and trains nothing there. This library never does. */

typedef struct cgrpo_window_options {
    size_t struct_size;
    int64_t size;                   /* 4 steps per window, 1 ... end - first; fewer where `end` cuts it */
    int64_t first;                  /* 0 */
    int64_t end;                    /* 0 = unset, an error: windows cover first ... end - 1. MixGRPO: T - 2 */
    int64_t stride;                 /* 0 = size; >= 1; less than `size` lets windows overlap */
    cgrpo_window_strategy strategy; /* CGRPO_WINDOW_STRATEGY_PROGRESSIVE */
    cgrpo_window_end at_end;        /* CGRPO_WINDOW_END_WRAP */
    int64_t iterations;             /* 25; >= 1 */
    int64_t least;                  /* 1; 1 ... iterations; for linear decay */
    int64_t threshold;              /* 13; >= 0; for exponential decay */
    double decay;                   /* 0.1; >= 0; for exponential decay */
    uint64_t seed;                  /* 0; for random and subset */
} cgrpo_window_options;

void cgrpo_window_options_init(cgrpo_window_options *options, size_t struct_size);

/** The stochastic steps of `iteration` (from 0), in rising order: at most `capacity` (options.size is enough) and their
 *  number, never 0. */
cgrpo_status cgrpo_window_steps(const cgrpo_window_options *options, int64_t iteration, int64_t *steps,
                                int64_t capacity, int64_t *count);

/* ==================================================================================================================
 * 4. Rollouts
 * ================================================================================================================ */

/**
 * The model: write the velocity at `latents` into `velocity`. Both are (B, ...), the latents in the trajectory's type,
 * the velocity in its velocity_type, have `strides`, and are valid during the call only. Return 0, or anything else to
 * stop the rollout.
 */
typedef int (*cgrpo_velocity_fn)(void *user, int64_t step, double sigma, const cgrpo_tensor *latents,
                                 const cgrpo_tensor *velocity);

/**
 * The caller's buffers that a rollout fills, and its position.
 *
 * `position` is the step that latents[:, position] take next. A rollout can stop after any step and go on later.
 * Another host can continue it with latents[:, position], the seed and the sample ids.
 */
typedef struct cgrpo_trajectory {
    size_t struct_size;
    cgrpo_tensor latents; /* unset: (B, T + 1, ...). latents[:, position] are read, the later ones written */
    double *log_probs;    /* null, or (B, S), written */
    double *relative_l1;  /* null, or (B, S), written */
    int64_t position;     /* 0 ... T */
    const cgrpo_tensor *previous_image; /* null, or (B, ...). In: the image that step position - 1 predicted. Out: the
                                           image of the last step taken. Only second-order steps need it, where a
                                           rollout stops between two steps and goes on */
    cgrpo_type velocity_type; /* 0: the latents' type; or CGRPO_TYPE_BF16 or _F16 beside f32 latents on the CPU */
    int32_t reserved;         /* 0 */
} cgrpo_trajectory;

void cgrpo_trajectory_init(cgrpo_trajectory *trajectory, size_t struct_size);

/**
 * Takes the steps position ... end - 1 (position < end <= T) and moves `position` to `end`. After an error `position`
 * is as before and what lies beyond it is to be thrown away; the same call can be made again.
 */
cgrpo_status cgrpo_rollout(const cgrpo_sampler *sampler, cgrpo_trajectory *trajectory, int64_t end,
                           const cgrpo_noise *noise, cgrpo_velocity_fn velocity, void *user);

/**
 * Sample ids (B, branches) for trajectories that fork before a step: branch j of sample i is sample i branches + j of a
 * new trajectory, whose latents[:, step] are copies of those of sample i; set its position to `step`, and call
 * cgrpo_rollout with these ids. Its noise from that step on is its own. Train the steps before it with the trajectory
 * that forks, once. For one step and one branch, different ids stay different; any two others of n ids meet with
 * probability n^2 / 2^65.
 *
 * sample_ids  null: 0 ... B - 1
 */
cgrpo_status cgrpo_forked_ids(const uint64_t *sample_ids, int64_t batch, int64_t step, int64_t branches, uint64_t *ids);

/** log_probs (B, n) of the steps first_step ... first_step + n - 1 from latents (B, n + 1, ...) and velocities
 *  (B, n, ...). More than n + 1 latents per sample are allowed; the first n + 1 count.
 *  first_steps: null: first_step for all; else (B): the first step of each sample, 0 ... T - n, and first_step must be
 *  0. Then latents[i] are those of sample i's own steps: a batch of windows at different places. */
cgrpo_status cgrpo_trajectory_log_probs(const cgrpo_sampler *sampler, int64_t first_step, const int64_t *first_steps,
                                        const cgrpo_tensor *latents, const cgrpo_tensor *velocities, double *log_probs);

/** Vector-Jacobian product of the above: grad_log_probs (B, n) to grad_velocities (B, n, ...). Steps whose gradient is
 *  zero (not selected, clipped) are not computed but filled with zeros. A gradient that is too large for its type is
 *  CGRPO_NON_FINITE. grad_velocities may be `velocities`, but must lie apart from `latents`. */
cgrpo_status cgrpo_trajectory_log_probs_vjp(const cgrpo_sampler *sampler, int64_t first_step,
                                            const int64_t *first_steps, const cgrpo_tensor *latents,
                                            const cgrpo_tensor *velocities, const double *grad_log_probs,
                                            const cgrpo_tensor *grad_velocities);

/** Advanced: the same as cgrpo_log_prob_residual and cgrpo_residual_vjp, of the steps of a trajectory: residuals
 *  (B, n, ...), written by the forward pass beside log_probs (B, n), and their vector-Jacobian product. residuals may
 * be `velocities`, and grad_velocities may be `residuals`. */
cgrpo_status cgrpo_trajectory_residuals(const cgrpo_sampler *sampler, int64_t first_step, const int64_t *first_steps,
                                        const cgrpo_tensor *latents, const cgrpo_tensor *velocities,
                                        const cgrpo_tensor *residuals, double *log_probs);
cgrpo_status cgrpo_trajectory_residuals_vjp(const cgrpo_sampler *sampler, int64_t first_step,
                                            const int64_t *first_steps, const cgrpo_tensor *residuals,
                                            const double *grad_log_probs, const cgrpo_tensor *grad_velocities);

/** relative_l1 (B, n) of latents (B, n + 1, ...), n = 0 too: d_t = mean|x_{t+1} - x_t| / (mean|x_t| + 1e-8). */
cgrpo_status cgrpo_relative_l1(const cgrpo_tensor *latents, int32_t threads, double *relative_l1);

/* ==================================================================================================================
 * 5. Chunks
 *
 * A plan is K chunk sizes, each >= 1, that sum to the number of trained steps S: contiguous chunks from step 0 on.
 * Sizes of 1 are step-level GRPO; one chunk of S is GSPO's sequence ratio. GCPO's plan for T = 17 is 2, 3, 4, 7.
 * ================================================================================================================ */

/** Chunks of `size` steps (1 ... steps) and, where it does not divide, a last one with the remainder. Writes at most
 *  `capacity` sizes (steps are always enough) and their number. */
cgrpo_status cgrpo_plan_fixed(int64_t steps, int64_t size, int64_t *sizes, int64_t capacity, int64_t *chunk_count);

typedef struct cgrpo_adaptive_options {
    size_t struct_size;
    int64_t max_size; /* 7; 0 = no bound. A longer run is halved until it fits. */
    int64_t min_size; /* 2. A shorter run joins its shorter neighbour. At most (max_size + 1)/2: halves keep it */
} cgrpo_adaptive_options;

void cgrpo_adaptive_options_init(cgrpo_adaptive_options *options, size_t struct_size);

/** Boundaries from the relative-L1 curve (arXiv 2510.21583): consecutive steps whose relative L1, averaged over the
 *  batch, moves in the same direction form a run. relative_l1 is (B, S). */
cgrpo_status cgrpo_plan_adaptive(const double *relative_l1, int64_t batch, int64_t steps,
                                 const cgrpo_adaptive_options *options, int64_t *sizes, int64_t capacity,
                                 int64_t *chunk_count);

typedef struct cgrpo_optimal_options {
    size_t struct_size;
    int64_t chunk_count; /* 0 = the smallest number of chunks that explains `explained`; else K */
    double explained;    /* 0.9; in (0, 1): share of the variance of the logarithm of the curve */
    int64_t min_size;    /* 1 */
    int64_t max_size;    /* 0 = no bound */
} cgrpo_optimal_options;

void cgrpo_optimal_options_init(cgrpo_optimal_options *options, size_t struct_size);

/**
 * The segmentation of the relative-L1 curve (averaged over the batch, in logarithms) whose chunks differ least from
 * their own means, in least squares (Fisher 1958; dynamic programming, at most 2,000 steps). Small noise moves it less
 * than it moves turning points.
 *
 * curve      (S) or null: the averaged curve
 * explained  or null: the share of variance that the plan explains, 1 for a flat curve
 */
cgrpo_status cgrpo_plan_optimal(const double *relative_l1, int64_t batch, int64_t steps,
                                const cgrpo_optimal_options *options, int64_t *sizes, int64_t capacity,
                                int64_t *chunk_count, double *curve, double *explained);

/** The plan in one line, such as "4 chunks over 16 steps: 0-1 | 2-4 | 5-8 | 9-15": as far as `capacity` bytes go
 * (always ended by a zero), and its whole length without the zero. `text` may be null with capacity 0. */
cgrpo_status cgrpo_plan_describe(const int64_t *sizes, int64_t chunk_count, char *text, size_t capacity,
                                 size_t *length);

/** A plan for the schedule `from` on the schedule `to`: each boundary at the step whose sigma is nearest to its own. A
 *  chunk keeps at least one step. Writes chunk_count sizes into `carried`; the counts are of sigmas, T + 1. */
cgrpo_status cgrpo_plan_carry(const int64_t *sizes, int64_t chunk_count, const double *from, int64_t from_count,
                              const double *to, int64_t to_count, int64_t *carried);

/** weights (B, K): mean of relative_l1 (B, S) over each chunk, plus 1e-8 (GCPO). */
cgrpo_status cgrpo_chunk_weights(const double *relative_l1, int64_t batch, int64_t steps, const int64_t *sizes,
                                 int64_t chunk_count, double *weights);

typedef int32_t cgrpo_weighting;
enum {
    CGRPO_WEIGHTING_NORMALISED = 1, /* p = w / sum w */
    CGRPO_WEIGHTING_SOFTMAX = 2     /* p = exp w / sum exp w */
};

typedef struct cgrpo_select_options {
    size_t struct_size;
    double fraction;            /* 1; in (0, 1]. floor(K fraction + 1e-9) chunks of each sample; none is an error */
    const double *weights;      /* null: uniform; (B, K), finite, >= 0 (softmax: any): drawn without replacement */
    cgrpo_weighting weighting;  /* CGRPO_WEIGHTING_NORMALISED */
    int32_t reserved;           /* 0 */
    const int64_t *fixed;       /* null, or the chunks to train in every sample; excludes fraction < 1 and weights */
    int64_t fixed_count;        /* 0 */
    uint64_t seed;              /* 0 */
    const uint64_t *sample_ids; /* null: 0 ... B - 1; else B of them */
} cgrpo_select_options;

void cgrpo_select_options_init(cgrpo_select_options *options, size_t struct_size);

/** Which chunks of which sample to train: selection (B, K), 1 or 0. The same for any batch split. */
cgrpo_status cgrpo_chunk_select(int64_t batch, int64_t chunk_count, const cgrpo_select_options *options,
                                uint8_t *selection);

/* ==================================================================================================================
 * 6. Objective
 * ================================================================================================================ */

typedef int32_t cgrpo_baseline;
enum {
    CGRPO_BASELINE_GROUP = 1,         /* the mean of the sample's group */
    CGRPO_BASELINE_LEAVE_ONE_OUT = 2, /* the mean of the others of its group (RLOO, arXiv 2402.14740) */
    CGRPO_BASELINE_BATCH = 3          /* the mean of all samples (GCPO, DanceGRPO without use_group) */
};

typedef int32_t cgrpo_scale;
enum {
    CGRPO_SCALE_GROUP = 1, /* the standard deviation of the group */
    CGRPO_SCALE_BATCH = 2, /* that of all samples (Flow-GRPO's global_std, Flow-Factory, verl-omni) */
    CGRPO_SCALE_NONE = 3   /* 1 (Dr. GRPO, arXiv 2503.20783) */
};

typedef int32_t cgrpo_deviation;
enum {
    CGRPO_DEVIATION_UNBIASED = 1,  /* divided by n - 1 (GCPO, DanceGRPO, MixGRPO, TRL, verl) */
    CGRPO_DEVIATION_POPULATION = 2 /* divided by n (Flow-GRPO, Flow-Factory) */
};

typedef int32_t cgrpo_mixing;
enum {
    CGRPO_MIXING_SUM = 1,            /* the weighted sum of the rewards is normalised */
    CGRPO_MIXING_NORMALISED_SUM = 2, /* each reward is normalised, then they are summed by weight (MixGRPO) */
    CGRPO_MIXING_GDPO = 3            /* and the sum is normalised over the batch (GDPO; Flow-Factory, TRL), also of
                                        one reward */
};

typedef struct cgrpo_advantage_options {
    size_t struct_size;
    int64_t group_size;        /* 0 = all samples are one group; must divide the count. A group is a consecutive run */
    double clamp;              /* 5; > 0, INFINITY for none; the last thing done */
    double epsilon;            /* 1e-8; >= 0; added to the standard deviation */
    double floor;              /* 0; >= 0; the standard deviation is at least this (Flow-Factory: 1e-6, epsilon 0) */
    const int64_t *group_ids;  /* null, or one id per sample: any order, unequal sizes; excludes group_size */
    cgrpo_baseline baseline;   /* CGRPO_BASELINE_GROUP */
    cgrpo_scale scale;         /* CGRPO_SCALE_GROUP */
    cgrpo_deviation deviation; /* CGRPO_DEVIATION_UNBIASED */
    int32_t subtract_median;   /* 0; 1: the median of a group's advantages is subtracted (GCPO's half-half) */
    double trim;               /* 0; in [0, 1): share of a group's lowest rewards that mean and deviation leave out
                                  (MixGRPO) */
    int64_t reward_count;      /* 1 = R, rewards per sample */
    const double *reward_weights; /* null: 1 each; R of them */
    cgrpo_mixing mixing;          /* CGRPO_MIXING_SUM */
    int32_t reserved;             /* 0 */
    const uint8_t *present;       /* null: every reward; (count, R), 0 = does not apply: not read, and left out of the
                                     group's mean and deviation and of the sample's sum. Each sample has one */
} cgrpo_advantage_options;

void cgrpo_advantage_options_init(cgrpo_advantage_options *options, size_t struct_size);

/** Advantages (count) of rewards (count, R). By default (r - mean_g) / (std_g + epsilon) with the unbiased standard
 *  deviation, then clamped (GCPO, DanceGRPO, MixGRPO). A group of one, or whose rewards are all equal, gives zeros.
 *  With one reward per sample, rewards and advantages may be the same array. */
cgrpo_status cgrpo_advantages(const double *rewards, int64_t count, const cgrpo_advantage_options *options,
                              double *advantages);

/**
 * Advantages against each prompt's own recent rewards (kvablack/ddpo-pytorch, arXiv 2305.13301): (r - mean) / (std +
 * 1e-6) with the population's standard deviation over the latest `capacity` (1 ... 2^24) rewards of the prompt, or over
 * the batch while the prompt has fewer than min_count (1 ... capacity).
 */
typedef struct cgrpo_history cgrpo_history;

cgrpo_status cgrpo_history_create(int64_t capacity, int64_t min_count, cgrpo_history **history);
void cgrpo_history_destroy(cgrpo_history *history); /* null is fine */

/** Records one batch: rewards[i] belongs to prompt id prompts[i]. Writes `count` advantages. */
cgrpo_status cgrpo_history_update(cgrpo_history *history, const int64_t *prompts, const double *rewards, int64_t count,
                                  double *advantages);

/** The rewards that a history has, to be saved: prompts[i] and rewards[i], at most `capacity` of each, and their
 *  number. Those of a prompt are neighbours, oldest first. With capacity 0 it writes the number alone. Given to
 *  cgrpo_history_update of a new history of the same capacity, they make its equal. */
cgrpo_status cgrpo_history_rewards(const cgrpo_history *history, int64_t *prompts, double *rewards, int64_t capacity,
                                   int64_t *count);

/**
 * Mean Euclidean distance (B) of each sample's features (B, ...) from those of the others of its group, a run of
 * group_size (>= 2) samples; 0 = all are one group. It is a statistic, whose mean over a group is that over its pairs,
 * and a reward against collapse. Features are the images, or any embedding of them. Scaled to length 1, their distances
 * are those of cosines. Features that are not finite are CGRPO_NON_FINITE; the message names the sample. threads: 0 =
 * one per core; the results are the same for any number.
 */
cgrpo_status cgrpo_diversity(const cgrpo_tensor *features, int64_t group_size, int32_t threads, double *diversity);

/** Which `keep` of n scores to train on: 1 for the (keep + 1)/2 highest and the keep/2 lowest, else 0 (DanceGRPO's
 *  best-of-n, over the whole batch). */
cgrpo_status cgrpo_best_of_n(const double *scores, int64_t count, int64_t keep, uint8_t *chosen);

/*
 * The chunk objective. A chunk is a run of sampling steps, tokens, actions or frames of a sample. A sample has S steps.
 *
 *     r_t   = scale_t (l_t_new - l_t_old + bias_t)                     log ratio of a step
 *     rho_j = exp(mean of r_t over the steps of chunk j)               the geometric mean of its step ratios
 *     loss  = mean over the selected (sample, chunk) of  w_j surrogate(rho_j, A) + kl KL_j
 *
 * By default scale 1, bias 0, w 1: the objective of Chunk-GRPO. Chunks of one step are step-level GRPO (for tokens:
 * TRL's and verl's), one chunk over everything is GSPO (arXiv 2507.18071).
 */

typedef int32_t cgrpo_surrogate;
enum {
    CGRPO_SURROGATE_CLIPPED = 1,     /* max(-A rho, -A clip(rho, 1 - low, 1 + high)) (PPO, arXiv 1707.06347) */
    CGRPO_SURROGATE_UNCLIPPED = 2,   /* -A rho */
    CGRPO_SURROGATE_LOG_CLIPPED = 3, /* -A exp(mean of min(r_t, high) where A > 0, of max(r_t, -low) where A < 0): each
                                        step is clipped, in logarithms, before the mean (GMPO, arXiv 2507.20673) */
    CGRPO_SURROGATE_CISPO = 4,       /* -A clip(rho, 1 - low, 1 + high) l_j_new, with no gradient through the clip
                                        (CISPO, arXiv 2506.13585; verl). TRL caps from above only, at its
                                        epsilon_high: clip_low 1, clip_high epsilon_high - 1. Excludes ratio_bias
                                        and ratio_scale */
    /* -A rho, or 0 where divergence_j >= divergence_threshold and rho has moved the advantage's way: up where A > 0,
     * down where A < 0 (Flow-DPPO; verl-omni) */
    CGRPO_SURROGATE_DIVERGENCE_MASK = 5,
    /* -A rho + |A| (rho - 1)^2 / (2 eps), with eps = low where rho < 1 and high above, both > 0 (SPO, arXiv
     * 2401.16025): lowest where the clip would begin */
    CGRPO_SURROGATE_SPO = 6,
    /* -A (4 / tau) sigmoid(tau (rho - 1)), with tau by the sign of A (SAPO, arXiv 2511.20347; TRL) */
    CGRPO_SURROGATE_SAPO = 7,
    /* -A phi(w) l_j_new, with no gradient through phi(w) = exp(lambda) w^k exp(-lambda w); w = rho^n is the product of
     * the chunk's n step ratios; k and lambda go by the sign of A (VESPO; TRL, with one chunk over everything).
     * Excludes ratio_bias and ratio_scale */
    CGRPO_SURROGATE_VESPO = 8
};

/* From delta = l_ref - l_new; KL(policy, reference). */
typedef int32_t cgrpo_kl_estimator;
enum {
    CGRPO_KL_ESTIMATOR_K1 = 1, /* -delta; its mean is right, but its gradient is not that of the KL divergence */
    CGRPO_KL_ESTIMATOR_K2 = 2, /* delta^2 / 2 (MixGRPO) */
    CGRPO_KL_ESTIMATOR_K3 = 3  /* exp(delta) - 1 - delta (GCPO, TRL) */
};

typedef int32_t cgrpo_kl_level;
enum {
    CGRPO_KL_LEVEL_CHUNK = 1, /* delta is the chunk's mean (GCPO) */
    CGRPO_KL_LEVEL_STEP = 2   /* each step has its estimate, and a chunk their mean (TRL, with sequence ratios too) */
};

typedef int32_t cgrpo_average;
enum {
    CGRPO_AVERAGE_CHUNK = 1,  /* over all selected chunks. With chunks of one step: TRL's bnpo, verl's token-mean */
    CGRPO_AVERAGE_SAMPLE = 2, /* over each sample's chunks, then over the samples that have any: TRL's grpo, verl's
                                  seq-mean-token-mean */
    CGRPO_AVERAGE_STEP = 3    /* over all selected chunks, weighted by their number of present steps */
};

typedef int32_t cgrpo_advantage_level;
enum {
    CGRPO_ADVANTAGE_LEVEL_SAMPLE = 1, /* (B): one per sample */
    CGRPO_ADVANTAGE_LEVEL_CHUNK = 2,  /* (B, K): one per chunk */
    CGRPO_ADVANTAGE_LEVEL_STEP = 3    /* (B, S): one per step; a chunk's is the mean over its present steps. Equal ones
                                         give the loss of that one advantage, to the bit */
};

typedef struct cgrpo_chunk_loss_options {
    size_t struct_size;
    cgrpo_surrogate surrogate;         /* CGRPO_SURROGATE_CLIPPED */
    cgrpo_average average;             /* CGRPO_AVERAGE_CHUNK */
    double clip_low;                   /* 5e-5 (GCPO); in [0, 1]. Log-clipped: a bound on r_t, >= 0. Leave it where
                                          nothing is clipped */
    double clip_high;                  /* 5e-5; >= 0. Distances from 1: 0.5 <= clip_low < 1 with clip_high > 1 is
                                          refused, for those are bounds */
    double ratio_cap;                  /* INFINITY = none; >= 1: max(-A min(rho, cap), -A clip(rho)) (TRL's delta). For
                                          the clipped surrogate; excludes dual_clip */
    double dual_clip;                  /* INFINITY = none; > 1: where A < 0 the term is at most -A dual_clip (arXiv
                                          1912.09729; verl: 3). For the clipped surrogate */
    double kl;                         /* 0; >= 0: weight of the KL estimate. With 0, estimator, level and reference are
                                          of the statistic approximate_kl alone */
    cgrpo_kl_estimator kl_estimator;   /* CGRPO_KL_ESTIMATOR_K3 */
    cgrpo_kl_level kl_level;           /* CGRPO_KL_LEVEL_CHUNK */
    double normaliser;                 /* 0 = the count; > 0: divide the summed loss by this instead of the number of
                                          chunks, samples or steps. With CGRPO_AVERAGE_STEP, B times the longest
                                          completion is TRL's dr_grpo, the tokens of the global batch are its dapo */
    double divergence_threshold;       /* 1e-5 (verl-omni); >= 0. For the divergence mask */
    const uint8_t *selection;          /* null: every chunk; (B, K), non-zero = train; the steps of others may be NaN */
    const uint8_t *mask;               /* null: every step; (B, S), 0 = absent: not read, means are over the others,
                                          and a chunk without any is skipped. Samples may so have their own lengths */
    const double *reference_log_probs; /* null: KL against old_log_probs; (B, S) */
    const double *weights;             /* null: 1; w >= 0 of the policy terms, (K) or (B, K) */
    const double *ratio_bias;          /* null: 0; (B, S) */
    const double *ratio_scale;         /* null: 1; (S), >= 0 */
    const double *divergence;          /* null; (B, S), >= 0; a chunk's is the mean over its steps. The divergence
                                          mask needs it */
    double *grad_ratio_bias;           /* null, or (B, S), written: d loss / d ratio_bias */
    int32_t weights_per_sample;        /* 0: weights are (K); 1: (B, K) */
    int32_t reserved;                  /* 0 */
    cgrpo_advantage_level advantage_level; /* CGRPO_ADVANTAGE_LEVEL_SAMPLE */
    int32_t reserved2;                     /* 0 */
    const double *kl_weights;    /* null: 1; (B), >= 0: factors of a kl > 0 for each sample (GARDO, arXiv 2512.24138:
                                    1 where the reward is uncertain, else 0) */
    double sapo_temperature_pos; /* 1; > 0: tau where A > 0. For SAPO; the others are TRL's too */
    double sapo_temperature_neg; /* 1.05; > 0: tau elsewhere */
    double vespo_k_pos;          /* 2; >= 0: k where A >= 0. For VESPO */
    double vespo_lambda_pos;     /* 3; > 0: lambda where A >= 0 */
    double vespo_k_neg;          /* 3; >= 0: k elsewhere */
    double vespo_lambda_neg;     /* 2; > 0: lambda elsewhere */
} cgrpo_chunk_loss_options;

void cgrpo_chunk_loss_options_init(cgrpo_chunk_loss_options *options, size_t struct_size);

/** Over the N selected chunks that have a step. */
typedef struct cgrpo_chunk_stats {
    size_t struct_size;        /* set it to sizeof before the call */
    int64_t selected;          /* N, their number */
    double ratio_mean;         /* of the ratios of the N chunks, exp of the mean log-ratio of a chunk's steps */
    double ratio_std;          /* their population standard deviation */
    double ratio_min;          /* the smallest */
    double ratio_max;          /* the largest */
    double clip_fraction_low;  /* share of the N, 0 ... 1: A < 0 and ratio < 1 - clip_low. Their gradient is zero */
    double clip_fraction_high; /* the same: A > 0 and ratio > 1 + clip_high. Other surrogates count a chunk whose ratio
                                  a bound limits as low below 1 and as high above; log-clipped counts one with any
                                  limited step as low where A < 0 and as high where A > 0 */
    double approximate_kl;     /* mean of the KL estimate, without its weight */
    double effective_sample_size; /* (sum ratio)^2 / (N sum ratio^2), in (0, 1]; 1 = on policy */
    double log_ratio_max;         /* the largest |log ratio| of a chunk, in nats per element; 0 = on policy */
} cgrpo_chunk_stats;

/**
 * The chunk objective and its gradient.
 *
 * new_log_probs, old_log_probs  (B, S)
 * advantages                    (B), of either sign; by advantage_level (B, K) or (B, S), of which those of chunks that
 *                               are not selected and of absent steps are not read
 * loss                          one number
 * grad_log_probs                (B, S) or null: d loss / d new_log_probs; give it to cgrpo_log_prob_vjp
 * ratios                        (B, K) or null, of all chunks, selected or not; never clipped; 1 for a chunk without a
 *                               step, and for one that is not selected and has no ratio
 * stats                         or null
 *
 * A ratio that is too large for a double is an error only where the loss is; where a bound holds the loss, the ratio is
 * DBL_MAX. Statistics that are too large are DBL_MAX too; with kl = 0 the KL estimate is only such a statistic.
 */
cgrpo_status cgrpo_chunk_loss(const double *new_log_probs, const double *old_log_probs, const double *advantages,
                              int64_t batch, int64_t steps, const int64_t *sizes, int64_t chunk_count,
                              const cgrpo_chunk_loss_options *options, double *loss, double *grad_log_probs,
                              double *ratios, cgrpo_chunk_stats *stats);

/**
 * Takes the chunks of `other` into `total`, as if one loss had had them all: of minibatches, or of ranks. The numbers
 * are the same, up to rounding. Both have their struct_size; a total with selected = 0 and zeros is empty. Numbers that
 * no loss gives are CGRPO_INVALID_ARGUMENT, and leave `total` as it was.
 */
cgrpo_status cgrpo_chunk_stats_merge(cgrpo_chunk_stats *total, const cgrpo_chunk_stats *other);

/**
 * How far a step of the policy is from that of another, as one number per sample. m - m' = b (v - v') is the difference
 * of their means; "mean" is over the D elements.
 *
 * KL to a reference: add kl mean(divergence) to the loss, and its gradient to the velocity's.
 * GRPO-Guard (arXiv 2510.22319): ratio_bias is the Gaussian divergence from the old policy, ratio_scale is s; for the
 * 1/d of Flow-GRPO, Pref-GRPO and verl-omni set weights to 1/d, for Flow-Factory to 1. The gradient in the velocity has
 * two parts: that of the log-probability, and that of the bias by grad_ratio_bias.
 * Flow-DPPO: divergence is the Gaussian divergence from the old policy.
 */
typedef int32_t cgrpo_divergence;
enum {
    CGRPO_DIVERGENCE_GAUSSIAN = 1, /* mean (m - m')^2 / (2 s^2): the exact KL divergence (Pref-GRPO; Flow-GRPO on
                                      Wan and with CPS; verl-omni's Flow-DPPO) */
    CGRPO_DIVERGENCE_GAUSSIAN_PER_TIME = 2, /* mean (m - m')^2 d / (2 s^2): d is left out of the variance (Flow-GRPO on
                                               SD3, FLUX, Qwen-Image; verl-omni's KL loss) */
    CGRPO_DIVERGENCE_MEAN = 3,              /* mean (m - m')^2 (Flow-Factory, x-based) */
    CGRPO_DIVERGENCE_VELOCITY = 4           /* mean (v - v')^2 (Flow-Factory, v-based) */
};

/**
 * Divergence from another velocity, of a reference or of the old policy.
 *
 * steps                     null: `step` for all; else (B), each 0 ... T - 1, and `step` must be 0
 * velocity, other_velocity  (B, ...), with any guidance applied
 * divergence                (B) or null
 * grad_divergence           (B) with grad_velocity, or both null: grad_velocity = grad_divergence[i] * d divergence[i]
 *                           / d velocity
 *
 * The Gaussian kinds are an error where s = 0.
 */
cgrpo_status cgrpo_divergence_from_velocity(const cgrpo_sampler *sampler, int64_t step, const int64_t *steps,
                                            cgrpo_divergence kind, const cgrpo_tensor *velocity,
                                            const cgrpo_tensor *other_velocity, double *divergence,
                                            const double *grad_divergence, const cgrpo_tensor *grad_velocity);

/**
 * Divergence from the step that was sampled: its mean is m' = x' - s e, with e made again from the seed (or given), so
 * that neither the old velocity nor the old mean has to be stored. The rounding of x' to f16 or bf16 counts as
 * distance: 2^-9 |x'| per element for bf16. An error for second-order steps, and for the Gaussian kinds where s = 0.
 *
 * steps  as above
 * noise  as it was in cgrpo_step; null where s = 0
 */
cgrpo_status cgrpo_divergence_from_sampled(const cgrpo_sampler *sampler, int64_t step, const int64_t *steps,
                                           cgrpo_divergence kind, const cgrpo_tensor *latents,
                                           const cgrpo_tensor *velocity, const cgrpo_noise *noise,
                                           const cgrpo_tensor *next_latents, double *divergence,
                                           const double *grad_divergence, const cgrpo_tensor *grad_velocity);

/**
 * How far the norm of a velocity exceeds that of a reference, of each sample: NormGuard (arXiv 2606.27771) found that
 * training against a reward inflates it. The paper has no code; here the hinge is of the mean squares, to the power
 * one. Add beta mean(hinges) to the loss, and its gradient to the velocity's.
 *
 * velocity, reference_velocity  (B, ...)
 * ratios                        (B) or null: |v| / |v_ref|, a statistic; above 1 where the velocity is inflated
 * hinges                        (B) or null: max(0, mean v^2 - mean v_ref^2)
 * grad_hinges                   (B) with grad_velocity, or both null: grad_velocity = grad_hinges[i] * d hinges[i] / d
 *                               velocity
 */
cgrpo_status cgrpo_norm_hinge(const cgrpo_tensor *velocity, const cgrpo_tensor *reference_velocity, int32_t threads,
                              double *ratios, double *hinges, const double *grad_hinges,
                              const cgrpo_tensor *grad_velocity);

/** GCPO's weights (K) of chunks: sqrt((T - m)/m), T = S + 1, m the middle step of the chunk. An error where m = 0, in a
 *  first chunk of one step: GCPO divides by zero there. */
cgrpo_status cgrpo_gcpo_weights(const int64_t *sizes, int64_t chunk_count, double *weights);

/** TempFlow-GRPO's weights (K; arXiv 2508.04324): the mean of the noise s over the steps of a chunk, divided by its
 * mean over all S steps. */
cgrpo_status cgrpo_tempflow_weights(const cgrpo_sampler *sampler, const int64_t *sizes, int64_t chunk_count,
                                    double *weights);

typedef int32_t cgrpo_gradient_weighting;
enum {
    CGRPO_GRADIENT_WEIGHTING_FLASH = 1,  /* s/|b|, divided by its mean (Flash-GRPO, arXiv 2605.15980) */
    CGRPO_GRADIENT_WEIGHTING_SAGE = 2,   /* median(|b|/s) / (|b|/s), of two middle ones the lower (SAGE-GRPO) */
    CGRPO_GRADIENT_WEIGHTING_PRECISE = 3 /* 1/|b| (Precise, arXiv 2605.23522, beside GRPO-Guard's ratio) */
};

/** Weights (K) that even out the gradients of the steps, whose d log_prob / d velocity is b e / (D s): the mean over
 * the steps of each chunk. A step without noise has no part in them, and a chunk of such steps has 0. */
cgrpo_status cgrpo_gradient_weights(const cgrpo_sampler *sampler, cgrpo_gradient_weighting kind, const int64_t *sizes,
                                    int64_t chunk_count, double *weights);

/* What has one importance weight. */
typedef int32_t cgrpo_importance_level;
enum {
    CGRPO_IMPORTANCE_LEVEL_STEP = 1, /* each step; a chunk's is the mean of those of its present steps (TRL's and verl's
                                        token level, with chunks of one step) */
    CGRPO_IMPORTANCE_LEVEL_CHUNK = 2, /* each chunk */
    CGRPO_IMPORTANCE_LEVEL_SAMPLE = 3 /* each sample (TRL's and verl's sequence level) */
};

/* What becomes of a weight outside its bounds. */
typedef int32_t cgrpo_importance_mode;
enum {
    CGRPO_IMPORTANCE_MODE_TRUNCATE = 1, /* it is the bound (TRL's token_truncate; verl's truncated weights) */
    CGRPO_IMPORTANCE_MODE_MASK = 2,     /* it is 0 (TRL's token_mask, sequence_mask) */
    CGRPO_IMPORTANCE_MODE_REJECT = 3,   /* it is 0, and those within are 1 (verl's rejection sampling by k1) */
    /* Not the ratio is bounded but a divergence, the sum over the steps of one weight, with `geometric` their mean:
       the weight is 0 where it is above `high`, else 1. d is a step's log ratio (verl's token, seq_sum, seq_mean) */
    CGRPO_IMPORTANCE_MODE_REJECT_K2 = 4, /* k2 = d^2 / 2 */
    CGRPO_IMPORTANCE_MODE_REJECT_K3 = 5  /* k3 = e^d - 1 - d */
};

typedef struct cgrpo_importance_options {
    size_t struct_size;
    cgrpo_importance_level level; /* CGRPO_IMPORTANCE_LEVEL_STEP */
    cgrpo_importance_mode mode;   /* CGRPO_IMPORTANCE_MODE_TRUNCATE */
    double low;                   /* 0; >= 0: the lower bound of a ratio; 0 with REJECT_K2 and REJECT_K3 */
    double high;                  /* 2 (verl; TRL: 3); > 0, at least low: the upper bound. INFINITY for none */
    const uint8_t *mask;          /* null: every step; (B, S), 0 = absent: not read */
    int32_t geometric;            /* 0: the product of the step ratios; 1: their geometric mean (verl's seq_mean) */
    int32_t reserved;             /* 0 */
} cgrpo_importance_options;

void cgrpo_importance_options_init(cgrpo_importance_options *options, size_t struct_size);

/**
 * Weights (B, K) of the policy terms for a rollout that another engine or precision has made: exp of the sum of
 * log_probs - behaviour_log_probs over a step, a chunk or a sample, within bounds. Give them to cgrpo_chunk_loss with
 * weights_per_sample.
 *
 * log_probs            (B, S), of the trainer's policy before its first update: the old ones of the loss
 * behaviour_log_probs  (B, S), of the engine that sampled
 * weights              (B, K); 1 for a chunk without a step
 */
cgrpo_status cgrpo_importance_weights(const double *log_probs, const double *behaviour_log_probs, int64_t batch,
                                      int64_t steps, const int64_t *sizes, int64_t chunk_count,
                                      const cgrpo_importance_options *options, double *weights);

typedef int32_t cgrpo_gain;
enum {
    CGRPO_GAIN_STEP = 1,         /* R_{k+1} - R_k (DenseGRPO, arXiv 2601.20218; Stepwise-Flow-GRPO, arXiv 2603.28718) */
    CGRPO_GAIN_TURNING_POINT = 2 /* the same, but R_S - R_k at a turning point: where the step before went against the
                                    whole R_S - R_0 and this one goes its way, and at step 0 where that goes its way
                                    (TP-GRPO, arXiv 2602.06422) */
};

/** gains (B, S) of rewards (B, S + 1): R_k is the reward of a sample that is completed without noise after k steps, R_0
 *  that of no noise at all. cgrpo_step_advantages takes them. */
cgrpo_status cgrpo_step_gains(const double *rewards, int64_t batch, int64_t steps, cgrpo_gain kind, double *gains);

/** advantages (B, S), for CGRPO_ADVANTAGE_LEVEL_STEP, of a reward or gain for each step, rewards (B, S): each step's
 * are normalised by themselves, as cgrpo_advantages does, with CGRPO_MIXING_GDPO over the batch too. One reward per
 * step, without `present`. A teacher's KL of each step, with its sign turned, is such a reward (Flow-OPD, arXiv
 * 2605.08063). Both may be the same array. */
cgrpo_status cgrpo_step_advantages(const double *rewards, int64_t batch, int64_t steps,
                                   const cgrpo_advantage_options *options, double *advantages);

/**
 * Advantages (B, S), for CGRPO_ADVANTAGE_LEVEL_STEP, of samples that share the first part of their way (BranchGRPO,
 * arXiv 2509.06040; the branches of TempFlow-GRPO). The value of a node is the mean reward of its samples, or is fused
 * from its children. The nodes of one depth and group are normalised against each other, as cgrpo_advantages does. The
 * advantage of a step is that of the node that it leads to.
 *
 * rewards    (B), of the samples, which are the leaves
 * nodes      (B, S): the node that a sample is at after each step. Equal ids of one step are one node, whose samples
 *            have been at one node before, and are of one group
 * log_probs  (B, S) of the steps, or null: a node's value is the mean of its children's, weighted by the exp of the
 *            log_probs of the steps that lead to them (BranchGRPO's use_prob_weighted)
 */
cgrpo_status cgrpo_tree_advantages(const double *rewards, const int64_t *nodes, const double *log_probs, int64_t batch,
                                   int64_t steps, const cgrpo_advantage_options *options, double *advantages);

/** Groups whose rewards (count) are all equal, of which no advantage comes (DAPO, arXiv 2503.14476, samples others in
 *  their place): mask (count) or null, 1 where a sample's group says something; the number of groups, and of those that
 * say nothing, as a group of one does. Of the options, group_size and group_ids count. */
cgrpo_status cgrpo_zero_std_groups(const double *rewards, int64_t count, const cgrpo_advantage_options *options,
                                   uint8_t *mask, int64_t *groups, int64_t *zero_std);

/** rates (count): the share of the others of its group that each of rewards (count) beats, ties counting one half
 *  (Pref-GRPO, arXiv 2508.20751). A group of one gives 0. Of the options, group_size and group_ids count. Both may be
 * the same array. */
cgrpo_status cgrpo_win_rates(const double *rewards, int64_t count, const cgrpo_advantage_options *options,
                             double *rates);

/**
 * Advanced: published recipes. Every convention of one of
 *
 *     gcpo  dancegrpo  flow_grpo  flow_grpo_fast  mixgrpo  mixgrpo_flash  flow_factory  grpo_guard  flow_dppo
 *
 * as the options that this header knows, with the numbers of the source's own scripts; cgrpo_recipe_describe says what
 * it set, which quirks of the source are followed and which refused, and why.
 *
 * Two things depend on the iteration, and are yours to put together: the window's steps (cgrpo_window_steps) into
 * sampler.window, and with flash_ratio < 1 the schedule by cgrpo_schedule_flash up to the window's last step.
 */
typedef struct cgrpo_recipe {
    size_t struct_size;                 /* set it to sizeof before the call */
    int64_t steps;                      /* T */
    cgrpo_schedule_options schedule;    /* of its T steps */
    double flash_ratio;                 /* 1 = none; for cgrpo_schedule_flash */
    cgrpo_sampler_options sampler;      /* of rollouts and log-probabilities */
    int32_t has_window;                 /* 0: every trained step is stochastic */
    int32_t truncated_timesteps;        /* 1: the model sees int(1000 sigma), while the step uses sigma */
    cgrpo_window_options window;        /* where has_window is 1 */
    int64_t group_size;                 /* samples per prompt */
    int32_t share_noise;                /* 1: one initial noise per prompt */
    int32_t reserved;                   /* 0 */
    cgrpo_advantage_options advantages; /* of the rewards */
    int64_t chunk_count;                /* 0: single steps */
    int64_t chunk_sizes[16];            /* steps of each, the first chunk_count of them */
    double chunk_fraction;              /* of the chunks, trained per sample; 1 = all */
    cgrpo_chunk_loss_options loss;      /* surrogate, clip, KL, average */
    double learning_rate;               /* of AdamW, as are the two below */
    double weight_decay;                /* decoupled */
    double max_grad_norm;               /* L2, above which the gradient is scaled down */
} cgrpo_recipe;

cgrpo_status cgrpo_recipe_named(const char *name, cgrpo_recipe *recipe);

/** Writes the description, several lines of ASCII, as far as `capacity` bytes go (always ended by a zero), and its
 * whole length without the zero. `text` may be null with capacity 0. */
cgrpo_status cgrpo_recipe_describe(const char *name, char *text, size_t capacity, size_t *length);

/* ==================================================================================================================
 * 7. Forward process
 *
 * Objectives that need no SDE and no log-probability: the model is asked at noised images instead of at the steps of
 * its rollout. With x0 a finished image and e noise,
 *
 *     x_t = (1 - t) x0 + t e          u = e - x0          distance d = mean |v - u|^2
 *
 * where v is the velocity that the model returns at x_t, and "mean" is over the D elements. d is the loss of flow
 * matching; -d stands for the log-probability of x0. The order of calls, for each draw of times and noise:
 *
 *     cgrpo_forward_noised     x_t for the model, and for the old policy and the reference where the objective has them
 *     cgrpo_forward_distance   distances
 *     an objective's loss      its value, and its gradient in the distances
 *     cgrpo_forward_distance   their gradient in the velocity
 *
 * Draws. `draw` numbers the draws of a training run, 0 ... 2^29 - 1: e is the library's noise of step 2^31 + draw,
 * which no step of a rollout has. The same seed and sample ids may so serve rollout and objective. e is made again in
 * each call and need not be stored. Samples with one id share their noise: those of a group (DGPO), or a pair (DPO).
 * ================================================================================================================ */

/**
 * Noised latents: noised = (1 - t) clean + t e.
 *
 * clean   (B, ...): x0
 * times   (B), in (0, 1]: t
 * noise   like cgrpo_step's; given: like `clean`, and `draw` does not count
 * noised  like `clean`, written. It may be `clean`
 */
cgrpo_status cgrpo_forward_noised(const cgrpo_tensor *clean, const double *times, const cgrpo_noise *noise,
                                  int64_t draw, int32_t threads, const cgrpo_tensor *noised);

/**
 * Other velocities at the same noised latents, and the numbers (B) that they give. A null pointer for extras means none
 * of them.
 *
 * NFT's velocities (DiffusionNFT, arXiv 2509.16117) are v+ = (1 - beta) v_old + beta v, `positive`, and
 * v- = (1 + beta) v_old - beta v, `negative`, for beta = nft_beta.
 */
typedef struct cgrpo_forward_extras {
    size_t struct_size;
    const cgrpo_tensor *old_velocity;       /* null, or v_old like the velocity: of the policy that sampled */
    const cgrpo_tensor *reference_velocity; /* null, or v_ref like the velocity */
    double nft_beta;                        /* 0 = no v+ and v-; else > 0; needs old_velocity */
    /* Written, or null */
    double *absolute;             /* null, or (B): mean |v - u| */
    double *old_distance;         /* null, or (B): mean |v_old - u|^2 */
    double *old_absolute;         /* null, or (B): mean |v_old - u| */
    double *reference_distance;   /* null, or (B): mean |v_ref - u|^2 */
    double *positive_distance;    /* null, or (B): mean |v+ - u|^2 */
    double *positive_absolute;    /* null, or (B): mean |v+ - u| */
    double *negative_distance;    /* null, or (B): mean |v- - u|^2 */
    double *negative_absolute;    /* null, or (B): mean |v- - u| */
    double *old_divergence;       /* null, or (B): mean |v - v_old|^2 */
    double *reference_divergence; /* null, or (B): mean |v - v_ref|^2, the velocity KL */
    /* Read, or null: d loss / d the number of the name. What an absolute mean weights takes no gradient from it */
    const double *grad_positive_distance;    /* null, or (B) */
    const double *grad_negative_distance;    /* null, or (B) */
    const double *grad_old_divergence;       /* null, or (B) */
    const double *grad_reference_divergence; /* null, or (B) */
} cgrpo_forward_extras;

void cgrpo_forward_extras_init(cgrpo_forward_extras *extras, size_t struct_size);

/**
 * Distance of a velocity from u, the numbers of the extras, and the gradient of all of them, in one pass.
 *
 * clean, noise, draw  as they were in cgrpo_forward_noised
 * velocity            (B, ...): v at x_t, with any guidance applied
 * extras              or null
 * distance            (B) or null: mean |v - u|^2
 * grad_distance       (B) or null: d loss / d distance
 * grad_velocity       null, or like the velocity, written: d loss / d velocity, the sum over grad_distance and the
 *                     gradients of the extras, of which there is at least one. v_old and v_ref are constants. Large
 *                     gradients without extras are written as cgrpo_log_prob_vjp's are
 *
 * The arithmetic is f32 (f64 for f64): u is not rounded to the type of the latents.
 */
cgrpo_status cgrpo_forward_distance(const cgrpo_tensor *clean, const cgrpo_tensor *velocity, const cgrpo_noise *noise,
                                    int64_t draw, int32_t threads, const cgrpo_forward_extras *extras, double *distance,
                                    const double *grad_distance, const cgrpo_tensor *grad_velocity);

/*
 * Objectives. Distances are (B, N): B samples at N times each, one draw per time; advantages are (B). A loss is the
 * mean over both. Written arrays are (B, N) or null: d loss / d the number of the name, to be given to
 * cgrpo_forward_distance. Each takes a KL to the reference: loss += kl mean(reference_divergence).
 *
 * AWM (arXiv 2509.25050) and FPO (arXiv 2507.21053) are cgrpo_chunk_loss on cgrpo_matching_log_probs.
 */

/** Means over samples and times. A number that the objective does not have is 0. */
typedef struct cgrpo_forward_stats {
    size_t struct_size;   /* set it to sizeof before the call */
    double policy_loss;   /* the loss without its KL term */
    double kl;            /* mean |v - v_ref|^2, without its weight */
    double weight_mean;   /* 0 ... 1; NFT: of r; DGPO: of sigmoid(s) */
    double clip_fraction; /* 0 ... 1; DGPO: share of distances that are clipped */
    double reward_mean;   /* CRD: of the implicit reward; DPO: of its margin between chosen and rejected */
    double accuracy;      /* 0 ... 1; DPO: share of pairs whose chosen image has the higher implicit reward */
} cgrpo_forward_stats;

typedef int32_t cgrpo_nft_weighting;
enum {
    CGRPO_NFT_WEIGHTING_ADAPTIVE = 1, /* t^2 d / max(t a, floor), a the absolute mean, without gradient: the predicted
                                         images' distance over their own absolute one (NVlabs, Flow-Factory) */
    CGRPO_NFT_WEIGHTING_IMAGE = 2,    /* t^2 d, the distance of the predicted images x_t - t v */
    CGRPO_NFT_WEIGHTING_VELOCITY = 3  /* d */
};

/* NVlabs' adv_mode */
typedef int32_t cgrpo_nft_advantages;
enum {
    CGRPO_NFT_ADVANTAGES_ALL = 1,
    CGRPO_NFT_ADVANTAGES_POSITIVE_ONLY = 2, /* negative ones are 0 */
    CGRPO_NFT_ADVANTAGES_NEGATIVE_ONLY = 3, /* positive ones are 0 */
    CGRPO_NFT_ADVANTAGES_ONE_ONLY = 4,      /* 1 where positive, else 0 */
    CGRPO_NFT_ADVANTAGES_BINARY = 5         /* their sign */
};

typedef struct cgrpo_nft_options {
    size_t struct_size;
    double beta;                        /* 1; > 0: the nft_beta of the distances */
    double advantage_clip;              /* 5; > 0 */
    cgrpo_nft_weighting weighting;      /* CGRPO_NFT_WEIGHTING_ADAPTIVE */
    cgrpo_nft_advantages mode;          /* CGRPO_NFT_ADVANTAGES_ALL */
    double floor;                       /* 1e-5; > 0; of the adaptive weight */
    const double *times;                /* null; (B, N), in (0, 1]: for all weightings but that of velocities */
    const double *positive_absolute;    /* null; (B, N): for the adaptive weighting */
    const double *negative_absolute;    /* null; (B, N): for the adaptive weighting */
    double kl;                          /* 0; >= 0 */
    const double *reference_divergence; /* null; (B, N) */
    double *grad_reference_divergence;  /* null, or (B, N), written */
} cgrpo_nft_options;

void cgrpo_nft_options_init(cgrpo_nft_options *options, size_t struct_size);

/**
 * DiffusionNFT (arXiv 2509.16117; NVlabs/DiffusionNFT scripts/train_nft_sd3.py), with w+ d+ and w- d- by the weighting:
 *
 *     r    = clamp(A / clip / 2 + 1/2, 0, 1)
 *     loss = clip / beta  mean(r w+ d+ + (1 - r) w- d-)
 *
 * positive_distance, negative_distance  (B, N)
 * advantages                            (B)
 */
cgrpo_status cgrpo_nft_loss(const double *positive_distance, const double *negative_distance, const double *advantages,
                            int64_t batch, int64_t count, const cgrpo_nft_options *options, double *loss,
                            double *grad_positive_distance, double *grad_negative_distance, cgrpo_forward_stats *stats);

/* How a distance d at time t stands for a log-probability (AWM's compute_log_prob_awm; uniform: FPO) */
typedef int32_t cgrpo_matching_weighting;
enum {
    CGRPO_MATCHING_WEIGHTING_UNIFORM = 1,          /* -d */
    CGRPO_MATCHING_WEIGHTING_TIME = 2,             /* -t d */
    CGRPO_MATCHING_WEIGHTING_TIME_SQUARED = 3,     /* -t^2 d */
    CGRPO_MATCHING_WEIGHTING_HUBER = 4,            /* -t (sqrt(d + 1e-10) - 1e-5) */
    CGRPO_MATCHING_WEIGHTING_GENERALISED_HUBER = 5 /* -t ((d + 1e-10)^power - 1e-10^power) / power */
};

/**
 * Log-probabilities of the matching loss, for cgrpo_chunk_loss: new ones from the policy's distances, old ones from
 * old_distance. With chunks of one time that is AWM, and FPO; a chunk of several times has one ratio, the exponential
 * of the mean of their differences. The gradient in a distance is grad_log_probs times slope.
 *
 * distances  (count)
 * times      (count), in (0, 1]; may be null for the uniform weighting
 * power      > 0; 0.25 in AWM; of the generalised Huber weighting
 * log_probs  (count), written
 * slopes     (count) or null: d log_prob / d distance
 */
cgrpo_status cgrpo_matching_log_probs(const double *distances, const double *times, int64_t count,
                                      cgrpo_matching_weighting weighting, double power, double *log_probs,
                                      double *slopes);

typedef struct cgrpo_dgpo_options {
    size_t struct_size;
    double beta;                        /* 100; > 0 */
    int64_t group_size;                 /* 0 = all samples are one group; must divide the batch */
    const int64_t *group_ids;           /* null, or (B): any order, unequal sizes; excludes group_size */
    const double *old_distance;         /* null: nothing is clipped; (B, N) */
    double clip_low;                    /* 1e-4; in [0, 1]; for clipping */
    double clip_high;                   /* 1e-4; >= 0 */
    int32_t clip_distance;              /* 1: a clipped distance has no gradient; 0: it has, for clip_kl alone */
    int32_t clip_kl;                    /* 0; 1: nor has the KL of a clipped distance; needs old_distance */
    double kl;                          /* 0; >= 0 */
    const double *reference_divergence; /* null; (B, N) */
    double *grad_reference_divergence;  /* null, or (B, N), written */
} cgrpo_dgpo_options;

void cgrpo_dgpo_options_init(cgrpo_dgpo_options *options, size_t struct_size);

/**
 * DGPO (Luo-Yihong/DGPO scripts/train_sd3_dgpo.py; Flow-Factory dgpo.py). The samples of a group share noise and times.
 *
 *     s    = beta / |G|  sum over the group of A_i (d_i - d_i_ref)     at each time
 *     loss = mean(sigmoid(s) A_i d_i)                                  without gradient through s
 *
 * With old_distance, a distance is clipped where exp(d_old - d) is above 1 + clip_high for A > 0, or below 1 - clip_low
 * for A <= 0.
 *
 * distance, reference_distance  (B, N)
 * advantages                    (B)
 */
cgrpo_status cgrpo_dgpo_loss(const double *distance, const double *reference_distance, const double *advantages,
                             int64_t batch, int64_t count, const cgrpo_dgpo_options *options, double *loss,
                             double *grad_distance, cgrpo_forward_stats *stats);

typedef int32_t cgrpo_crd_regression;
enum {
    CGRPO_CRD_REGRESSION_MEAN_SQUARE = 1,  /* (z - a)^2 */
    CGRPO_CRD_REGRESSION_CROSS_ENTROPY = 2 /* of sigmoid(z) and sigmoid(a) */
};

typedef struct cgrpo_crd_options {
    size_t struct_size;
    double beta;                     /* 1; > 0 */
    double advantage_clip;           /* 5; > 0 */
    cgrpo_crd_regression regression; /* CGRPO_CRD_REGRESSION_MEAN_SQUARE */
    int32_t reserved;                /* 0 */
    double temperature;         /* INFINITY = a centre is a plain mean; > 0: the mean of the losses for two centres,
                                   weighted by softmax(A'/temperature) and softmax(-A'/temperature); 0: by
                                   softmax(A') where A' > 0, and equally (Flow-Factory's weight_temp) */
    const double *absolute;     /* null: no divisors; (B, N), with old_absolute: Flow-Factory's adaptive_logp */
    const double *old_absolute; /* null; (B, N) */
    double floor;               /* 1e-5; > 0; the least divisor */
    double kl;                  /* 0; >= 0 */
    double kl_least;            /* -1 = kl; >= 0: the weight of the KL goes from this at A' = 0 to kl at A' = 1
                                   (Flow-Factory's reward_adaptive_kl: 1e-4) */
    const double *reference_divergence; /* null; (B, N) */
    double *grad_reference_divergence;  /* null, or (B, N), written */
} cgrpo_crd_options;

void cgrpo_crd_options_init(cgrpo_crd_options *options, size_t struct_size);

/**
 * Centred reward distillation (arXiv 2603.14128; Flow-Factory crd.py):
 *
 *     r    = -(d / w - d_old / w_old)                w = max(absolute, floor), without gradient, or 1
 *     A'   = clamp(A / clip / 2 + 1/2, 0, 1)
 *     z    = beta (r - centre of r), a = A' - centre of A'
 *     loss = clip / beta  mean((z - a)^2)
 *
 * A centre is a mean over the batch, for r at each time, and has no gradient. To centre in a group, give one group per
 * call.
 *
 * distance, old_distance  (B, N)
 * advantages              (B)
 */
cgrpo_status cgrpo_crd_loss(const double *distance, const double *old_distance, const double *advantages, int64_t batch,
                            int64_t count, const cgrpo_crd_options *options, double *loss, double *grad_distance,
                            cgrpo_forward_stats *stats);

typedef struct cgrpo_dpo_options {
    size_t struct_size;
    double beta; /* 100; > 0 */
} cgrpo_dpo_options;

void cgrpo_dpo_options_init(cgrpo_dpo_options *options, size_t struct_size);

/**
 * Diffusion-DPO (arXiv 2311.12908; Flow-Factory dpo.py): mean of -ln sigmoid(-beta/2 ((d_w - d_w_ref) - (d_l -
 * d_l_ref))), with chosen images w and rejected ones l that share noise and times.
 *
 * all distances  (P, N): P = pairs, N = count
 */
cgrpo_status cgrpo_dpo_loss(const double *chosen_distance, const double *rejected_distance,
                            const double *chosen_reference_distance, const double *rejected_reference_distance,
                            int64_t pairs, int64_t count, const cgrpo_dpo_options *options, double *loss,
                            double *grad_chosen_distance, double *grad_rejected_distance, cgrpo_forward_stats *stats);

/**
 * Pairs for DPO: the highest and the lowest of each group's scores (count), rewards or advantages; of equal scores the
 * first. A group whose scores are all equal has none. Writes at most `count` sample numbers of each, and their number.
 *
 * group_size  0 = all samples are one group; must divide the count
 * group_ids   null, or (count); excludes group_size. Pairs come in the order of the ids
 */
cgrpo_status cgrpo_preference_pairs(const double *scores, int64_t count, int64_t group_size, const int64_t *group_ids,
                                    int64_t *chosen, int64_t *rejected, int64_t *pair_count);

typedef int32_t cgrpo_time_distribution;
enum {
    CGRPO_TIME_DISTRIBUTION_UNIFORM = 1,
    CGRPO_TIME_DISTRIBUTION_LOGIT_NORMAL = 2, /* sigmoid(mean + std z), z ~ N(0, 1) (SD3, arXiv 2403.03206) */
    CGRPO_TIME_DISTRIBUTION_DISCRETE = 3      /* one of `values` */
};

typedef struct cgrpo_time_options {
    size_t struct_size;
    cgrpo_time_distribution distribution; /* CGRPO_TIME_DISTRIBUTION_UNIFORM */
    int32_t stratified;         /* 1: the N times of a sample are one of each N-th of the distribution, in random
                                   order; 0: drawn apart */
    double shift;               /* 1; > 0: t becomes shift t / (1 + (shift - 1) t). Not for discrete times */
    double mean;                /* 0; of the logit-normal */
    double std;                 /* 1; > 0; of the logit-normal */
    double low;                 /* 0; >= 0: t becomes low + (high - low) t, after the shift. Not for discrete times */
    double high;                /* 1; low < high <= 1 */
    double least;               /* 0; in [0, 1): no time is below it (AWM, Flow-Factory: 0.01) */
    const double *values;       /* null; the times of the discrete distribution, each in (0, 1]: sigmas of a schedule */
    int64_t values_count;       /* 0 */
    uint64_t seed;              /* 0 */
    const uint64_t *sample_ids; /* null: 0 ... B - 1; else B of them. Samples with one id have the same times */
} cgrpo_time_options;

void cgrpo_time_options_init(cgrpo_time_options *options, size_t struct_size);

/** Times (B, N) for the forward process, each in (0, 1]: a function of (seed, sample id, draw), with random numbers
 * that no noise has. batch = B, count = N, 1 ... 1,000,000. */
cgrpo_status cgrpo_times(int64_t batch, int64_t count, int64_t draw, const cgrpo_time_options *options, double *times);

typedef int32_t cgrpo_forward_objective;
enum {
    CGRPO_FORWARD_OBJECTIVE_NFT = 1,
    CGRPO_FORWARD_OBJECTIVE_MATCHING = 2, /* AWM, FPO: cgrpo_chunk_loss on cgrpo_matching_log_probs */
    CGRPO_FORWARD_OBJECTIVE_DGPO = 3,
    CGRPO_FORWARD_OBJECTIVE_CRD = 4,
    CGRPO_FORWARD_OBJECTIVE_DPO = 5
};

/**
 * A published method of the forward process: one of
 *
 *     nft  awm  fpo  dgpo  crd  dpo
 *
 * as the options above, with the numbers of its authors' scripts. Of the objectives' options those of `objective` are
 * the method's, the others are defaults. Your arrays are yours to set: advantages' groups, times, distances.
 */
typedef struct cgrpo_forward_method {
    size_t struct_size;                /* set it to sizeof before the call */
    cgrpo_forward_objective objective; /* which loss; its options stand below */
    int32_t share_noise;      /* 1: the samples of a group, or of a pair, have one id: one noise, one set of times */
    int64_t steps;            /* T of the rollout, by an ODE */
    int64_t group_size;       /* samples per prompt */
    int64_t draws;            /* N: times and noises per sample */
    double learning_rate;     /* of AdamW */
    int64_t first_time_step;  /* discrete times are the sigmas of steps first_time_step ... end_time_step - 1 of the
                                 rollout's schedule: times.values = sigmas + first_time_step */
    int64_t end_time_step;    /* 0: the times are not discrete */
    cgrpo_time_options times; /* of the distribution of times */
    cgrpo_nft_options nft;    /* with OBJECTIVE_NFT */
    cgrpo_dgpo_options dgpo;  /* with OBJECTIVE_DGPO */
    cgrpo_crd_options crd;    /* with OBJECTIVE_CRD */
    cgrpo_dpo_options dpo;    /* of pairs: cgrpo_preference_pairs has the best and the worst of each group */
    int32_t crd_adaptive;     /* 1: the loss takes crd.absolute and crd.old_absolute */
    cgrpo_matching_weighting matching_weighting; /* of MATCHING: of a distance at its time */
    double matching_power;                       /* of MATCHING: the exponent of the generalised Huber weighting */
    int64_t draws_per_chunk;                     /* of the plan of MATCHING: chunks of so many draws, 1 or N */
    double reference_kl; /* of MATCHING: loss += reference_kl mean(reference_divergence), beside the chunk loss */
    cgrpo_chunk_loss_options chunk_loss; /* of MATCHING: surrogate, clip, average */
} cgrpo_forward_method;

cgrpo_status cgrpo_forward_method_named(const char *name, cgrpo_forward_method *method);

/** Writes the description, as cgrpo_recipe_describe does: source, numbers, and what the scripts do beside. */
cgrpo_status cgrpo_forward_method_describe(const char *name, char *text, size_t capacity, size_t *length);

/* ==================================================================================================================
 * 8. Embedded policy and trainer
 *
 * A velocity network of the library's own: a residual MLP with adaptive layer norm over time and condition
 * (DiT's adaLN-Zero, arXiv 2212.09748). It is pretrained by flow matching and post-trained by Chunk-GRPO. A condition
 * is a vector: a one-hot class, several of them side by side, or the embedding of a text encoder. All tensors here are
 * f32 and contiguous. A sample has one reward and one advantage, against its group: CGRPO_ADVANTAGE_LEVEL_SAMPLE.
 * Advantages of chunks or steps are for loops of your own, with cgrpo_chunk_loss.
 * ================================================================================================================ */

typedef struct cgrpo_trainer_options {
    size_t struct_size;
    /* network */
    int64_t latent_size;    /* 0 = unset, an error: D, 1 ... 1,048,576 */
    int64_t condition_size; /* 0 = unset, an error: C, 1 ... 65,536 */
    int64_t width;          /* 256; hidden size; 1 ... 16,384 */
    int64_t blocks;         /* 3; 1 ... 256 */
    int64_t embedding_size; /* 128; of time and condition; even, 2 ... 16,384 */
    /* sampling */
    int64_t steps;           /* 17 = T; 2 ... 10,000 */
    double shift;            /* 3 */
    cgrpo_dynamics dynamics; /* CGRPO_DYNAMICS_FLOW_SDE */
    int32_t share_noise;     /* 1: one initial noise per group; 0: one per sample */
    double eta;              /* 0.7 */
    /* objective */
    const int64_t *chunk_sizes; /* null: 2, 3, 4, 7 where S = 16, else chunks of 4; copied */
    int64_t chunk_count;        /* 0 with null sizes */
    int64_t group_size;         /* 12; >= 2; samples per prompt */
    double chunk_fraction;      /* 0.5; of the chunks of each sample that are trained */
    int32_t weighted_selection; /* 0; 1: drawn by relative L1 */
    int32_t threads;            /* 0; one per core. The results are the same for any number. */
    double advantage_clamp;     /* 5 */
    double clip_low;            /* 1e-3; for small images. cgrpo_chunk_loss has GCPO's, for latents of FLUX */
    double clip_high;           /* 1e-3 */
    double kl;                  /* 0 */
    /* optimiser: AdamW */
    int64_t updates_per_rollout; /* 2 optimiser steps: the prompts of a rollout are dealt out to them; >= 1 */
    double learning_rate;        /* 3e-4 */
    double beta1;                /* 0.9 */
    double beta2;                /* 0.999 */
    double adam_epsilon;         /* 1e-8 */
    double weight_decay;         /* 1e-4, decoupled */
    double max_grad_norm;        /* 1; INFINITY for none */
    double ema_decay;            /* 0.9 per optimiser step of Chunk-GRPO; [0, 1) */
    uint64_t seed;               /* 0: of the parameters and of every draw */
    /* against collapse; `kl` above is to the policy that drew the samples */
    double reference_kl; /* 0; >= 0; weight of the mean divergence of the trained steps from the frozen reference: the
                            network as pretraining left it, or a fresh one. On 8 x 8 digits 0.2 with GAUSSIAN is
                            about as strong as 0.005 with VELOCITY */
    cgrpo_divergence reference_divergence; /* CGRPO_DIVERGENCE_VELOCITY */
    int32_t reserved;                      /* 0 */
    /* of the objective, too */
    const double *chunk_weights; /* null: 1; one for each chunk, finite, >= 0: weights of the policy terms, as those of
                                    cgrpo_chunk_loss_options; copied */
    int64_t chunk_weights_count; /* 0 with null weights */
    /* against collapse, too */
    double reference_last_step; /* 0; >= 0; weight of the mean over the samples of mean (v - v_ref)^2 at the last step.
                                   It takes no noise, so no chunk trains it and reference_kl does not see it; but it
                                   shares the network, and drifts. One step more per sample is run, forward and back */
} cgrpo_trainer_options;

void cgrpo_trainer_options_init(cgrpo_trainer_options *options, size_t struct_size);

typedef struct cgrpo_trainer cgrpo_trainer;

cgrpo_status cgrpo_trainer_create(const cgrpo_trainer_options *options, cgrpo_trainer **trainer);
void cgrpo_trainer_destroy(cgrpo_trainer *trainer); /* null is fine */

/**
 * Each of these may be null.
 *
 * options          what the trainer was made with: set its struct_size before the call. chunk_sizes and chunk_weights
 *                  are the trainer's own memory, valid until it is destroyed
 * parameter_count  numbers that the network learns
 * iterations       Chunk-GRPO iterations done so far
 */
cgrpo_status cgrpo_trainer_info(const cgrpo_trainer *trainer, cgrpo_trainer_options *options, int64_t *parameter_count,
                                int64_t *iterations);

/** Called about 200 times while the library works. Return 0, or anything else to stop. */
typedef int (*cgrpo_progress_fn)(void *user, int64_t done, int64_t total, double loss);

typedef struct cgrpo_pretrain_options {
    size_t struct_size;
    int64_t steps;        /* 2000 optimiser steps */
    int64_t batch_size;   /* 256 */
    double learning_rate; /* 2e-3, cosine decay to a tenth */
    double ema_decay;     /* 0.99 */
} cgrpo_pretrain_options;

void cgrpo_pretrain_options_init(cgrpo_pretrain_options *options, size_t struct_size);

/**
 * Flow matching on (image, condition) pairs: the mean of |v(x_sigma, sigma, c) - (e - x0)|^2 with sigma uniform in (0,
 * 1] under the trainer's shift. Images (N, D), conditions (N, C). Afterwards the network has the averaged parameters
 * and a fresh optimiser. If `progress` (or null) stops it, or a number overflows, the trainer is as it was before the
 * call.
 */
cgrpo_status cgrpo_trainer_pretrain(cgrpo_trainer *trainer, const cgrpo_tensor *images, const cgrpo_tensor *conditions,
                                    const cgrpo_pretrain_options *options, cgrpo_progress_fn progress, void *user);

/**
 * The reward: write one finite number for each of the B images. images (B, D); prompt[i] is the row of `conditions`, as
 * given to cgrpo_trainer_iterate, that image i was made for. Return 0, or anything else to stop.
 */
typedef int (*cgrpo_reward_fn)(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards);

/** The library sets stats.struct_size by itself. */
typedef struct cgrpo_iteration_report {
    size_t struct_size;          /* set it to sizeof before the call */
    int64_t iteration;           /* counted from 1 */
    double reward_mean;          /* of the rewards of the rollouts, in their own unit */
    double reward_std;           /* their population standard deviation */
    double loss;                 /* mean over the optimiser steps, as are those below */
    double grad_norm;            /* L2 norm of the gradient, before it is clipped */
    cgrpo_chunk_stats stats;     /* of the last optimiser step */
    double rollout_seconds;      /* wall time of the rollouts */
    double reward_seconds;       /* in the reward callback */
    double update_seconds;       /* of the optimiser steps */
    double reference_divergence; /* mean over the trained steps and the optimiser steps; 0 where reference_kl is 0 */
    double last_step_divergence; /* mean (v - v_ref)^2 at the last step, over the samples and the optimiser steps; 0
                                    where reference_last_step is 0 */
} cgrpo_iteration_report;

/**
 * One Chunk-GRPO iteration: group_size samples for each row of conditions (P, C), rewards, advantages, optimiser steps.
 * If the reward fails or is not finite, or a number of the training or the report overflows, the trainer is as it was
 * before the call. report may be null.
 */
cgrpo_status cgrpo_trainer_iterate(cgrpo_trainer *trainer, const cgrpo_tensor *conditions, cgrpo_reward_fn reward,
                                   void *user, cgrpo_iteration_report *report);

/**
 * Sums over the ranks of a data-parallel run: MPI's MPI_Allreduce, NCCL's ncclAllReduce. `values` has `count` numbers,
 * at most 2^24, of `type` CGRPO_TYPE_F32 or CGRPO_TYPE_F64. Replace each by its sum over all ranks: on each rank the
 * same bits. The ranks' calls come in the same order, on the thread that called the library.
 *
 * Return 0; or anything else where a rank is gone or does not come, which must not take for ever: see
 * cgrpo_trainer_set_replica.
 */
typedef int (*cgrpo_all_reduce_fn)(void *user, void *values, cgrpo_type type, int64_t count);

/**
 * Data-parallel training: the trainer becomes one of `ranks` (1 ... 65,536), in as many processes or threads, that
 * train one policy. Afterwards cgrpo_trainer_iterate and cgrpo_trainer_pretrain are called on all of them, and end with
 * the same parameters and report on each: those of one trainer that has all prompts, up to the order of sums.
 *
 * - All ranks call this, with trainers of the same options (`threads` apart) and seed, or of one checkpoint.
 *   CGRPO_INVALID_ARGUMENT on all ranks where they differ, or where all_reduce does not sum over `ranks`. The trainer
 * has then the replica that it had.
 * - iterate takes the prompts of this rank, at least one: of all P, number n is prompt n / ranks of rank n mod ranks. A
 * rank that has no more is passed over, so that ranks may have other numbers of prompts. Noise and chunks are those
 * that one trainer with all P draws. Rewards, statistics and the gradient are those of all ranks.
 * - pretrain takes the same pairs and options on all ranks, and deals out the rows of each batch.
 * - Where a call fails on one rank, it fails on all, and all trainers are as they were. The others return its status,
 * with the message "rank 2 failed: ..." and its sentence. A rank whose all_reduce failed is CGRPO_CALLBACK_FAILED; it
 * cannot tell the others, so theirs must fail too: MPI with MPI_ERRORS_RETURN does where it finds a rank dead, and a
 * time limit where it does not. Then the ranks may be at different places: calls are refused until the replica is set
 * again.
 * - A checkpoint does not depend on the rank, and serves any number of ranks: one of them saves, each loads, then all
 * set the replica. Copies and checkpoints have none.
 *
 * `ranks` 1 with a null all_reduce: the trainer is alone again. all_reduce and `user` are kept until then, or until the
 * trainer is destroyed. An iteration makes 4 + 3 updates_per_rollout sums, of which updates_per_rollout have the
 * gradient, all parameters in f32, and one the rewards in f64; the others have 16 numbers per rank.
 */
cgrpo_status cgrpo_trainer_set_replica(cgrpo_trainer *trainer, int64_t rank, int64_t ranks,
                                       cgrpo_all_reduce_fn all_reduce, void *user);

/** The trained parameters of the network, or their exponential moving average. */
typedef int32_t cgrpo_parameters;
enum { CGRPO_PARAMETERS_TRAINED = 1, CGRPO_PARAMETERS_AVERAGED = 2 };

/** Images (B, D) for conditions (B, C), by the trainer's schedule; `eta` 0 is the ODE. Sample i has the noise of id i.
 */
cgrpo_status cgrpo_trainer_sample(const cgrpo_trainer *trainer, const cgrpo_tensor *conditions,
                                  cgrpo_parameters parameters, double eta, uint64_t seed, const cgrpo_tensor *images);

/** The network alone, for a rollout of your own: velocity (B, D) at latents (B, D), sigma, conditions (B, C). One that
 * overflows is CGRPO_NON_FINITE; the message names its row. */
cgrpo_status cgrpo_trainer_velocity(const cgrpo_trainer *trainer, cgrpo_parameters parameters,
                                    const cgrpo_tensor *latents, double sigma, const cgrpo_tensor *conditions,
                                    const cgrpo_tensor *velocity);

/**
 * Checkpoint: a directory (made if missing; "" is none) with one file, model.safetensors: parameters, their average,
 * the optimiser's moments, the reference's parameters where reference_kl or reference_last_step is positive, and
 * options and counters in its metadata, with a checksum of them all. The path is bytes.
 *
 * The file is written aside, flushed and renamed: whenever the machine stops, the directory holds a whole checkpoint.
 * Several threads and processes may save to one directory and load from it at once: it holds what the last save wrote.
 * A process that ends within a save leaves model.safetensors.PID-N, which may be removed. A file beyond RLIMIT_FSIZE is
 * CGRPO_IO_ERROR, without SIGXFSZ.
 *
 * A run that goes on from a checkpoint is equal, bit for bit, to one that was never interrupted (same machine). A file
 * that differs from what was written, or whose numbers no training gives, is CGRPO_IO_ERROR.
 */
cgrpo_status cgrpo_trainer_save(const cgrpo_trainer *trainer, const char *directory);
cgrpo_status cgrpo_trainer_load(const char *directory, cgrpo_trainer **trainer);

#ifdef __cplusplus
}
#endif

#endif /* CHUNKGRPO_H */
