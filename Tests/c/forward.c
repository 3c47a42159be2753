/* The forward process: noised latents, distances and their gradients, against the formulas of the header, computed
 * here. */
#include "arrays.h"

enum { B = 3, D = 37 };
static const cgrpo_type types[] = {CGRPO_TYPE_F64, CGRPO_TYPE_F32, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
static const double times[B] = {1, 0.25, 1e-3};
static const uint64_t ids[B] = {7, 7, 1ull << 60};

static cgrpo_noise noise_given(const array *e) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.given = &e->tensor;
    return noise;
}

static cgrpo_noise noise_drawn(uint64_t seed, const uint64_t *sample_ids) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = seed, noise.sample_ids = sample_ids;
    return noise;
}

static int same(const array *a, const array *b) {
    return memcmp(a->tensor.data, b->tensor.data, (size_t)(a->count * element_size(a->tensor.type))) == 0;
}

/* One sample or more of an array, as an array of its own. */
static cgrpo_tensor rows(const array *a, int64_t from, int64_t *shape) {
    cgrpo_tensor part = a->tensor;
    shape[1] = a->shape[1];
    part.shape = shape;
    part.data = (char *)a->tensor.data + from * a->shape[1] * element_size(a->tensor.type);
    return part;
}

static void noised_latents_are_their_formula_in_every_type(void) {
    static const double tolerance[] = {1e-15, 1e-7, 1.0 / 128, 1.0 / 1024};
    for (int t = 0; t < 4; t++) {
        array *x = array_filled(types[t], B, D, 0, 1), *e = array_filled(types[t], B, D, 0, 2),
              *out = array_new(types[t], B, D, 0);
        cgrpo_noise noise = noise_given(e);
        CHECK_OK(cgrpo_forward_noised(&x->tensor, times, &noise, 0, 1, &out->tensor));
        for (int64_t i = 0; i < B * D; i++)
            CHECK_NEAR(get(out, i), (1 - times[i / D]) * get(x, i) + times[i / D] * get(e, i), tolerance[t]);
        CHECK_OK(cgrpo_forward_noised(&x->tensor, times, &noise, 0, 1, &x->tensor));
        CHECK(same(x, out)); /* in place */
    }
}

/* e itself: x_t at t = 1. */
static array *noise_of(cgrpo_type type, int64_t elements, const uint64_t *sample_ids, int64_t draw) {
    static const double ones[B] = {1, 1, 1};
    array *zeros = array_new(type, B, elements, 0), *e = array_new(type, B, elements, 0);
    cgrpo_noise noise = noise_drawn(5, sample_ids);
    CHECK_OK(cgrpo_forward_noised(&zeros->tensor, ones, &noise, draw, 1, &e->tensor));
    return e;
}

static void the_noise_of_a_draw_is_that_of_no_other_draw_and_of_no_step(void) {
    const int64_t draws[] = {0, 1, 2, 1000000, (1 << 29) - 1};
    array *e[5], *step = array_new(CGRPO_TYPE_F32, B, D, 0);
    for (int i = 0; i < 5; i++) {
        e[i] = noise_of(CGRPO_TYPE_F32, D, ids, draws[i]);
        for (int j = 0; j < i; j++) CHECK(!same(e[i], e[j]));
        for (int64_t k = -1; k < 20; k++) {
            CHECK_OK(cgrpo_normal(5, ids, k, 1, &step->tensor));
            CHECK(!same(e[i], step));
        }
        CHECK_OK(cgrpo_normal(5, ids, draws[i], 1, &step->tensor));
        CHECK(!same(e[i], step));
        /* Samples with one id share their noise. */
        CHECK_SAME_BITS(e[i]->tensor.data, (float *)e[i]->tensor.data + D, D * sizeof(float));
        CHECK(memcmp(e[i]->tensor.data, (float *)e[i]->tensor.data + 2 * D, D * sizeof(float)) != 0);
    }
}

/* Everything that cgrpo_forward_distance writes and reads beside tensors. */
static struct numbers {
    double distance[B], absolute[B], old_distance[B], old_absolute[B], reference_distance[B], positive[B],
        positive_absolute[B], negative[B], negative_absolute[B], old_divergence[B], reference_divergence[B];
} out;
static const double g[5][B] = {
    {0.7, -1.3, 0.01}, {0.3, 0.2, -0.6}, {-0.1, 0.8, 0.4}, {0.05, -0.2, 1}, {0.9, 0.1, -0.3}};

static cgrpo_forward_extras extras_of(const array *old, const array *reference, double beta, struct numbers *n) {
    cgrpo_forward_extras extras;
    cgrpo_forward_extras_init(&extras, sizeof extras);
    extras.absolute = n->absolute;
    if (old != NULL) {
        extras.old_velocity = &old->tensor, extras.nft_beta = beta;
        extras.old_distance = n->old_distance, extras.old_absolute = n->old_absolute;
        extras.old_divergence = n->old_divergence;
        extras.positive_distance = n->positive, extras.positive_absolute = n->positive_absolute;
        extras.negative_distance = n->negative, extras.negative_absolute = n->negative_absolute;
    }
    if (reference != NULL) {
        extras.reference_velocity = &reference->tensor;
        extras.reference_distance = n->reference_distance, extras.reference_divergence = n->reference_divergence;
    }
    return extras;
}

static void with_gradients(cgrpo_forward_extras *extras) {
    if (extras->old_velocity != NULL)
        extras->grad_positive_distance = g[1], extras->grad_negative_distance = g[2],
        extras->grad_old_divergence = g[3];
    if (extras->reference_velocity != NULL) extras->grad_reference_divergence = g[4];
}

static double mean_of(int64_t row, const array *x, const array *e, const array *a, double p, const array *b, double q,
                      int power) {
    double sum = 0;
    for (int64_t i = row * D; i < (row + 1) * D; i++) {
        double u = x == NULL ? 0 : get(e, i) - get(x, i);
        double d = fabs(p * get(a, i) + (b == NULL ? 0 : q * get(b, i)) - u);
        sum += power == 2 ? d * d : d;
    }
    return sum / D;
}

static void distances_are_their_definitions_in_every_type(void) {
    static const double tolerance[] = {1e-14, 1e-6, 1e-6, 1e-6}; /* u is not rounded to the latents' type */
    const double beta = 0.3;
    for (int t = 0; t < 4; t++) {
        array *x = array_filled(types[t], B, D, 0, 1), *e = array_filled(types[t], B, D, 0, 2),
              *v = array_filled(types[t], B, D, 0, 3), *old = array_filled(types[t], B, D, 0, 4),
              *ref = array_filled(types[t], B, D, 0, 5);
        cgrpo_noise noise = noise_given(e);
        cgrpo_forward_extras extras = extras_of(old, ref, beta, &out);
        double plain[B];
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, &extras, out.distance, NULL, NULL));
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, NULL, plain, NULL, NULL));
        CHECK_SAME_BITS(plain, out.distance, sizeof plain);
        for (int64_t i = 0; i < B; i++) {
            const double of = tolerance[t];
            CHECK_NEAR(out.distance[i], mean_of(i, x, e, v, 1, NULL, 0, 2), of);
            CHECK_NEAR(out.absolute[i], mean_of(i, x, e, v, 1, NULL, 0, 1), of);
            CHECK_NEAR(out.old_distance[i], mean_of(i, x, e, old, 1, NULL, 0, 2), of);
            CHECK_NEAR(out.old_absolute[i], mean_of(i, x, e, old, 1, NULL, 0, 1), of);
            CHECK_NEAR(out.reference_distance[i], mean_of(i, x, e, ref, 1, NULL, 0, 2), of);
            CHECK_NEAR(out.positive[i], mean_of(i, x, e, v, beta, old, 1 - beta, 2), of);
            CHECK_NEAR(out.positive_absolute[i], mean_of(i, x, e, v, beta, old, 1 - beta, 1), of);
            CHECK_NEAR(out.negative[i], mean_of(i, x, e, v, -beta, old, 1 + beta, 2), of);
            CHECK_NEAR(out.negative_absolute[i], mean_of(i, x, e, v, -beta, old, 1 + beta, 1), of);
            CHECK_NEAR(out.old_divergence[i], mean_of(i, NULL, NULL, v, 1, old, -1, 2), of);
            CHECK_NEAR(out.reference_divergence[i], mean_of(i, NULL, NULL, v, 1, ref, -1, 2), of);
        }
    }
}

static double weighted(const struct numbers *n, int extras) {
    double sum = 0;
    for (int i = 0; i < B; i++) {
        sum += g[0][i] * n->distance[i];
        if (extras & 1) sum += g[1][i] * n->positive[i] + g[2][i] * n->negative[i] + g[3][i] * n->old_divergence[i];
        if (extras & 2) sum += g[4][i] * n->reference_divergence[i];
    }
    return sum;
}

static void gradients_are_finite_differences_with_any_extras(void) {
    const double h = 1e-6;
    array *x = array_filled(CGRPO_TYPE_F64, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F64, B, D, 0, 3),
          *old = array_filled(CGRPO_TYPE_F64, B, D, 0, 4), *ref = array_filled(CGRPO_TYPE_F64, B, D, 0, 5),
          *gradient = array_new(CGRPO_TYPE_F64, B, D, 0);
    cgrpo_noise noise = noise_drawn(3, ids);
    for (int kind = 0; kind < 4; kind++) {
        cgrpo_forward_extras extras = extras_of(kind & 1 ? old : NULL, kind & 2 ? ref : NULL, 0.4, &out);
        with_gradients(&extras);
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 9, 1, &extras, out.distance, g[0],
                                        &gradient->tensor));
        extras = extras_of(kind & 1 ? old : NULL, kind & 2 ? ref : NULL, 0.4, &out);
        for (int64_t i = 0; i < B * D; i += 5) {
            const double at = get(v, i);
            double moved[2];
            for (int side = 0; side < 2; side++) {
                set(v, i, side ? at + h : at - h);
                CHECK_OK(
                    cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 9, 1, &extras, out.distance, NULL, NULL));
                moved[side] = weighted(&out, kind);
            }
            set(v, i, at);
            CHECK_NEAR(get(gradient, i) * D, (moved[1] - moved[0]) / (2 * h) * D, 1e-7);
        }
    }
}

static void gradients_are_near_in_every_type_and_may_be_written_in_place(void) {
    static const double tolerance[] = {1e-15, 1e-6, 1.0 / 64, 1.0 / 512};
    for (int t = 0; t < 4; t++)
        for (int kind = 0; kind < 4; kind++) {
            array *x = array_filled(types[t], B, D, 0, 1), *e = array_filled(types[t], B, D, 0, 2),
                  *v = array_filled(types[t], B, D, 0, 3), *old = array_filled(types[t], B, D, 0, 4),
                  *ref = array_filled(types[t], B, D, 0, 5), *gradient = array_new(types[t], B, D, 0);
            const double b = 0.4;
            cgrpo_noise noise = noise_given(e);
            cgrpo_forward_extras extras = extras_of(kind & 1 ? old : NULL, kind & 2 ? ref : NULL, b, &out);
            with_gradients(&extras);
            CHECK_OK(
                cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, &extras, NULL, g[0], &gradient->tensor));
            for (int64_t j = 0; j < B * D; j++) {
                int64_t i = j / D;
                double u = get(e, j) - get(x, j), p = get(v, j) - u, q = get(old, j) - u, sum = g[0][i] * p;
                if (kind & 1)
                    sum += b * (g[1][i] * (b * p + (1 - b) * q) - g[2][i] * ((1 + b) * q - b * p)) + g[3][i] * (p - q);
                if (kind & 2) sum += g[4][i] * (get(v, j) - get(ref, j));
                CHECK_NEAR(D * get(gradient, j), 2 * sum, tolerance[t]);
            }
            array *targets[] = {v, x, e, kind & 1 ? old : v, kind & 2 ? ref : v};
            for (int i = 0; i < 3 + 2 * (kind == 3); i++) {
                size_t bytes = (size_t)(B * D * element_size(types[t]));
                void *kept = malloc(bytes);
                memcpy(kept, targets[i]->tensor.data, bytes);
                CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, &extras, NULL, g[0],
                                                &targets[i]->tensor));
                CHECK(same(targets[i], gradient));
                memcpy(targets[i]->tensor.data, kept, bytes);
                free(kept);
            }
        }
}

static void noise_made_again_is_the_noise_given(void) {
    for (int t = 0; t < 2; t++) { /* 16-bit types: given noise is rounded */
        array *x = array_filled(types[t], B, D, 0, 1), *v = array_filled(types[t], B, D, 0, 3),
              *e = noise_of(types[t], D, ids, 12), *one = array_new(types[t], B, D, 0),
              *two = array_new(types[t], B, D, 0);
        cgrpo_noise given = noise_given(e), drawn = noise_drawn(5, ids);
        double other[B];
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &given, 0, 1, NULL, out.distance, g[0], &one->tensor));
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &drawn, 12, 1, NULL, other, g[0], &two->tensor));
        CHECK_SAME_BITS(other, out.distance, sizeof other);
        CHECK(same(one, two));
    }
}

static void bits_are_the_same_for_any_threads_and_split_of_the_batch(void) {
    enum { N = 70001 };
    for (int t = 0; t < 4; t++) {
        array *x = array_filled(types[t], B, N, 0, 1), *v = array_filled(types[t], B, N, 0, 3),
              *old = array_filled(types[t], B, N, 0, 4), *ref = array_filled(types[t], B, N, 0, 5),
              *one = array_new(types[t], B, N, 0), *two = array_new(types[t], B, N, 0);
        cgrpo_noise noise = noise_drawn(5, ids);
        struct numbers again;
        cgrpo_forward_extras extras = extras_of(old, ref, 0.4, &out);
        with_gradients(&extras);
        CHECK_OK(
            cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 1, 1, &extras, out.distance, g[0], &one->tensor));
        for (int32_t threads = 2; threads < 8; threads += 5) {
            extras = extras_of(old, ref, 0.4, &again);
            with_gradients(&extras);
            CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 1, threads, &extras, again.distance, g[0],
                                            &two->tensor));
            CHECK_SAME_BITS(&out, &again, sizeof out);
            CHECK(same(one, two));
        }
        for (int64_t i = 0; i < B; i++) {
            int64_t shape[2] = {1, N};
            cgrpo_tensor part[4] = {rows(x, i, shape), rows(v, i, shape), rows(old, i, shape), rows(ref, i, shape)};
            double distance, positive, divergence;
            cgrpo_noise own = noise_drawn(5, ids + i);
            cgrpo_forward_extras_init(&extras, sizeof extras);
            extras.old_velocity = &part[2], extras.reference_velocity = &part[3], extras.nft_beta = 0.4;
            extras.positive_distance = &positive, extras.reference_divergence = &divergence;
            CHECK_OK(cgrpo_forward_distance(&part[0], &part[1], &own, 1, 1, &extras, &distance, NULL, NULL));
            CHECK(distance == out.distance[i] && positive == out.positive[i] &&
                  divergence == out.reference_divergence[i]);
        }
    }
}

static void what_is_not_finite_is_named_by_sample(void) {
    array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F32, B, D, 0, 3),
          *old = array_filled(CGRPO_TYPE_F32, B, D, 0, 4), *to = array_new(CGRPO_TYPE_F16, B, D, 0);
    cgrpo_noise noise = noise_drawn(5, NULL);
    cgrpo_forward_extras extras = extras_of(old, NULL, 0.4, &out);
    double large[B] = {1, 1, 1e8}, infinite[B] = {0, INFINITY, 0};
    set(old, 2 * D + 3, NAN);
    CHECK_REFUSED(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, &extras, out.distance, NULL, NULL),
                  CGRPO_NON_FINITE, "sample 2");
    set(v, D, INFINITY);
    CHECK_REFUSED(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, NULL, out.distance, NULL, NULL),
                  CGRPO_NON_FINITE, "sample 1");
    CHECK_REFUSED(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, NULL, NULL, infinite, &v->tensor),
                  CGRPO_NON_FINITE, "grad_distance[1]");
    set(x, 0, NAN);
    CHECK_REFUSED(cgrpo_forward_noised(&x->tensor, times, &noise, 0, 1, &v->tensor), CGRPO_NON_FINITE, "sample 0");
    x = array_filled(CGRPO_TYPE_F16, B, D, 0, 1), v = array_filled(CGRPO_TYPE_F16, B, D, 0, 3);
    CHECK_REFUSED(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, NULL, NULL, large, &to->tensor),
                  CGRPO_NON_FINITE, "sample 2");
}

int main(void) {
    RUN(noised_latents_are_their_formula_in_every_type);
    RUN(the_noise_of_a_draw_is_that_of_no_other_draw_and_of_no_step);
    RUN(distances_are_their_definitions_in_every_type);
    RUN(gradients_are_finite_differences_with_any_extras);
    RUN(gradients_are_near_in_every_type_and_may_be_written_in_place);
    RUN(noise_made_again_is_the_noise_given);
    RUN(bits_are_the_same_for_any_threads_and_split_of_the_batch);
    RUN(what_is_not_finite_is_named_by_sample);
    return finish("forward");
}
