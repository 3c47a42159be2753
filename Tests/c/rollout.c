/* Rollouts driven by a callback: whole, in parts, after a failure; and log-probabilities of whole trajectories. */
#include "arrays.h"

enum { T = 17, S = T - 1, B = 6, D = 21 };
static const cgrpo_type types[] = {CGRPO_TYPE_F64, CGRPO_TYPE_F32, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};

/* A model: v = (x - c) f(sigma). It keeps its velocities, and fails when it is told to. */
typedef struct model {
    array *velocities; /* (B, T, D) or null */
    int64_t fails_at;  /* -1: never */
    int64_t calls, last_step;
    double last_sigma;
} model;

static int velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *latents, const cgrpo_tensor *out) {
    model *m = (model *)user;
    array x, v;
    int64_t rows = latents->shape[0], x_stride = latents->strides ? latents->strides[0] : D;
    int64_t v_stride = out->strides ? out->strides[0] : D;
    m->calls++;
    m->last_step = step;
    m->last_sigma = sigma;
    if (step == m->fails_at) return -1;
    x.tensor = *latents, v.tensor = *out;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t j = 0; j < D; j++) {
            set(&v, row * v_stride + j, (get(&x, row * x_stride + j) - 0.1 * (double)j) * (0.5 + sigma / 4));
            if (m->velocities) set(m->velocities, (row * T + step) * D + j, get(&v, row * v_stride + j));
        }
    return 0;
}

typedef struct run {
    array *latents;
    cgrpo_trajectory trajectory;
    double log_probs[B * S], relative_l1[B * S];
} run;

static run *run_new(cgrpo_type type) {
    run *r = (run *)calloc(1, sizeof *r);
    array *first = array_new(type, B, T + 1, D), *start;
    r->latents = first;
    start = array_column(first, 0);
    CHECK_OK(cgrpo_normal(3, NULL, CGRPO_INITIAL_NOISE, 1, &start->tensor));
    cgrpo_trajectory_init(&r->trajectory, sizeof r->trajectory);
    r->trajectory.latents = first->tensor;
    r->trajectory.log_probs = r->log_probs;
    r->trajectory.relative_l1 = r->relative_l1;
    return r;
}

static int same_run(const run *left, const run *right) {
    return same_bits(left->latents, right->latents) && left->trajectory.position == right->trajectory.position &&
           memcmp(left->log_probs, right->log_probs, sizeof left->log_probs) == 0 &&
           memcmp(left->relative_l1, right->relative_l1, sizeof left->relative_l1) == 0;
}

static cgrpo_noise seeded(uint64_t seed) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = seed;
    return noise;
}

static run *whole_run(cgrpo_type type, int32_t threads, model *m) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, threads);
    cgrpo_noise noise = seeded(11);
    run *r = run_new(type);
    CHECK_OK(cgrpo_rollout(sampler, &r->trajectory, T, &noise, velocity, m));
    CHECK(r->trajectory.position == T);
    cgrpo_sampler_destroy(sampler);
    return r;
}

static void a_rollout_is_its_steps(void) {
    for (int t = 0; t < 4; t++) {
        model m = {NULL, -1, 0, 0, 0}, again = {NULL, -1, 0, 0, 0};
        run *r = whole_run(types[t], 1, &m);
        cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
        cgrpo_noise noise = seeded(11);
        array *v = array_new(types[t], B, D, 0), *next = array_new(types[t], B, D, 0);
        double sigmas[T + 1], log_prob[B], relative_l1[B];
        CHECK_OK(shifted_schedule(T, 3, sigmas));
        CHECK(m.calls == T && m.last_step == T - 1);
        CHECK_NEAR(m.last_sigma, sigmas[T - 1], 1e-15);
        for (int64_t k = 0; k < T; k++) {
            array *x = array_column(r->latents, k);
            velocity(&again, k, sigmas[k], &x->tensor, &v->tensor);
            CHECK_OK(
                cgrpo_step(sampler, k, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, log_prob, relative_l1));
            for (int64_t row = 0; row < B; row++) {
                for (int64_t j = 0; j < D; j++)
                    CHECK(get(next, row * D + j) == get(r->latents, (row * (T + 1) + k + 1) * D + j));
                if (k < S) CHECK(log_prob[row] == r->log_probs[row * S + k]);
                if (k < S) CHECK(relative_l1[row] == r->relative_l1[row * S + k]);
            }
        }
        cgrpo_sampler_destroy(sampler);
    }
}

static void chunk_by_chunk_equals_whole(void) {
    static const int64_t ends[] = {2, 5, 9, 16, 17};
    for (int t = 0; t < 4; t++) {
        model m = {NULL, -1, 0, 0, 0};
        cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
        cgrpo_noise noise = seeded(11);
        run *whole = whole_run(types[t], 1, &m), *parts = run_new(types[t]);
        for (int i = 0; i < 5; i++) {
            CHECK_OK(cgrpo_rollout(sampler, &parts->trajectory, ends[i], &noise, velocity, &m));
            CHECK(parts->trajectory.position == ends[i]);
        }
        CHECK(same_run(whole, parts));
        cgrpo_sampler_destroy(sampler);
    }
}

/* From the latents at one position, the seed and the ids, and nothing else. */
static void another_host_can_go_on(void) {
    model m = {NULL, -1, 0, 0, 0};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_noise noise = seeded(11);
    run *whole = whole_run(CGRPO_TYPE_F32, 1, &m), *other = run_new(CGRPO_TYPE_F32);
    memset(other->latents->tensor.data, 0, (size_t)other->latents->count * 4);
    for (int64_t row = 0; row < B; row++)
        for (int64_t j = 0; j < D; j++) {
            int64_t i = (row * (T + 1) + 5) * D + j;
            set(other->latents, i, get(whole->latents, i));
        }
    other->trajectory.position = 5;
    CHECK_OK(cgrpo_rollout(sampler, &other->trajectory, T, &noise, velocity, &m));
    for (int64_t row = 0; row < B; row++)
        for (int64_t k = 5; k <= T; k++) {
            for (int64_t j = 0; j < D; j++) {
                int64_t i = (row * (T + 1) + k) * D + j;
                CHECK(get(other->latents, i) == get(whole->latents, i));
            }
            if (k < S) CHECK(other->log_probs[row * S + k] == whole->log_probs[row * S + k]);
        }
    cgrpo_sampler_destroy(sampler);
}

static void a_failing_callback_leaves_the_position_and_a_retry_succeeds(void) {
    model works = {NULL, -1, 0, 0, 0}, fails = {NULL, 7, 0, 0, 0};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_noise noise = seeded(11);
    run *whole = whole_run(CGRPO_TYPE_F32, 1, &works), *broken = run_new(CGRPO_TYPE_F32);
    CHECK_OK(cgrpo_rollout(sampler, &broken->trajectory, 5, &noise, velocity, &fails));
    CHECK_REFUSED(cgrpo_rollout(sampler, &broken->trajectory, T, &noise, velocity, &fails), CGRPO_CALLBACK_FAILED, "7");
    CHECK(fails.calls == 8); /* and it was not called again after it had failed */
    CHECK(broken->trajectory.position == 5);
    for (int64_t row = 0; row < B; row++)
        for (int64_t i = row * (T + 1) * D; i < (row * (T + 1) + 6) * D; i++)
            CHECK(get(broken->latents, i) == get(whole->latents, i));
    CHECK_OK(cgrpo_rollout(sampler, &broken->trajectory, T, &noise, velocity, &works));
    CHECK(same_run(whole, broken));
    cgrpo_sampler_destroy(sampler);
}

static int velocity_of_nan(void *user, int64_t step, double sigma, const cgrpo_tensor *latents,
                           const cgrpo_tensor *out) {
    int status = velocity(user, step, sigma, latents, out);
    if (step == 3) ((float *)out->data)[2 * (out->strides ? out->strides[0] : D) + 1] = NAN;
    return status;
}

static void a_nan_from_the_model_names_sample_and_step(void) {
    model m = {NULL, -1, 0, 0, 0};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_noise noise = seeded(11);
    run *r = run_new(CGRPO_TYPE_F32);
    CHECK_REFUSED(cgrpo_rollout(sampler, &r->trajectory, T, &noise, velocity_of_nan, &m), CGRPO_NON_FINITE, "sample 2");
    CHECK(strstr(cgrpo_last_error(), "step 3") != NULL);
    CHECK(r->trajectory.position == 0);
    CHECK_OK(cgrpo_rollout(sampler, &r->trajectory, T, &noise, velocity, &m));
    cgrpo_sampler_destroy(sampler);
}

static void given_noise_is_used(void) {
    model m = {NULL, -1, 0, 0, 0};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    run *drawn = whole_run(CGRPO_TYPE_F32, 1, &m), *given = run_new(CGRPO_TYPE_F32);
    array *e = array_new(CGRPO_TYPE_F32, B, T, D);
    cgrpo_noise noise = seeded(0);
    for (int64_t k = 0; k < T; k++) {
        array *column = array_column(e, k);
        CHECK_OK(cgrpo_normal(11, NULL, k, 1, &column->tensor));
    }
    noise.given = &e->tensor;
    CHECK_OK(cgrpo_rollout(sampler, &given->trajectory, T, &noise, velocity, &m));
    CHECK(same_run(drawn, given));
    cgrpo_sampler_destroy(sampler);
}

static void any_thread_count_gives_the_same_bits(void) {
    model m = {NULL, -1, 0, 0, 0};
    run *one = whole_run(CGRPO_TYPE_F32, 1, &m), *two = whole_run(CGRPO_TYPE_F32, 2, &m),
        *all = whole_run(CGRPO_TYPE_F32, 0, &m);
    CHECK(same_run(one, two));
    CHECK(same_run(one, all));
}

static void log_probs_and_relative_l1_may_be_left_out(void) {
    model m = {NULL, -1, 0, 0, 0};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_noise noise = seeded(11);
    run *with = whole_run(CGRPO_TYPE_F32, 1, &m), *without = run_new(CGRPO_TYPE_F32);
    without->trajectory.log_probs = without->trajectory.relative_l1 = NULL;
    CHECK_OK(cgrpo_rollout(sampler, &without->trajectory, T, &noise, velocity, &m));
    CHECK(same_bits(with->latents, without->latents));
    cgrpo_sampler_destroy(sampler);
}

/* On the policy that sampled, the importance ratio is exactly 1: the same bits from the stored trajectory. */
static void recomputed_log_probs_are_the_rollouts(void) {
    for (int t = 0; t < 4; t++) {
        model m = {array_new(types[t], B, T, D), -1, 0, 0, 0};
        run *r = whole_run(types[t], 1, &m);
        cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 2);
        array *some = array_new(types[t], B, 3, D), *from = array_new(types[t], B, 4, D);
        array trained = *m.velocities;
        double log_probs[B * S], part[B * 3], relative_l1[B * T];
        /* (B, S, D) of the (B, T, D) velocities: the last step's are left out by the strides. */
        trained.tensor.shape = trained.shape;
        trained.shape[1] = S;
        trained.strides[0] = T * D, trained.strides[1] = D, trained.strides[2] = 1;
        trained.tensor.strides = trained.strides;
        CHECK_OK(cgrpo_trajectory_log_probs(sampler, 0, NULL, &r->latents->tensor, &trained.tensor, log_probs));
        CHECK_SAME_BITS(log_probs, r->log_probs, sizeof log_probs);
        for (int64_t row = 0; row < B; row++)
            for (int64_t j = 0; j < 4 * D; j++) {
                set(from, row * 4 * D + j, get(r->latents, (row * (T + 1) + 5) * D + j));
                if (j < 3 * D) set(some, row * 3 * D + j, get(m.velocities, (row * T + 5) * D + j));
            }
        CHECK_OK(cgrpo_trajectory_log_probs(sampler, 5, NULL, &from->tensor, &some->tensor, part));
        for (int64_t row = 0; row < B; row++)
            CHECK_SAME_BITS(part + row * 3, r->log_probs + row * S + 5, 3 * sizeof *part);
        CHECK_OK(cgrpo_relative_l1(&r->latents->tensor, 1, relative_l1));
        for (int64_t row = 0; row < B; row++)
            CHECK_SAME_BITS(relative_l1 + row * T, r->relative_l1 + row * S, S * sizeof *relative_l1);
        cgrpo_sampler_destroy(sampler);
    }
}

static void trajectory_vjp_is_the_steps_vjp_and_zero_where_the_gradient_is(void) {
    model m = {array_new(CGRPO_TYPE_F32, B, T, D), -1, 0, 0, 0};
    run *r = whole_run(CGRPO_TYPE_F32, 1, &m);
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    array *v = array_new(CGRPO_TYPE_F32, B, S, D), *dv = array_filled(CGRPO_TYPE_F32, B, S, D, 9),
          *dv1 = array_new(CGRPO_TYPE_F32, B, D, 0);
    double grad[B * S], grad1[B];
    for (int64_t i = 0; i < B * S; i++) grad[i] = i % 3 == 0 ? 0 : scattered(5, (uint64_t)i);
    for (int64_t i = 0; i < v->count; i++) set(v, i, get(m.velocities, i / (S * D) * T * D + i % (S * D)) * 1.01);
    CHECK_OK(cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, &r->latents->tensor, &v->tensor, grad, &dv->tensor));
    for (int64_t k = 0; k < S; k++) {
        array *x = array_column(r->latents, k), *next = array_column(r->latents, k + 1), *vk = array_column(v, k);
        for (int64_t row = 0; row < B; row++) grad1[row] = grad[row * S + k];
        CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &vk->tensor, NULL, &next->tensor, grad1, &dv1->tensor, NULL,
                                    NULL));
        for (int64_t row = 0; row < B; row++)
            for (int64_t j = 0; j < D; j++) {
                double whole = get(dv, (row * S + k) * D + j);
                CHECK(whole == get(dv1, row * D + j));
                if (grad1[row] == 0) CHECK(whole == 0);
            }
    }
    cgrpo_sampler_destroy(sampler);
}

/* Each axis alone would pass: x[1, k] and x[0, k + 1] are the same memory. */
static void samples_and_steps_that_share_memory_are_refused(void) {
    static double memory[8 * 4];
    static const int64_t shape[] = {2, 6, 4}, strides[] = {4, 4, 1};
    cgrpo_sampler *sampler = sampler_new(5, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_noise noise = seeded(1);
    model m = {NULL, -1, 0, 0, 0};
    cgrpo_trajectory trajectory;
    cgrpo_trajectory_init(&trajectory, sizeof trajectory);
    trajectory.latents.data = memory;
    trajectory.latents.shape = shape;
    trajectory.latents.strides = strides;
    trajectory.latents.ndim = 3;
    trajectory.latents.type = CGRPO_TYPE_F64;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, 5, &noise, velocity, &m), CGRPO_INVALID_ARGUMENT, "overlap");
    CHECK(m.calls == 0);
    cgrpo_sampler_destroy(sampler);
}

/* One value, borrowed as a large batch, crosses the bound on how many sums are kept at a time. */
static void a_batch_that_is_one_sample_many_times_costs_no_memory(void) {
    static double value = 0.5;
    static const int64_t shape[] = {100000, 1}, strides[] = {0, 1};
    static double divergence[100000];
    cgrpo_sampler *sampler = sampler_new(5, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_tensor one = {.data = &value, .shape = shape, .strides = strides, .ndim = 2, .type = CGRPO_TYPE_F64};
    CHECK_OK(
        cgrpo_divergence_from_velocity(sampler, 0, NULL, CGRPO_DIVERGENCE_MEAN, &one, &one, divergence, NULL, NULL));
    CHECK(divergence[0] == 0 && divergence[99999] == 0);
    cgrpo_sampler_destroy(sampler);
}

int main(void) {
    RUN(a_rollout_is_its_steps);
    RUN(samples_and_steps_that_share_memory_are_refused);
    RUN(a_batch_that_is_one_sample_many_times_costs_no_memory);
    RUN(chunk_by_chunk_equals_whole);
    RUN(another_host_can_go_on);
    RUN(a_failing_callback_leaves_the_position_and_a_retry_succeeds);
    RUN(a_nan_from_the_model_names_sample_and_step);
    RUN(given_noise_is_used);
    RUN(any_thread_count_gives_the_same_bits);
    RUN(log_probs_and_relative_l1_may_be_left_out);
    RUN(recomputed_log_probs_are_the_rollouts);
    RUN(trajectory_vjp_is_the_steps_vjp_and_zero_where_the_gradient_is);
    return finish("rollout");
}
