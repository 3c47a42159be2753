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
 *   6. Objective     advantages, chunk loss, gradient
 *   7. Embedded policy and trainer: a small velocity network that the library trains by itself
 *
 * A first program is examples/c/first.c; a whole training run is examples/c/digits.c.
 *
 * Notation. B samples, T sampling steps, S = T - 1 trained steps (the last one is left out), D elements a sample,
 * K chunks. sigma falls from 1 (noise) to 0 (image), x = (1 - sigma) x0 + sigma e, velocity v = e - x0.
 *
 * C99 and C++. Every array is row-major; "(B, S)" names its shape.
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
 * - A function that can fail returns a cgrpo_status. No function prints, exits, traps or keeps state outside its handle.
 * - A call that returns an error changes no handle and no `position`. Arguments are checked before anything is written;
 *   when an error is only found on the way (a NaN in the latents, a callback that fails), the contents of the output
 *   buffers are unspecified and are to be thrown away.
 * - Pointers are borrowed for the length of the call, unless said otherwise. The library frees only its own handles.
 * - Handles of type `const` may be used from several threads at once. Other handles: one thread at a time.
 * ================================================================================================================ */

/** Version of the binary interface that this header describes. */
#define CGRPO_ABI_VERSION 1

/** The binary interface of the loaded library; it equals CGRPO_ABI_VERSION when header and library fit. */
uint32_t cgrpo_abi_version(void);

/** Semantic version of the loaded library, such as "0.1.0". Static storage. */
const char *cgrpo_version(void);

typedef int32_t cgrpo_status;
enum {
    CGRPO_OK = 0,
    CGRPO_INVALID_ARGUMENT = 1, /* null, out of bounds, wrong shape, contradictory */
    CGRPO_WRONG_TYPE = 2,       /* an element type or a device that the call does not take, or a mix of types */
    CGRPO_NON_FINITE = 3,       /* NaN or infinity in latents, velocity, reward, log-probability or ratio */
    CGRPO_OUT_OF_MEMORY = 4,
    CGRPO_CALLBACK_FAILED = 5,  /* a callback returned non-zero */
    CGRPO_IO_ERROR = 6          /* a file could not be read or written, or is not what it should be */
};

/** Why the latest failing call of this thread failed, in one sentence; "" before any. Valid until the next failing call
 *  of this thread. A call that succeeds does not clear it. */
const char *cgrpo_last_error(void);

/** Name of a status, such as "CGRPO_NON_FINITE"; "unknown status" for other numbers. Static storage. */
const char *cgrpo_status_name(cgrpo_status status);

/*
 * Options are structs that begin with their own size, so that fields can be appended in later versions:
 *
 *     cgrpo_sampler_options options;
 *     cgrpo_sampler_options_init(&options, sizeof options);     // sets struct_size and every default
 *     options.eta = 0.3;
 *
 * A null pointer for options means: all defaults. A newer struct with a field that this library does not know is
 * refused, unless that field is zero.
 */

typedef int32_t cgrpo_type;
enum { CGRPO_F32 = 1, CGRPO_F64 = 2, CGRPO_BF16 = 3, CGRPO_F16 = 4 };

typedef int32_t cgrpo_device;
enum { CGRPO_CPU = 0 };

/**
 * A borrowed array. Storage is f32, f64, bf16 or f16; arithmetic is f64 for f64 and f32 for the others. All latents,
 * velocities and noise of one call have one type.
 *
 * shape    `ndim` sizes, each >= 1. Latents are (B, ...): D is the product of the sizes after the first.
 * strides  distances in elements, or null for a contiguous array. The sizes after the batch (and, for trajectories, the
 *          step) must be contiguous; the strides of batch and step are free.
 */
typedef struct cgrpo_tensor {
    void *data;
    const int64_t *shape;
    const int64_t *strides;
    int32_t ndim;
    cgrpo_type type;
    cgrpo_device device;
    int32_t reserved; /* 0 */
} cgrpo_tensor;

/* ==================================================================================================================
 * 2. Schedules
 *
 * A schedule is T + 1 sigmas in double, strictly falling, from at most 1 to at least 0. Bring your own or fill one:
 * ================================================================================================================ */

/** t_k = 1 - k/T. Writes steps + 1 sigmas. steps: 1 ... 1,000,000. */
cgrpo_status cgrpo_schedule_linear(int64_t steps, double *sigmas);

/** Static shift, sigma = shift t / (1 + (shift - 1) t) with t linear (SD3; GCPO uses shift 3). shift > 0. */
cgrpo_status cgrpo_schedule_shifted(int64_t steps, double shift, double *sigmas);

/**
 * Any schedule of diffusers' FlowMatchEulerDiscreteScheduler (0.42), in its order: T base points, shift, terminal stretch,
 * spacing, a final 0.
 */
typedef int32_t cgrpo_schedule_base;
enum {
    CGRPO_BASE_LINEAR = 1,   /* t_k = 1 - k/T (GCPO, DanceGRPO, the FLUX pipeline's linspace(1, 1/n, n)) */
    CGRPO_BASE_DIFFUSERS = 2 /* what set_timesteps(n) takes when it is given no sigmas: n points from 1 to the smallest
                                training sigma, 1/1000, already shifted. A static shift is then applied twice (diffusers
                                issue 13243), as in Flow-GRPO on SD3. */
};

typedef int32_t cgrpo_schedule_shift;
enum {
    CGRPO_SHIFT_STATIC = 1,      /* shift t / (shift t + 1 - t)  (SD3, arXiv 2403.03206) */
    CGRPO_SHIFT_EXPONENTIAL = 2, /* e^mu / (e^mu + 1/t - 1)  (FLUX; mu by cgrpo_flux_mu) */
    CGRPO_SHIFT_LINEAR = 3       /* mu / (mu + 1/t - 1)  (diffusers' time_shift_type="linear") */
};

typedef int32_t cgrpo_schedule_spacing;
enum {
    CGRPO_SPACING_SHIFTED = 1,     /* where the shift put them */
    CGRPO_SPACING_KARRAS = 2,      /* evenly in sigma^(1/7) (arXiv 2206.00364) */
    CGRPO_SPACING_EXPONENTIAL = 3, /* evenly in ln sigma */
    CGRPO_SPACING_BETA = 4         /* quantiles of Beta(0.6, 0.6) (arXiv 2407.12173) */
};

typedef struct cgrpo_schedule_options {
    size_t struct_size;
    cgrpo_schedule_base base;       /* CGRPO_BASE_LINEAR */
    cgrpo_schedule_shift shift_kind;/* CGRPO_SHIFT_STATIC */
    double shift;                   /* 1; > 0; for CGRPO_SHIFT_STATIC */
    double mu;                      /* 0; for the others: -30 ... 30 (exponential), > 0 (linear) */
    double terminal;                /* 0 = none; else in (0, 1): the last sigma before the final 0 is stretched to it */
    cgrpo_schedule_spacing spacing; /* CGRPO_SPACING_SHIFTED */
    int32_t reserved;               /* 0 */
} cgrpo_schedule_options;

void cgrpo_schedule_options_init(cgrpo_schedule_options *options, size_t struct_size);

/** Writes steps + 1 sigmas. steps: 1 ... 1,000,000; at least 2 where points are spread between two ends. */
cgrpo_status cgrpo_schedule_make(int64_t steps, const cgrpo_schedule_options *options, double *sigmas);

/** FLUX's mu for an image of width x height = `pixels`: linear in the sequence length pixels/16^2, from base_shift (0.5) at 256
 *  tokens to max_shift (1.15) at 4,096. */
cgrpo_status cgrpo_flux_mu(double pixels, double base_shift, double max_shift, double *mu);

/* ==================================================================================================================
 * 3. Sampler
 *
 * Every sampler is x' = a x + b v + s e with e ~ N(0, I); it only decides a, b and s for a step from sigma to sigma'
 * (d = sigma - sigma'). Mean m = a x + b v. Log-probability, averaged over the D elements as all public code has it:
 *
 *     log_prob = -|x' - m|^2 / (2 D s^2) - ln s - ln(2 pi)/2          d log_prob / dv = b (x' - m) / (D s^2)
 *
 * It is always taken from the x' that is stored (rounded to its type), so that on the policy that sampled, the
 * importance ratio is exactly 1.
 * ================================================================================================================ */

typedef int32_t cgrpo_dynamics;
enum {
    CGRPO_FLOW_SDE = 1,  /* g = eta sqrt(sigma/(1 - sigma*)), sigma* = sigma_1 where sigma = 1, else sigma;
                            a = 1 - g^2 d/(2 sigma), b = -d (1 + g^2 (1 - sigma)/(2 sigma)), s = g sqrt(d)
                            (Flow-GRPO, arXiv 2505.05470; GCPO flow_grpo_step) */
    CGRPO_DANCE_SDE = 2, /* the same with g = eta (DanceGRPO, arXiv 2505.07818; GCPO flux_step) */
    CGRPO_CPS = 3,       /* s = sigma' sin(pi eta/2), q = sqrt(sigma'^2 - s^2), a = (1 - sigma') + q,
                            b = -sigma (1 - sigma') + (1 - sigma) q (FlowCPS, arXiv 2509.05952) */
    CGRPO_ODE = 4        /* Euler: a = 1, b = -d, s = 0 */
};

typedef int32_t cgrpo_log_prob_form;
enum {
    CGRPO_LOG_PROB_GAUSSIAN = 1,     /* the formula above */
    CGRPO_LOG_PROB_SQUARED_ERROR = 2 /* -mean (x' - m)^2: what Flow-GRPO and Flow-Factory use with CPS */
};

typedef int32_t cgrpo_last_step;
enum {
    CGRPO_LAST_STEP_AS_OTHERS = 1, /* the last step is like the others (Flow-GRPO) */
    CGRPO_LAST_STEP_ODE = 2        /* the last step takes no noise: with a final sigma of 0 it returns the predicted
                                      image x0 = x - sigma v (GCPO, DanceGRPO) */
};

typedef struct cgrpo_sampler_options {
    size_t struct_size;
    cgrpo_dynamics dynamics;           /* CGRPO_FLOW_SDE */
    cgrpo_log_prob_form log_prob_form; /* CGRPO_LOG_PROB_GAUSSIAN */
    double eta;                        /* 0.7; >= 0; for CPS at most 1 */
    cgrpo_last_step last_step;         /* CGRPO_LAST_STEP_AS_OTHERS */
    int32_t threads;                   /* 1; 0 ... 256, 0 = one a core. The results are the same for any number. */
} cgrpo_sampler_options;

void cgrpo_sampler_options_init(cgrpo_sampler_options *options, size_t struct_size);

/** An immutable sampler over one schedule. */
typedef struct cgrpo_sampler cgrpo_sampler;

/** Copies the sigmas (sigma_count = T + 1 of them). Refuses sigmas that do not strictly fall within [0, 1]. */
cgrpo_status cgrpo_sampler_create(const double *sigmas, int64_t sigma_count, const cgrpo_sampler_options *options,
                                  cgrpo_sampler **sampler);
void cgrpo_sampler_destroy(cgrpo_sampler *sampler); /* null is fine */

/** a, b, s of one step, step 0 ... T - 1. */
cgrpo_status cgrpo_sampler_coefficients(const cgrpo_sampler *sampler, int64_t step, double *a, double *b, double *s);

/**
 * Where a step takes its noise from: the caller, or the library.
 *
 * The library's noise is Philox4x32-10 with a Box-Muller transform in f32, a function of (seed, sample id, step, element)
 * alone: the same for any batch split, thread count or machine, so it can be made again instead of stored. Give each
 * sample of a training run its own id.
 */
typedef struct cgrpo_noise {
    size_t struct_size;
    const cgrpo_tensor *given;  /* null: the library's. cgrpo_step: like the latents. cgrpo_rollout: (B, T, ...) */
    uint64_t seed;              /* 0 */
    const uint64_t *sample_ids; /* B of them; null: 0 ... B - 1 */
} cgrpo_noise;

void cgrpo_noise_init(cgrpo_noise *noise, size_t struct_size);

/** Step number that stands for the initial noise in cgrpo_normal. */
#define CGRPO_INITIAL_NOISE (-1)

/**
 * Fills `out` (B, ...) with the library's normals for `step` (0 ... 2^31 - 1, or CGRPO_INITIAL_NOISE).
 * For one initial noise a group, give all samples of the group the same id.
 */
cgrpo_status cgrpo_normal(uint64_t seed, const uint64_t *sample_ids, int64_t step, int32_t threads,
                          const cgrpo_tensor *out);

/**
 * One step: next_latents = a x + b v + s e. `next_latents` may be `latents`.
 *
 * noise        may be null where s = 0
 * log_prob     (B) or null; 0 where s = 0, so that a deterministic step drops out of every ratio
 * relative_l1  (B) or null: mean|x' - x| / (mean|x| + 1e-8)
 */
cgrpo_status cgrpo_step(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                        const cgrpo_tensor *velocity, const cgrpo_noise *noise, const cgrpo_tensor *next_latents,
                        double *log_prob, double *relative_l1);

/** Log-probability (B) of a given next_latents. An error where s = 0: a deterministic step has no density. */
cgrpo_status cgrpo_log_prob(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                            const cgrpo_tensor *velocity, const cgrpo_tensor *next_latents, double *log_prob);

/** Vector-Jacobian product: grad_velocity = grad_log_prob[i] * d log_prob[i] / d velocity[i]. `log_prob` (B) or null
 *  is written in the same pass. grad_log_prob: (B). */
cgrpo_status cgrpo_log_prob_vjp(const cgrpo_sampler *sampler, int64_t step, const cgrpo_tensor *latents,
                                const cgrpo_tensor *velocity, const cgrpo_tensor *next_latents,
                                const double *grad_log_prob, const cgrpo_tensor *grad_velocity, double *log_prob);

/* ==================================================================================================================
 * 4. Rollouts
 * ================================================================================================================ */

/**
 * The model: write the velocity at `latents` into `velocity`. Both are (B, ...) in the trajectory's type, have `strides`,
 * and are valid during the call only. Return 0, or anything else to stop the rollout.
 */
typedef int (*cgrpo_velocity_fn)(void *user, int64_t step, double sigma, const cgrpo_tensor *latents,
                                 const cgrpo_tensor *velocity);

/**
 * Buffers of the caller's that a rollout fills, and how far it is.
 *
 * `position` is the step that latents[:, position] take next. A rollout can stop after any step and go on later, from
 * here or from another host that has latents[:, position], the seed and the sample ids.
 */
typedef struct cgrpo_trajectory {
    size_t struct_size;
    cgrpo_tensor latents; /* (B, T + 1, ...); latents[:, position] are read, the later ones written */
    double *log_probs;    /* (B, S) or null */
    double *relative_l1;  /* (B, S) or null */
    int64_t position;     /* 0 ... T */
} cgrpo_trajectory;

void cgrpo_trajectory_init(cgrpo_trajectory *trajectory, size_t struct_size);

/**
 * Takes the steps position ... end - 1 (position < end <= T) and moves `position` to `end`. After an error `position`
 * is as before and what lies beyond it is to be thrown away; the same call can be made again.
 */
cgrpo_status cgrpo_rollout(const cgrpo_sampler *sampler, cgrpo_trajectory *trajectory, int64_t end,
                           const cgrpo_noise *noise, cgrpo_velocity_fn velocity, void *user);

/** log_probs (B, n) of the steps first_step ... first_step + n - 1 from latents (B, n + 1, ...) and velocities
 *  (B, n, ...). More than n + 1 latents a sample are allowed; the first n + 1 count. */
cgrpo_status cgrpo_trajectory_log_probs(const cgrpo_sampler *sampler, int64_t first_step, const cgrpo_tensor *latents,
                                        const cgrpo_tensor *velocities, double *log_probs);

/** Vector-Jacobian product of the above: grad_log_probs (B, n) to grad_velocities (B, n, ...). Steps whose gradient is
 *  zero (not selected, clipped) are not computed but filled with zeros. */
cgrpo_status cgrpo_trajectory_log_probs_vjp(const cgrpo_sampler *sampler, int64_t first_step,
                                            const cgrpo_tensor *latents, const cgrpo_tensor *velocities,
                                            const double *grad_log_probs, const cgrpo_tensor *grad_velocities);

/** relative_l1 (B, n) of latents (B, n + 1, ...): d_t = mean|x_{t+1} - x_t| / (mean|x_t| + 1e-8). */
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
    int64_t min_size; /* 2. A shorter run joins its shorter neighbour. At most (max_size + 1)/2, so that halves keep it */
} cgrpo_adaptive_options;

void cgrpo_adaptive_options_init(cgrpo_adaptive_options *options, size_t struct_size);

/** Boundaries from the temporal dynamics (arXiv 2510.21583): consecutive steps whose relative L1, averaged over the
 *  batch, moves in the same direction form a run. relative_l1 is (B, S). */
cgrpo_status cgrpo_plan_adaptive(const double *relative_l1, int64_t batch, int64_t steps,
                                 const cgrpo_adaptive_options *options, int64_t *sizes, int64_t capacity,
                                 int64_t *chunk_count);

typedef struct cgrpo_optimal_options {
    size_t struct_size;
    int64_t chunk_count; /* 0: the smallest number of chunks that explains `explained`; else K */
    double explained;    /* 0.9; in (0, 1): share of the variance of the logarithm of the curve */
    int64_t min_size;    /* 1 */
    int64_t max_size;    /* 0 = no bound */
} cgrpo_optimal_options;

void cgrpo_optimal_options_init(cgrpo_optimal_options *options, size_t struct_size);

/**
 * The segmentation of the relative-L1 curve (averaged over the batch, in logarithms) whose chunks differ least from their own
 * means, in least squares (Fisher 1958; dynamic programming, at most 2,000 steps). Small noise does not move it as it
 * moves turning points.
 *
 * curve      (S) or null: the averaged curve
 * explained  or null: the share of variance that the plan explains, 1 for a flat curve
 */
cgrpo_status cgrpo_plan_optimal(const double *relative_l1, int64_t batch, int64_t steps,
                                const cgrpo_optimal_options *options, int64_t *sizes, int64_t capacity,
                                int64_t *chunk_count, double *curve, double *explained);

/** A plan for the schedule `from` on the schedule `to`: each boundary at the step whose sigma is nearest to its own. A chunk
 *  keeps at least one step. Writes chunk_count sizes into `carried`; the counts are of sigmas, T + 1. */
cgrpo_status cgrpo_plan_carry(const int64_t *sizes, int64_t chunk_count, const double *from, int64_t from_count,
                              const double *to, int64_t to_count, int64_t *carried);

/** weights (B, K): mean of relative_l1 (B, S) over each chunk, plus 1e-8 (GCPO). */
cgrpo_status cgrpo_chunk_weights(const double *relative_l1, int64_t batch, int64_t steps, const int64_t *sizes,
                                 int64_t chunk_count, double *weights);

typedef int32_t cgrpo_weighting;
enum {
    CGRPO_WEIGHTS_NORMALISED = 1, /* p = w / sum w */
    CGRPO_WEIGHTS_SOFTMAX = 2     /* p = exp w / sum exp w */
};

typedef struct cgrpo_select_options {
    size_t struct_size;
    double fraction;            /* 1; in (0, 1]. floor(K fraction) chunks of each sample; none is an error */
    const double *weights;      /* null: uniform; (B, K), finite, >= 0 (softmax: any): drawn without replacement */
    cgrpo_weighting weighting;  /* CGRPO_WEIGHTS_NORMALISED */
    int32_t reserved;           /* 0 */
    const int64_t *fixed;       /* null, or the chunks to train in every sample; excludes fraction < 1 and weights */
    int64_t fixed_count;        /* 0 */
    uint64_t seed;              /* 0 */
    const uint64_t *sample_ids; /* as in cgrpo_noise */
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
    CGRPO_MIXING_GDPO = 3            /* and the sum is normalised over the batch (GDPO; Flow-Factory, TRL) */
};

typedef struct cgrpo_advantage_options {
    size_t struct_size;
    int64_t group_size;           /* 0 = all samples are one group; samples of a group are neighbours; must divide the count */
    double clamp;                 /* 5; > 0, INFINITY for none; the last thing done */
    double epsilon;               /* 1e-8; >= 0; added to the standard deviation */
    double floor;                 /* 0; >= 0; the standard deviation is at least this (Flow-Factory: 1e-6, epsilon 0) */
    const int64_t *group_ids;     /* null, or one id a sample: any order, unequal sizes; excludes group_size */
    cgrpo_baseline baseline;      /* CGRPO_BASELINE_GROUP */
    cgrpo_scale scale;            /* CGRPO_SCALE_GROUP */
    cgrpo_deviation deviation;    /* CGRPO_DEVIATION_UNBIASED */
    int32_t subtract_median;      /* 0; 1: the median of a group's advantages is subtracted (GCPO's half-half) */
    double trim;                  /* 0; in [0, 1): share of a group's lowest rewards that mean and deviation leave out
                                     (MixGRPO) */
    int64_t reward_count;         /* 1 = R, rewards a sample */
    const double *reward_weights; /* null: 1 each; R of them */
    cgrpo_mixing mixing;          /* CGRPO_MIXING_SUM */
    int32_t reserved;             /* 0 */
} cgrpo_advantage_options;

void cgrpo_advantage_options_init(cgrpo_advantage_options *options, size_t struct_size);

/** Advantages (count) of rewards (count, R). By default (r - mean_g) / (std_g + epsilon) with the unbiased standard
 *  deviation, then clamped (GCPO, DanceGRPO, MixGRPO). A group of one, or whose rewards are all equal, gives zeros. With
 *  one reward a sample, rewards and advantages may be the same array. */
cgrpo_status cgrpo_advantages(const double *rewards, int64_t count, const cgrpo_advantage_options *options,
                              double *advantages);

/** Which `keep` of n scores to train on: 1 for the (keep + 1)/2 highest and the keep/2 lowest, else 0 (DanceGRPO's
 *  best-of-n, over the whole batch). */
cgrpo_status cgrpo_best_of_n(const double *scores, int64_t count, int64_t keep, uint8_t *chosen);

typedef struct cgrpo_chunk_loss_options {
    size_t struct_size;
    double clip_low;          /* 5e-5; in [0, 1]: ratios below 1 - clip_low are clipped */
    double clip_high;         /* 5e-5; >= 0: ratios above 1 + clip_high are clipped */
    double kl;                /* 0; >= 0: weight of the k3 estimate */
    const uint8_t *selection; /* null: every chunk; (B, K), non-zero = train */
} cgrpo_chunk_loss_options;

void cgrpo_chunk_loss_options_init(cgrpo_chunk_loss_options *options, size_t struct_size);

/** Over the N selected chunks. */
typedef struct cgrpo_chunk_stats {
    size_t struct_size;            /* set it to sizeof before the call */
    int64_t selected;              /* N */
    double ratio_mean, ratio_std;  /* population standard deviation */
    double ratio_min, ratio_max;
    double clip_fraction_low;      /* A < 0 and ratio < 1 - clip_low: their gradient is zero */
    double clip_fraction_high;     /* A > 0 and ratio > 1 + clip_high */
    double approximate_kl;         /* mean of k3 */
    double effective_sample_size;  /* (sum ratio)^2 / (N sum ratio^2), in (0, 1]; 1 = on policy */
} cgrpo_chunk_stats;

/**
 * The chunk objective:
 *
 *     l_j   = mean of log_probs over the steps of chunk j
 *     rho_j = exp(l_j_new - l_j_old)                                   the geometric mean of its step ratios
 *     k3_j  = exp(delta) - 1 - delta,  delta = l_j_old - l_j_new
 *     loss  = mean over the selected (sample, chunk) of  max(-A rho_j, -A clip(rho_j, 1 - low, 1 + high)) + kl k3_j
 *
 * new_log_probs, old_log_probs  (B, S)
 * advantages                    (B)
 * loss                          one number
 * grad_log_probs                (B, S) or null: d loss / d new_log_probs; give it to cgrpo_log_prob_vjp
 * ratios                        (B, K) or null, of all chunks, selected or not
 * stats                         or null
 */
cgrpo_status cgrpo_chunk_loss(const double *new_log_probs, const double *old_log_probs, const double *advantages,
                              int64_t batch, int64_t steps, const int64_t *sizes, int64_t chunk_count,
                              const cgrpo_chunk_loss_options *options, double *loss, double *grad_log_probs,
                              double *ratios, cgrpo_chunk_stats *stats);

/* ==================================================================================================================
 * 7. Embedded policy and trainer
 *
 * A velocity network of the library's own, on OpenBLAS: a residual MLP with adaptive layer norm over time and condition
 * (DiT's adaLN-Zero, arXiv 2212.09748). It is pretrained by flow matching and post-trained by Chunk-GRPO. A condition is
 * a vector: a one-hot class, several of them side by side, or the embedding of a text encoder.
 * All tensors here are f32 and contiguous.
 * ================================================================================================================ */

typedef struct cgrpo_trainer_options {
    size_t struct_size;
    /* network */
    int64_t latent_size;       /* D, no default; 1 ... 1,048,576 */
    int64_t condition_size;    /* C, no default; 1 ... 65,536 */
    int64_t width;             /* 256; hidden size; 1 ... 16,384 */
    int64_t blocks;            /* 3; 1 ... 256 */
    int64_t embedding_size;    /* 128; of time and condition; even, 2 ... 16,384 */
    /* sampling */
    int64_t steps;             /* 17 = T; 2 ... 10,000 */
    double shift;              /* 3 */
    cgrpo_dynamics dynamics;   /* CGRPO_FLOW_SDE */
    int32_t share_noise;       /* 1: one initial noise a group; 0: one a sample */
    double eta;                /* 0.7 */
    /* objective */
    const int64_t *chunk_sizes;/* null: 2, 3, 4, 7 where S = 16, else chunks of 4; copied */
    int64_t chunk_count;       /* 0 with null sizes */
    int64_t group_size;        /* 12; >= 2; samples a prompt */
    double chunk_fraction;     /* 0.5; of the chunks of each sample that are trained */
    int32_t weighted_selection;/* 0; 1: drawn by relative L1 */
    int32_t threads;           /* 0 = one a core: sampling kernels; OpenBLAS follows its own settings */
    double advantage_clamp;    /* 5 */
    double clip_low, clip_high;/* 1e-3 each */
    double kl;                 /* 0 */
    /* optimiser: AdamW */
    int64_t updates_per_rollout; /* 2 optimiser steps: the prompts of a rollout are dealt out to them; >= 1 */
    double learning_rate;      /* 3e-4 */
    double beta1, beta2;       /* 0.9, 0.999 */
    double adam_epsilon;       /* 1e-8 */
    double weight_decay;       /* 1e-4, decoupled */
    double max_grad_norm;      /* 1; INFINITY for none */
    double ema_decay;          /* 0.9 an optimiser step of Chunk-GRPO; [0, 1) */
    uint64_t seed;             /* 0: of the weights and of every draw */
} cgrpo_trainer_options;

void cgrpo_trainer_options_init(cgrpo_trainer_options *options, size_t struct_size);

typedef struct cgrpo_trainer cgrpo_trainer;

cgrpo_status cgrpo_trainer_create(const cgrpo_trainer_options *options, cgrpo_trainer **trainer);
void cgrpo_trainer_destroy(cgrpo_trainer *trainer); /* null is fine */

/** Number of weights of the network, and Chunk-GRPO iterations done so far. Either may be null. */
cgrpo_status cgrpo_trainer_info(const cgrpo_trainer *trainer, int64_t *parameter_count, int64_t *iterations);

/** Called now and then while the library works. Return 0, or anything else to stop. */
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
 * Flow matching on (image, condition) pairs: the mean of |v(x_sigma, sigma, c) - (e - x0)|^2 with sigma uniform in (0, 1]
 * under the trainer's shift. Images (N, D), conditions (N, C). Afterwards the network has the averaged weights, and the
 * optimiser is fresh. If `progress` (or null) stops it, the trainer is as it was before the call.
 */
cgrpo_status cgrpo_trainer_pretrain(cgrpo_trainer *trainer, const cgrpo_tensor *images, const cgrpo_tensor *conditions,
                                    const cgrpo_pretrain_options *options, cgrpo_progress_fn progress, void *user);

/**
 * The reward: write one finite number for each of the B images. images (B, D); prompt[i] is the row of `conditions`, as
 * given to cgrpo_trainer_iterate, that image i was made for. Return 0, or anything else to stop.
 */
typedef int (*cgrpo_reward_fn)(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards);

typedef struct cgrpo_iteration_report {
    size_t struct_size;           /* set it to sizeof before the call */
    int64_t iteration;            /* counted from 1 */
    double reward_mean, reward_std;
    double loss;                  /* mean over the optimiser steps, as are those below */
    double grad_norm;             /* before clipping */
    cgrpo_chunk_stats stats;      /* of the last optimiser step; stats.struct_size is set by the library */
    double rollout_seconds, reward_seconds, update_seconds;
} cgrpo_iteration_report;

/**
 * One Chunk-GRPO iteration: group_size samples for each row of conditions (P, C), rewards, advantages, optimiser steps.
 * If the reward fails or is not finite, the trainer is as it was before the call. report may be null.
 */
cgrpo_status cgrpo_trainer_iterate(cgrpo_trainer *trainer, const cgrpo_tensor *conditions, cgrpo_reward_fn reward,
                                   void *user, cgrpo_iteration_report *report);

/** Which weights: those that are trained, or their exponential moving average. */
typedef int32_t cgrpo_weights;
enum { CGRPO_TRAINED_WEIGHTS = 1, CGRPO_AVERAGED_WEIGHTS = 2 };

/** Images (B, D) for conditions (B, C), by the trainer's schedule; `eta` 0 is the ODE. Sample i has the noise of id i. */
cgrpo_status cgrpo_trainer_sample(const cgrpo_trainer *trainer, const cgrpo_tensor *conditions, cgrpo_weights weights,
                                  double eta, uint64_t seed, const cgrpo_tensor *images);

/** The network alone, for a rollout of your own: velocity (B, D) at latents (B, D), sigma, conditions (B, C). */
cgrpo_status cgrpo_trainer_velocity(const cgrpo_trainer *trainer, cgrpo_weights weights, const cgrpo_tensor *latents,
                                    double sigma, const cgrpo_tensor *conditions, const cgrpo_tensor *velocity);

/**
 * Checkpoint: a directory (made if missing; "" is no directory) with state.json and the .safetensors files that it names: weights, average and
 * optimiser. Files are written aside and renamed; whenever the machine stops, the directory holds a whole checkpoint.
 * A run that goes on from it is equal, bit for bit, to one that was never interrupted (same machine, same thread counts).
 */
cgrpo_status cgrpo_trainer_save(const cgrpo_trainer *trainer, const char *directory);
cgrpo_status cgrpo_trainer_load(const char *directory, cgrpo_trainer **trainer);

#ifdef __cplusplus
}
#endif

#endif /* CHUNKGRPO_H */
