/* The library called from C, and loops that move the same bytes and do next to nothing: the limit that memory sets.
 * Built by bench.py with -O3 -march=native -fopenmp; kernels.py loads it. Times are nanoseconds a call, or -1. */
#include <chunkgrpo.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum kind { NORMAL, STEP, STEP_GIVEN, STEP_L1, LOG_PROB, VJP, ROLLOUT, LOSS_GRADIENT, FORWARD, FORWARD_VJP };

typedef struct job {
    int32_t kind, threads;
    int64_t step, batch, steps, elements; /* steps: S, for ROLLOUT and LOSS_GRADIENT */
    cgrpo_type type, velocity_type;       /* of v and grad */
    void *x, *v, *next, *grad, *noise;
    cgrpo_sampler *sampler;
    double *log_probs, *other, *grad_log_probs, *advantages;
} job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* x, v, next, grad, noise: as the kind needs them. ROLLOUT and LOSS_GRADIENT: x (B, S + 2, D), v and grad (B, S, D). */
job *job_create(int32_t kind, cgrpo_type type, cgrpo_type velocity_type, int64_t batch, int64_t elements, int64_t steps,
                int32_t threads, void *x, void *v, void *next, void *grad, void *noise) {
    job *j = calloc(1, sizeof *j);
    int whole = kind == ROLLOUT || kind == LOSS_GRADIENT;
    int64_t count = whole ? steps + 1 : 17, numbers = batch * (whole ? steps : 1);
    double *sigmas = malloc((size_t)(count + 1) * sizeof *sigmas);
    cgrpo_schedule_options schedule;
    cgrpo_sampler_options options;
    *j = (job){.kind = kind, .threads = threads, .step = 3, .batch = batch, .steps = steps, .elements = elements};
    j->type = type, j->velocity_type = velocity_type, j->x = x, j->v = v, j->next = next, j->grad = grad,
    j->noise = noise;
    j->log_probs = calloc((size_t)numbers, sizeof(double)), j->other = calloc((size_t)numbers, sizeof(double));
    j->grad_log_probs = calloc((size_t)numbers, sizeof(double)), j->advantages = calloc((size_t)batch, sizeof(double));
    for (int64_t i = 0; i < numbers; i++) j->grad_log_probs[i] = 1;
    for (int64_t i = 0; i < batch; i++) j->advantages[i] = i % 2 ? 1 : -1;
    cgrpo_sampler_options_init(&options, sizeof options);
    options.threads = threads;
    cgrpo_schedule_options_init(&schedule, sizeof schedule);
    schedule.shift = 3;
    if (cgrpo_schedule_make(count, &schedule, sigmas) != CGRPO_OK ||
        cgrpo_sampler_create(sigmas, count + 1, &options, &j->sampler) != CGRPO_OK)
        j = NULL;
    free(sigmas);
    return j;
}

void job_destroy(job *j) {
    cgrpo_sampler_destroy(j->sampler);
    free(j->log_probs), free(j->other), free(j->grad_log_probs), free(j->advantages), free(j);
}

static int no_model(void *user, int64_t step, double sigma, const cgrpo_tensor *latents, const cgrpo_tensor *velocity) {
    (void)user, (void)step, (void)sigma, (void)latents, (void)velocity;
    return 0;
}

static cgrpo_status call(job *j) {
    int64_t one[] = {j->batch, j->elements}, n[] = {j->batch, j->steps, j->elements};
    int64_t n2[] = {j->batch, j->steps + 2, j->elements};
    cgrpo_tensor x = {.data = j->x, .shape = one, .ndim = 2, .type = j->type}, v = x, next = x, grad = x, given = x;
    cgrpo_tensor xs = {.data = j->x, .shape = n2, .ndim = 3, .type = j->type}, vs = xs, grads = xs;
    cgrpo_noise noise;
    v.data = j->v, next.data = j->next, grad.data = j->grad, given.data = j->noise;
    vs.data = j->v, grads.data = j->grad, vs.shape = grads.shape = n;
    if (j->kind != NORMAL) v.type = grad.type = vs.type = grads.type = j->velocity_type;
    cgrpo_noise_init(&noise, sizeof noise);
    switch (j->kind) {
        case NORMAL: return cgrpo_normal(1, NULL, j->step, j->threads, &grad);
        case STEP: return cgrpo_step(j->sampler, j->step, &x, &v, NULL, &noise, &next, j->log_probs, NULL);
        case STEP_GIVEN:
            noise.given = &given;
            return cgrpo_step(j->sampler, j->step, &x, &v, NULL, &noise, &next, j->log_probs, NULL);
        case STEP_L1: return cgrpo_step(j->sampler, j->step, &x, &v, NULL, &noise, &next, j->log_probs, j->other);
        case LOG_PROB: return cgrpo_log_prob(j->sampler, j->step, &x, &v, NULL, &next, j->log_probs);
        case VJP:
            return cgrpo_log_prob_vjp(j->sampler, j->step, &x, &v, NULL, &next, j->grad_log_probs, &grad, NULL,
                                      j->log_probs);
        case FORWARD:
            noise.given = &given;
            return cgrpo_forward_distance(&x, &v, &noise, 0, j->threads, NULL, j->log_probs, NULL, NULL);
        case FORWARD_VJP:
            noise.given = &given;
            return cgrpo_forward_distance(&x, &v, &noise, 0, j->threads, NULL, j->log_probs, j->grad_log_probs, &grad);
        case ROLLOUT: {
            cgrpo_trajectory trajectory;
            cgrpo_trajectory_init(&trajectory, sizeof trajectory);
            trajectory.latents = xs, trajectory.log_probs = j->log_probs;
            trajectory.velocity_type = j->velocity_type;
            /* Without the last of the S + 1 steps, as in training. */
            return cgrpo_rollout(j->sampler, &trajectory, j->steps, &noise, no_model, NULL);
        }
        default: {
            double loss;
            int64_t chunks[] = {j->steps};
            cgrpo_status status = cgrpo_trajectory_log_probs(j->sampler, 0, NULL, &xs, &vs, j->other);
            if (status == CGRPO_OK)
                status = cgrpo_chunk_loss(j->other, j->log_probs, j->advantages, j->batch, j->steps, chunks, 1, NULL,
                                          &loss, j->grad_log_probs, NULL, NULL);
            if (status != CGRPO_OK) return status;
            return cgrpo_trajectory_log_probs_vjp(j->sampler, 0, NULL, &xs, &vs, j->grad_log_probs, &grads);
        }
    }
}

double job_run(job *j, int64_t calls) {
    double start = now();
    for (int64_t i = 0; i < calls; i++)
        if (call(j) != CGRPO_OK) return -1;
    return (now() - start) / (double)calls;
}

/* ---- The limit: streams of `count` floats, whatever type they really are ---- */

#define STREAM _Pragma("omp parallel for simd num_threads(threads) schedule(static)")

static volatile float sink;

/* Three streams in: a log-probability. */
double limit_read3(int32_t threads, int64_t count, const float *x, const float *y, const float *z) {
    double start = now();
    float sum = 0;
#pragma omp parallel for simd num_threads(threads) schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) sum += x[i] + y[i] + z[i];
    sink = sum;
    return now() - start;
}

/* Two in and one out: a step. */
double limit_read2_write1(int32_t threads, int64_t count, const float *x, const float *y, float *out) {
    double start = now();
    STREAM for (int64_t i = 0; i < count; i++) out[i] = x[i] + 0.5f * y[i];
    return now() - start;
}

/* Three in and one out: a log-probability and its gradient. */
double limit_read3_write1(int32_t threads, int64_t count, const float *x, const float *y, const float *z, float *out) {
    double start = now();
    STREAM for (int64_t i = 0; i < count; i++) out[i] = x[i] + 0.5f * y[i] + 0.25f * z[i];
    return now() - start;
}

/* The same, past the caches; count a multiple of 16 and arrays on 64-byte boundaries. -1 where there is no such store.
 */
double limit_read3_write1_streaming(int32_t threads, int64_t count, const float *x, const float *y, const float *z,
                                    float *out) {
#ifdef __AVX512F__
    double start = now();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += 16) {
        __m512 sum = _mm512_fmadd_ps(_mm512_set1_ps(0.5f), _mm512_loadu_ps(y + i), _mm512_loadu_ps(x + i));
        _mm512_stream_ps(out + i, _mm512_fmadd_ps(_mm512_set1_ps(0.25f), _mm512_loadu_ps(z + i), sum));
    }
    _mm_sfence();
    return now() - start;
#elif defined(__AVX2__) && defined(__FMA__)
    double start = now();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += 8) {
        __m256 sum = _mm256_fmadd_ps(_mm256_set1_ps(0.5f), _mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i));
        _mm256_stream_ps(out + i, _mm256_fmadd_ps(_mm256_set1_ps(0.25f), _mm256_loadu_ps(z + i), sum));
    }
    _mm_sfence();
    return now() - start;
#else
    (void)threads, (void)count, (void)x, (void)y, (void)z, (void)out;
    return -1;
#endif
}
