/* Residuals that a forward pass keeps: against their formula, and gradients of them against cgrpo_log_prob_vjp's. */
#include "arrays.h"

enum { B = 3, T = 6, K = 2 };
static const cgrpo_type types[] = {CGRPO_TYPE_F32, CGRPO_TYPE_F64};
static const int64_t sizes[] = {1, 37, 1024, 1099, 40003};
static const double grad[B] = {0.5, -2, 1.25};

/* Both ways to the gradients of a step. what: 0 plain, 1 guided, 2 of mixed steps and guidances, 3 in place */
static void one_step(const cgrpo_sampler *sampler, cgrpo_type type, int64_t D, int what) {
    static const int64_t steps[B] = {4, 0, 2};
    static const double guidances[B] = {2.5, 1, 0};
    array *x = array_filled(type, B, D, 0, 1), *v = array_filled(type, B, D, 0, 2), *u = array_filled(type, B, D, 0, 3);
    array *h = array_filled(type, B, D, 0, 5), *next = array_filled(type, B, D, 0, 4), *r = array_new(type, B, D, 0);
    array *g[2] = {array_new(type, B, D, 0), array_new(type, B, D, 0)};
    array *known[2] = {array_new(type, B, D, 0), array_new(type, B, D, 0)};
    double log_prob[2][B];
    const int64_t k = what == 2 ? 0 : K;
    cgrpo_step_extras extras;
    cgrpo_step_extras_init(&extras, sizeof extras);
    extras.previous_image = &h->tensor; /* of second-order steps */
    if (what == 1) extras.guidance = 3.5;
    if (what == 2) extras.steps = steps, extras.guidances = guidances;
    if (what == 1 || what == 2) extras.unconditional = &u->tensor;
    const int guided = extras.unconditional != NULL;
    CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &v->tensor, &extras, &next->tensor, grad, &known[0]->tensor,
                                guided ? &known[1]->tensor : NULL, log_prob[0]));
    CHECK_OK(
        cgrpo_log_prob_residual(sampler, k, &x->tensor, &v->tensor, &extras, &next->tensor, &r->tensor, log_prob[1]));
    CHECK_SAME_BITS(log_prob[0], log_prob[1], sizeof log_prob[0]);
    if (what == 0) {
        double a, b, s, c;
        CHECK_OK(cgrpo_sampler_coefficients(sampler, k, &a, &b, &s, &c));
        for (int64_t i = 0; i < B * D; i++)
            CHECK_NEAR(get(r, i), get(next, i) - (a * get(x, i) + b * get(v, i) + c * get(h, i)),
                       type == CGRPO_TYPE_F64 ? 1e-14 : 1e-6);
    }
    extras.unconditional = extras.previous_image = NULL; /* which the gradient does not read */
    array *left = what == 3 ? r : g[0];
    CHECK_OK(cgrpo_residual_vjp(sampler, k, &r->tensor, &extras, grad, &left->tensor, guided ? &g[1]->tensor : NULL));
    CHECK(same_bits(left, known[0]));
    if (guided) {
        CHECK(same_bits(g[1], known[1]));
        CHECK_OK(cgrpo_residual_vjp(sampler, k, &r->tensor, &extras, grad, &r->tensor, &g[1]->tensor));
        CHECK(same_bits(r, known[0]) && same_bits(g[1], known[1]));
    }
    array *all[] = {x, v, u, h, next, r, g[0], g[1], known[0], known[1]};
    for (int i = 0; i < 10; i++) array_free(all[i]);
}

static void a_residual_is_next_less_the_mean_and_gives_the_gradient_to_the_bit(void) {
    static const cgrpo_dynamics dynamics[] = {CGRPO_DYNAMICS_FLOW_SDE, CGRPO_DYNAMICS_DPM_SDE};
    for (int32_t threads = 1; threads <= 2; threads++)
        for (int i = 0; i < 2; i++) {
            cgrpo_sampler *sampler = sampler_new(T, dynamics[i], 0.7, threads);
            for (int t = 0; t < 2; t++)
                for (int j = 0; j < 5; j++)
                    for (int what = 0; what < 4; what++) one_step(sampler, types[t], sizes[j], what);
            cgrpo_sampler_destroy(sampler);
        }
}

/* Larger than half a cache, so that it is stored past it, but not where it is written in place. */
static void large_residuals_have_the_same_bits(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 2);
    one_step(sampler, CGRPO_TYPE_F32, (1 << 21) + 32, 0);
    one_step(sampler, CGRPO_TYPE_F32, (1 << 21) + 32, 3);
    cgrpo_sampler_destroy(sampler);
}

static void residuals_of_a_trajectory_are_those_of_its_steps(void) {
    static const int64_t firsts[B] = {2, 0, 1};
    enum { n = 3 };
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_CPS, 0.6, 2);
    for (int t = 0; t < 2; t++)
        for (int j = 0; j < 5; j++)
            for (int own = 0; own < 2; own++) {
                const int64_t D = sizes[j], first = own ? 0 : 1, *each = own ? firsts : NULL;
                array *x = array_filled(types[t], B, n + 1, D, 1), *v = array_filled(types[t], B, n, D, 2);
                array *r = array_new(types[t], B, n, D), *g = array_filled(types[t], B, n, D, 3);
                array *known = array_new(types[t], B, n, D);
                double log_probs[2][B * n], up[B * n];
                for (int i = 0; i < B * n; i++) up[i] = i % n == 1 ? 0 : scattered(9, (uint64_t)i);
                up[2] = 0; /* of one sample alone */
                CHECK_OK(cgrpo_trajectory_log_probs(sampler, first, each, &x->tensor, &v->tensor, log_probs[0]));
                CHECK_OK(
                    cgrpo_trajectory_log_probs_vjp(sampler, first, each, &x->tensor, &v->tensor, up, &known->tensor));
                CHECK_OK(
                    cgrpo_trajectory_residuals(sampler, first, each, &x->tensor, &v->tensor, &r->tensor, log_probs[1]));
                CHECK_SAME_BITS(log_probs[0], log_probs[1], sizeof log_probs[0]);
                CHECK_OK(cgrpo_trajectory_residuals_vjp(sampler, first, each, &r->tensor, up, &g->tensor));
                CHECK(same_bits(g, known));
                CHECK_OK(cgrpo_trajectory_residuals_vjp(sampler, first, each, &r->tensor, up, &r->tensor));
                CHECK(same_bits(r, known));
                CHECK_OK(
                    cgrpo_trajectory_residuals(sampler, first, each, &x->tensor, &v->tensor, &v->tensor, log_probs[1]));
                CHECK_OK(cgrpo_trajectory_residuals_vjp(sampler, first, each, &v->tensor, up, &v->tensor));
                CHECK(same_bits(v, known));
                array_free(x), array_free(v), array_free(r), array_free(g), array_free(known);
            }
    cgrpo_sampler_destroy(sampler);
}

/* A shard of two, whose sums the whole has, and samples of unequal length. */
static void residuals_of_parts_are_the_wholes(void) {
    enum { D = 4096, HALF = 2048, BLOCKS = D / 1024 };
    static const int64_t lengths[B] = {1500, D, 1};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    array *next = array_filled(CGRPO_TYPE_F32, B, D, 0, 4), *r = array_new(CGRPO_TYPE_F32, B, D, 0);
    array *all[4] = {x, v, next, r}, *whole = array_new(CGRPO_TYPE_F32, B, D, 0);
    double sums[B * BLOCKS], total[B * BLOCKS] = {0}, log_prob[2][B];
    int64_t shape[] = {B, HALF}, strides[] = {D, 1};
    cgrpo_tensor a[4];
    cgrpo_part part;
    CHECK_OK(
        cgrpo_log_prob_residual(sampler, K, &x->tensor, &v->tensor, NULL, &next->tensor, &whole->tensor, log_prob[0]));
    for (int rank = 0; rank < 3; rank++) { /* the third call has the sums */
        cgrpo_part_init(&part, sizeof part);
        part.first_element = rank == 1 ? HALF : 0, part.total_elements = D, part.sums = rank == 2 ? total : sums;
        part.reduced = rank == 2;
        for (int i = 0; i < 4; i++) {
            a[i] = all[i]->tensor, a[i].shape = shape, a[i].strides = strides, a[i].part = &part;
            a[i].data = (float *)all[i]->tensor.data + part.first_element;
        }
        CHECK_OK(cgrpo_log_prob_residual(sampler, K, &a[0], &a[1], NULL, &a[2], &a[3], rank == 2 ? log_prob[1] : NULL));
        for (int i = 0; i < B * BLOCKS; i++) total[i] += rank == 2 ? 0 : sums[i];
    }
    CHECK(same_bits(r, whole));
    CHECK_SAME_BITS(log_prob[0], log_prob[1], sizeof log_prob[0]);

    cgrpo_part_init(&part, sizeof part), part.lengths = lengths;
    for (int i = 0; i < 4; i++) all[i]->tensor.part = &part;
    array *g = array_filled(CGRPO_TYPE_F32, B, D, 0, 9);
    g->tensor.part = whole->tensor.part = &part;
    CHECK_OK(cgrpo_log_prob_vjp(sampler, K, &x->tensor, &v->tensor, NULL, &next->tensor, grad, &whole->tensor, NULL,
                                log_prob[0]));
    CHECK_OK(cgrpo_log_prob_residual(sampler, K, &x->tensor, &v->tensor, NULL, &next->tensor, &r->tensor, log_prob[1]));
    CHECK_SAME_BITS(log_prob[0], log_prob[1], sizeof log_prob[0]);
    CHECK_OK(cgrpo_residual_vjp(sampler, K, &r->tensor, NULL, grad, &g->tensor, NULL));
    CHECK(same_bits(g, whole));
    cgrpo_sampler_destroy(sampler);
}

static void what_would_be_wrong_is_refused(void) {
    enum { D = 5 };
    const cgrpo_status BAD = CGRPO_INVALID_ARGUMENT;
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1), *ode = sampler_new(T, 1, 0, 1);
    const double large[B] = {1, 1e300, 1};
    double log_prob[B];
    for (int t = CGRPO_TYPE_BF16; t <= CGRPO_TYPE_F16; t++) { /* rounded */
        array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *v = array_filled(t, B, D, 0, 2);
        CHECK_REFUSED(
            cgrpo_log_prob_residual(sampler, K, &x->tensor, &v->tensor, NULL, &x->tensor, &v->tensor, log_prob),
            CGRPO_WRONG_TYPE, "residual|rounded|log_prob_vjp");
        CHECK_REFUSED(cgrpo_residual_vjp(sampler, K, &v->tensor, NULL, grad, &v->tensor, NULL), CGRPO_WRONG_TYPE,
                      "residual|rounded");
        array_free(x), array_free(v);
    }
    array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *r = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    array *g = array_new(CGRPO_TYPE_F32, B, D, 0), *wide = array_new(CGRPO_TYPE_F64, B, D, 0);
    const cgrpo_tensor *X = &x->tensor, *R = &r->tensor, *G = &g->tensor;
    CHECK_REFUSED(cgrpo_log_prob_residual(ode, K, X, X, NULL, X, R, log_prob), BAD, "deterministic");
    CHECK_REFUSED(cgrpo_residual_vjp(ode, K, R, NULL, grad, G, NULL), BAD, "deterministic");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, K, X, X, NULL, X, &wide->tensor, log_prob), CGRPO_WRONG_TYPE,
                  "residual");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, K, R, NULL, grad, &wide->tensor, NULL), CGRPO_WRONG_TYPE,
                  "grad_velocity");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, K, R, NULL, grad, G, G), BAD,
                  "grad_unconditional overlaps grad_velocity");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, K, R, NULL, grad, G, R), BAD, "grad_unconditional overlaps residual");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, K, R, NULL, large, G, NULL), CGRPO_NON_FINITE,
                  "grad_log_prob of sample 1 at step 2");
    set(r, 2 * D + 1, NAN);
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, K, R, NULL, grad, G, NULL), CGRPO_NON_FINITE,
                  "residual of sample 2 at step 2");
    set(x, D, NAN);
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, K, X, X, NULL, X, R, log_prob), CGRPO_NON_FINITE,
                  "sample 1 at step 2");
    cgrpo_sampler_destroy(sampler), cgrpo_sampler_destroy(ode);
}

int main(void) {
    RUN(a_residual_is_next_less_the_mean_and_gives_the_gradient_to_the_bit);
    RUN(large_residuals_have_the_same_bits);
    RUN(residuals_of_a_trajectory_are_those_of_its_steps);
    RUN(residuals_of_parts_are_the_wholes);
    RUN(what_would_be_wrong_is_refused);
    return finish("residual");
}
