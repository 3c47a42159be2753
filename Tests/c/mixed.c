/* Velocities in bf16 and f16 beside f32 latents: the bits that the same velocities give as f32, and gradients that are
 * those rounded once. */
#include "arrays.h"

enum { B = 3, T = 9, k = 4 };

static const cgrpo_type types[] = {CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
static const int64_t sizes[] = {1, 7, 16, 31, 33, 96, 1031, 40007};
static const double grad[B] = {7000, -1300, 0.01};

/* Arrays of one case: latents in f32, velocities in a narrow type and the same numbers in f32. */
typedef struct mixed {
    cgrpo_sampler *sampler;
    array *x, *next, *image;
    array *v[2], *u[2], *w[2];
    cgrpo_noise noise, given;
    array *noise_given;
} mixed;

static mixed mixed_new(cgrpo_type type, int64_t D, int32_t threads) {
    mixed m;
    m.sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, threads);
    m.x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), m.next = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    m.image = array_filled(CGRPO_TYPE_F32, B, D, 0, 6), m.noise_given = array_filled(CGRPO_TYPE_F32, B, D, 0, 7);
    m.v[0] = array_filled(type, B, D, 0, 3), m.u[0] = array_filled(type, B, D, 0, 4);
    m.w[0] = array_filled(type, B, D, 0, 5);
    m.v[1] = array_as(CGRPO_TYPE_F32, m.v[0]), m.u[1] = array_as(CGRPO_TYPE_F32, m.u[0]);
    m.w[1] = array_as(CGRPO_TYPE_F32, m.w[0]);
    cgrpo_noise_init(&m.noise, sizeof m.noise);
    m.noise.seed = 5;
    m.given = m.noise;
    m.given.given = &m.noise_given->tensor;
    return m;
}

static void mixed_free(mixed *m) {
    array *all[] = {m->x, m->next, m->image, m->noise_given, m->v[0], m->v[1], m->u[0], m->u[1], m->w[0], m->w[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) array_free(all[i]);
    cgrpo_sampler_destroy(m->sampler);
}

/* Fresh memory like the narrow and the wide velocities. */
static void like(array *const from[2], array *out[2]) {
    for (int w = 0; w < 2; w++)
        out[w] = array_new(from[w]->tensor.type, from[w]->shape[0], from[w]->shape[1], from[w]->shape[2]);
}

/* The narrow gradient is the wide one, rounded; both are freed. */
static void check_rounded(array *gradient[2]) {
    array *rounded = array_as(gradient[0]->tensor.type, gradient[1]);
    CHECK(same_bits(gradient[0], rounded));
    array_free(rounded), array_free(gradient[0]), array_free(gradient[1]);
}

static void check_steps(mixed *m, const cgrpo_step_extras *const extras[2], const cgrpo_noise *noise) {
    array *next[2];
    array *const two[2] = {m->x, m->x};
    double log_prob[2][B], change[2][B];
    like(two, next);
    for (int w = 0; w < 2; w++)
        CHECK_OK(cgrpo_step(m->sampler, k, &m->x->tensor, &m->v[w]->tensor, extras[w], noise, &next[w]->tensor,
                            log_prob[w], change[w]));
    CHECK(same_bits(next[0], next[1]));
    CHECK_SAME_BITS(log_prob[0], log_prob[1], sizeof log_prob[0]);
    CHECK_SAME_BITS(change[0], change[1], sizeof change[0]);
    for (int w = 0; w < 2; w++)
        CHECK_OK(cgrpo_predicted_image(m->sampler, k, &m->x->tensor, &m->v[w]->tensor, extras[w], &next[w]->tensor));
    CHECK(same_bits(next[0], next[1]));
    array_free(next[0]), array_free(next[1]);
}

static void check_gradients(mixed *m, const cgrpo_step_extras *const extras[2]) {
    array *gradient[2], *unconditional[2];
    double log_prob[2][B], again[2][B];
    like(m->v, gradient), like(m->v, unconditional);
    for (int w = 0; w < 2; w++) {
        CHECK_OK(
            cgrpo_log_prob(m->sampler, k, &m->x->tensor, &m->v[w]->tensor, extras[w], &m->next->tensor, log_prob[w]));
        CHECK_OK(cgrpo_log_prob_vjp(m->sampler, k, &m->x->tensor, &m->v[w]->tensor, extras[w], &m->next->tensor, grad,
                                    &gradient[w]->tensor, extras[w] ? &unconditional[w]->tensor : NULL, again[w]));
    }
    CHECK_SAME_BITS(log_prob[0], log_prob[1], sizeof log_prob[0]);
    CHECK_SAME_BITS(again[0], log_prob[1], sizeof log_prob[0]);
    check_rounded(gradient), check_rounded(unconditional);
}

static void check_distances(mixed *m, const cgrpo_noise *noise) {
    array *gradient[2];
    double distance[2][B], numbers[2][7][B];
    like(m->v, gradient);
    for (int w = 0; w < 2; w++)
        CHECK_OK(cgrpo_divergence_from_sampled(m->sampler, k, NULL, CGRPO_DIVERGENCE_GAUSSIAN, &m->x->tensor,
                                               &m->v[w]->tensor, noise, &m->next->tensor, distance[w], grad,
                                               &gradient[w]->tensor));
    CHECK_SAME_BITS(distance[0], distance[1], sizeof distance[0]);
    check_rounded(gradient);
    like(m->v, gradient);
    for (int w = 0; w < 2; w++)
        CHECK_OK(cgrpo_forward_distance(&m->x->tensor, &m->v[w]->tensor, noise, 2, 2, NULL, distance[w], grad,
                                        &gradient[w]->tensor));
    CHECK_SAME_BITS(distance[0], distance[1], sizeof distance[0]);
    check_rounded(gradient);
    like(m->v, gradient);
    for (int w = 0; w < 2; w++) {
        cgrpo_forward_extras e;
        cgrpo_forward_extras_init(&e, sizeof e);
        e.old_velocity = &m->u[w]->tensor, e.reference_velocity = &m->w[w]->tensor, e.nft_beta = 0.3;
        e.absolute = numbers[w][0], e.old_distance = numbers[w][1], e.reference_distance = numbers[w][2];
        e.positive_distance = numbers[w][3], e.negative_absolute = numbers[w][4];
        e.old_divergence = numbers[w][5], e.reference_divergence = numbers[w][6];
        e.grad_positive_distance = grad, e.grad_reference_divergence = grad, e.grad_old_divergence = grad;
        CHECK_OK(cgrpo_forward_distance(&m->x->tensor, &m->v[w]->tensor, noise, 2, 2, &e, distance[w], grad,
                                        &gradient[w]->tensor));
    }
    CHECK_SAME_BITS(distance[0], distance[1], sizeof distance[0]);
    CHECK_SAME_BITS(numbers[0], numbers[1], sizeof numbers[0]);
    check_rounded(gradient);
}

static void narrow_velocities_give_the_bits_of_wide_ones(void) {
    for (int t = 0; t < 2; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            mixed m = mixed_new(types[t], sizes[s], 1 + (int32_t)s % 3);
            const cgrpo_step_extras *none[2] = {NULL, NULL}, *both[2];
            cgrpo_step_extras guided[2];
            for (int w = 0; w < 2; w++) {
                cgrpo_step_extras_init(&guided[w], sizeof guided[w]);
                guided[w].unconditional = &m.u[w]->tensor, guided[w].guidance = 3.5;
                both[w] = &guided[w];
            }
            check_steps(&m, none, &m.noise), check_steps(&m, none, &m.given);
            check_steps(&m, both, &m.noise), check_steps(&m, both, &m.given);
            check_gradients(&m, none), check_gradients(&m, both);
            check_distances(&m, &m.noise), check_distances(&m, &m.given);
            mixed_free(&m);
        }
}

static void second_order_steps_take_an_image_of_the_latents_type(void) {
    for (int t = 0; t < 2; t++)
        for (int with_guidance = 0; with_guidance < 2; with_guidance++) {
            mixed m = mixed_new(types[t], 1031, 1);
            cgrpo_step_extras extras[2];
            const cgrpo_step_extras *both[2] = {&extras[0], &extras[1]};
            cgrpo_sampler_destroy(m.sampler);
            m.sampler = sampler_new(T, CGRPO_DYNAMICS_DPM_SDE, 0.7, 1);
            for (int w = 0; w < 2; w++) {
                cgrpo_step_extras_init(&extras[w], sizeof extras[w]);
                extras[w].previous_image = &m.image->tensor;
                if (with_guidance) extras[w].unconditional = &m.u[w]->tensor, extras[w].guidance = 2;
            }
            check_steps(&m, both, &m.noise);
            if (with_guidance) check_gradients(&m, both);
            mixed_free(&m);
        }
}

static void trajectories_of_strided_velocities_give_the_bits_of_wide_ones(void) {
    enum { n = 5, D = 1031 };
    for (int t = 0; t < 2; t++) {
        cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 2);
        array *x = array_filled(CGRPO_TYPE_F32, B, n + 1, D, 1), *v[2], *gradient[2];
        double log_probs[2][B * n], upstream[B * n];
        for (int i = 0; i < B * n; i++) upstream[i] = i % n == 2 ? 0 : 100 * scattered(8, (uint64_t)i);
        v[0] = array_filled(types[t], B, n, D, 2), v[1] = array_as(CGRPO_TYPE_F32, v[0]);
        like(v, gradient);
        for (int w = 0; w < 2; w++) {
            CHECK_OK(cgrpo_trajectory_log_probs(sampler, 1, NULL, &x->tensor, &v[w]->tensor, log_probs[w]));
            CHECK_OK(cgrpo_trajectory_log_probs_vjp(sampler, 1, NULL, &x->tensor, &v[w]->tensor, upstream,
                                                    &gradient[w]->tensor));
        }
        CHECK_SAME_BITS(log_probs[0], log_probs[1], sizeof log_probs[0]);
        for (int step = 0; step < n; step++) { /* a column of each: rows that are not neighbours */
            array *at = array_column(x, step), *to = array_column(x, step + 1), *column = array_column(v[0], step);
            double one[B];
            CHECK_OK(cgrpo_log_prob(sampler, 1 + step, &at->tensor, &column->tensor, NULL, &to->tensor, one));
            for (int i = 0; i < B; i++) CHECK_SAME_BITS(&one[i], &log_probs[1][i * n + step], sizeof *one);
            free(at), free(to), free(column);
        }
        check_rounded(gradient);
        array_free(x), array_free(v[0]), array_free(v[1]);
        cgrpo_sampler_destroy(sampler);
    }
}

/* v = 0.9 x, rounded to the type that the rollout asks for and no further. */
static int halved(void *user, int64_t step, double sigma, const cgrpo_tensor *x, const cgrpo_tensor *v) {
    (void)step, (void)sigma;
    if (v->type != *(cgrpo_type *)user) return 1;
    const int64_t D = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++)
        for (int64_t e = 0; e < D; e++) {
            const float value = 0.9f * ((const float *)x->data)[i * x->strides[0] + e];
            const int64_t at = i * v->strides[0] + e;
            if (v->type == CGRPO_TYPE_BF16) ((uint16_t *)v->data)[at] = bf16_bits(value);
            else ((float *)v->data)[at] = float_of_bits((uint32_t)bf16_bits(value) << 16);
        }
    return 0;
}

static void a_rollout_takes_its_velocities_in_the_type_that_it_names(void) {
    enum { D = 65 };
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_type type[2] = {CGRPO_TYPE_BF16, CGRPO_TYPE_F32};
    array *x[2];
    double log_probs[2][B * (T - 1)];
    cgrpo_noise noise;
    cgrpo_trajectory trajectory;
    cgrpo_noise_init(&noise, sizeof noise);
    for (int w = 0; w < 2; w++) {
        x[w] = array_new(CGRPO_TYPE_F32, B, T + 1, D);
        array *first = array_column(x[w], 0);
        CHECK_OK(cgrpo_normal(1, NULL, -1, 1, &first->tensor));
        free(first);
        cgrpo_trajectory_init(&trajectory, sizeof trajectory);
        trajectory.latents = x[w]->tensor, trajectory.log_probs = log_probs[w];
        trajectory.velocity_type = w == 0 ? CGRPO_TYPE_BF16 : 0;
        CHECK_OK(cgrpo_rollout(sampler, &trajectory, T, &noise, halved, &type[w]));
    }
    CHECK(same_bits(x[0], x[1]));
    CHECK_SAME_BITS(log_probs[0], log_probs[1], sizeof log_probs[0]);
    trajectory.position = 0, trajectory.velocity_type = CGRPO_TYPE_F64;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, halved, &type[1]), CGRPO_WRONG_TYPE,
                  "velocity is float64, but the latents are float32: make it float32, bfloat16 or float16");
    trajectory.velocity_type = 9;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, halved, &type[1]), CGRPO_INVALID_ARGUMENT,
                  "trajectory.velocity_type = 9");
    trajectory.velocity_type = 0, trajectory.reserved = 1;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, halved, &type[1]), CGRPO_INVALID_ARGUMENT,
                  "trajectory.reserved = 1");
    array_free(x[0]), array_free(x[1]);
    cgrpo_sampler_destroy(sampler);
}

static void other_mixtures_are_refused(void) {
    const cgrpo_type all[] = {CGRPO_TYPE_F32, CGRPO_TYPE_F64, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
    double numbers[B];
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    for (int l = 0; l < 4; l++)
        for (int j = 0; j < 4; j++) {
            array *x = array_filled(all[l], B, 8, 0, 1), *v = array_filled(all[j], B, 8, 0, 2);
            const cgrpo_status status = cgrpo_log_prob(sampler, k, &x->tensor, &v->tensor, NULL, &x->tensor, numbers);
            CHECK(status == (l == j || (l == 0 && j > 1) ? CGRPO_OK : CGRPO_WRONG_TYPE));
            array_free(x), array_free(v);
        }
    mixed m = mixed_new(CGRPO_TYPE_BF16, 8, 1);
    array *wide = array_new(CGRPO_TYPE_F32, B, 8, 0), *half = array_new(CGRPO_TYPE_F16, B, 8, 0);
    cgrpo_step_extras extras;
    cgrpo_forward_extras others;
    cgrpo_step_extras_init(&extras, sizeof extras);
    cgrpo_forward_extras_init(&others, sizeof others);
    extras.unconditional = &half->tensor, others.old_velocity = &wide->tensor;
    const cgrpo_tensor *x = &m.x->tensor, *v = &m.v[0]->tensor;
    CHECK_REFUSED(cgrpo_log_prob_vjp(m.sampler, k, x, v, NULL, x, grad, &wide->tensor, NULL, NULL), CGRPO_WRONG_TYPE,
                  "grad_velocity is float32, but velocity is bfloat16");
    CHECK_REFUSED(cgrpo_log_prob(m.sampler, k, x, v, &extras, x, numbers), CGRPO_WRONG_TYPE,
                  "unconditional is float16, but velocity is bfloat16");
    CHECK_REFUSED(cgrpo_step(m.sampler, k, x, v, NULL, &m.noise, &half->tensor, NULL, NULL), CGRPO_WRONG_TYPE,
                  "next_latents is float16, but the latents are float32");
    CHECK_REFUSED(cgrpo_forward_distance(x, v, &m.noise, 0, 1, &others, numbers, NULL, NULL), CGRPO_WRONG_TYPE,
                  "old_velocity is float32, but velocity is bfloat16");
    array_free(wide), array_free(half), mixed_free(&m);
    cgrpo_sampler_destroy(sampler);
}

/* An array of another element size at the same place is not the same array: later blocks would read what was written.
 */
static void a_gradient_may_take_its_velocitys_place_and_no_others(void) {
    mixed m = mixed_new(CGRPO_TYPE_BF16, 1031, 1);
    array *gradient = array_new(CGRPO_TYPE_BF16, B, 1031, 0);
    cgrpo_tensor *x = &m.x->tensor, *v = &m.v[0]->tensor, on_latents = *v, on_next = *v, next_on_velocity = *x;
    on_latents.data = x->data, on_next.data = m.next->tensor.data, next_on_velocity.data = v->data;
    CHECK_REFUSED(cgrpo_log_prob_vjp(m.sampler, k, x, v, NULL, &m.next->tensor, grad, &on_latents, NULL, NULL),
                  CGRPO_INVALID_ARGUMENT, "grad_velocity overlaps latents");
    CHECK_REFUSED(cgrpo_log_prob_vjp(m.sampler, k, x, v, NULL, &m.next->tensor, grad, &on_next, NULL, NULL),
                  CGRPO_INVALID_ARGUMENT, "grad_velocity overlaps next_latents");
    next_on_velocity.shape = (const int64_t[]){1, 515}; /* what fits */
    cgrpo_tensor one = *x, velocity = *v;
    one.shape = velocity.shape = next_on_velocity.shape;
    CHECK_REFUSED(cgrpo_step(m.sampler, k, &one, &velocity, NULL, &m.noise, &next_on_velocity, NULL, NULL),
                  CGRPO_INVALID_ARGUMENT, "next_latents overlaps velocity");
    CHECK_OK(cgrpo_log_prob_vjp(m.sampler, k, x, v, NULL, &m.next->tensor, grad, &gradient->tensor, NULL, NULL));
    CHECK_OK(cgrpo_log_prob_vjp(m.sampler, k, x, v, NULL, &m.next->tensor, grad, v, NULL, NULL));
    CHECK(same_bits(gradient, m.v[0]));
    array_free(gradient), mixed_free(&m);
}

static void a_gradient_too_large_for_its_type_is_refused(void) {
    mixed m = mixed_new(CGRPO_TYPE_F16, 33, 1);
    array *gradient = array_new(CGRPO_TYPE_F16, B, 33, 0);
    const double large[B] = {1, 1e9, 1};
    CHECK_REFUSED(cgrpo_log_prob_vjp(m.sampler, k, &m.x->tensor, &m.v[0]->tensor, NULL, &m.next->tensor, large,
                                     &gradient->tensor, NULL, NULL),
                  CGRPO_NON_FINITE, "of sample 1 at step 4 makes a gradient too large for float16");
    set(m.v[0], 33 + 5, 0), ((uint16_t *)m.v[0]->tensor.data)[33 + 5] = 0x7c00;
    CHECK_REFUSED(cgrpo_step(m.sampler, k, &m.x->tensor, &m.v[0]->tensor, NULL, &m.noise, &m.next->tensor, NULL, NULL),
                  CGRPO_NON_FINITE, "sample 1");
    array_free(gradient), mixed_free(&m);
}

int main(void) {
    RUN(narrow_velocities_give_the_bits_of_wide_ones);
    RUN(second_order_steps_take_an_image_of_the_latents_type);
    RUN(trajectories_of_strided_velocities_give_the_bits_of_wide_ones);
    RUN(a_rollout_takes_its_velocities_in_the_type_that_it_names);
    RUN(other_mixtures_are_refused);
    RUN(a_gradient_may_take_its_velocitys_place_and_no_others);
    RUN(a_gradient_too_large_for_its_type_is_refused);
    return finish("mixed");
}
