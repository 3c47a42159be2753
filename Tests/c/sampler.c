/* Schedules, one step, log-probability and its vector-Jacobian product: against the formulas of the header, computed
 * here. */
#include "arrays.h"

#include <time.h>

#ifdef __linux__
#include <sys/resource.h>
#endif

enum { T = 17, B = 3, D = 37 };
static const double eta = 0.7;
static const double pi = 3.14159265358979323846;
static const cgrpo_type types[] = {CGRPO_TYPE_F64, CGRPO_TYPE_F32, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
static const cgrpo_dynamics dynamics[] = {CGRPO_DYNAMICS_FLOW_SDE, CGRPO_DYNAMICS_DANCE_SDE, CGRPO_DYNAMICS_CPS,
                                          CGRPO_DYNAMICS_ODE};

static double sigma_at(int64_t k) {
    double t = 1 - (double)k / T;
    return 3 * t / (1 + 2 * t);
}

static void formula(cgrpo_dynamics of, int64_t k, double *a, double *b, double *s) {
    double sigma = sigma_at(k), next = sigma_at(k + 1), d = sigma - next, g = eta, q;
    switch (of) {
        case CGRPO_DYNAMICS_FLOW_SDE:
            g = eta * sqrt(sigma / (1 - (k == 0 ? sigma_at(1) : sigma)));
            /* fallthrough */
        case CGRPO_DYNAMICS_DANCE_SDE:
            *a = 1 - g * g * d / (2 * sigma);
            *b = -d * (1 + g * g * (1 - sigma) / (2 * sigma));
            *s = g * sqrt(d);
            break;
        case CGRPO_DYNAMICS_CPS:
            *s = next * sin(pi * eta / 2);
            q = sqrt(next * next - *s * *s);
            *a = 1 - next + q;
            *b = -sigma * (1 - next) + (1 - sigma) * q;
            break;
        default: *a = 1, *b = -d, *s = 0;
    }
}

static double gaussian(const array *next, const array *x, const array *v, int64_t row, double a, double b, double s) {
    int64_t size = next->count / next->shape[0];
    double squares = 0;
    for (int64_t i = row * size; i < (row + 1) * size; i++) {
        double off = get(next, i) - (a * get(x, i) + b * get(v, i));
        squares += off * off;
    }
    return -squares / (2 * (double)size * s * s) - log(s) - log(2 * pi) / 2;
}

static void schedules_are_their_formulas(void) {
    double linear[T + 1], shifted[T + 1];
    CHECK_OK(cgrpo_schedule_make(T, NULL, linear));
    CHECK_OK(shifted_schedule(T, 3, shifted));
    for (int k = 0; k <= T; k++) {
        CHECK_NEAR(linear[k], 1 - (double)k / T, 1e-15);
        CHECK_NEAR(shifted[k], sigma_at(k), 1e-15);
    }
    CHECK(linear[0] == 1 && linear[T] == 0 && shifted[0] == 1 && shifted[T] == 0);
}

static void coefficients_are_their_formulas(void) {
    for (int i = 0; i < 4; i++) {
        cgrpo_sampler *sampler = sampler_new(T, dynamics[i], eta, 1);
        for (int64_t k = 0; k < T; k++) {
            double a, b, s, a1, b1, s1;
            formula(dynamics[i], k, &a, &b, &s);
            CHECK_OK(cgrpo_sampler_coefficients(sampler, k, &a1, &b1, &s1, NULL));
            CHECK_NEAR(a1, a, 1e-14);
            CHECK_NEAR(b1, b, 1e-14);
            CHECK_NEAR(s1, s, 1e-14);
        }
        cgrpo_sampler_destroy(sampler);
    }
}

static void a_last_ode_step_returns_the_predicted_image(void) {
    double sigmas[T + 1], a, b, s;
    cgrpo_sampler_options options;
    cgrpo_sampler *sampler = NULL;
    CHECK_OK(shifted_schedule(T, 3, sigmas));
    cgrpo_sampler_options_init(&options, sizeof options);
    options.last_step = CGRPO_LAST_STEP_ODE;
    for (int i = 0; i < 4; i++) {
        options.dynamics = dynamics[i];
        CHECK_OK(cgrpo_sampler_create(sigmas, T + 1, &options, &sampler));
        CHECK_OK(cgrpo_sampler_coefficients(sampler, T - 1, &a, &b, &s, NULL));
        CHECK_NEAR(a, 1, 1e-15);
        CHECK_NEAR(b, -sigma_at(T - 1), 1e-15);
        CHECK(s == 0);
        cgrpo_sampler_destroy(sampler);
    }
}

static void a_sampler_keeps_its_own_sigmas(void) {
    double sigmas[3] = {1, 0.5, 0}, a, b, s;
    cgrpo_sampler_options options;
    cgrpo_sampler *sampler = NULL;
    cgrpo_sampler_options_init(&options, sizeof options);
    options.dynamics = CGRPO_DYNAMICS_ODE;
    CHECK_OK(cgrpo_sampler_create(sigmas, 3, &options, &sampler));
    sigmas[1] = 0.9;
    CHECK_OK(cgrpo_sampler_coefficients(sampler, 0, &a, &b, &s, NULL));
    CHECK(b == -0.5);
    cgrpo_sampler_destroy(sampler);
}

static void a_step_is_its_formula_in_every_type(void) {
    /* One unit in the last place of numbers up to 4 for the narrow types; rounding errors for the wide ones. */
    static const double tolerance[] = {1e-14, 1e-6, 1.0 / 64, 1.0 / 512};
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 4; i++)
            for (int64_t k = 0; k < T; k += 4) {
                cgrpo_sampler *sampler = sampler_new(T, dynamics[i], eta, 1);
                array *x = array_filled(types[t], B, D, 0, 1), *v = array_filled(types[t], B, D, 0, 2);
                array *e = array_filled(types[t], B, D, 0, 3), *next = array_new(types[t], B, D, 0);
                double a, b, s, log_prob[B], later[B], relative_l1[B];
                cgrpo_noise noise;
                cgrpo_noise_init(&noise, sizeof noise);
                noise.given = &e->tensor;
                formula(dynamics[i], k, &a, &b, &s);
                CHECK_OK(
                    cgrpo_step(sampler, k, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, log_prob, relative_l1));
                for (int64_t j = 0; j < B * D; j++)
                    CHECK_NEAR(get(next, j), a * get(x, j) + b * get(v, j) + s * get(e, j), tolerance[t]);
                for (int64_t row = 0; row < B; row++) {
                    double moved = 0, size = 0;
                    for (int64_t j = row * D; j < (row + 1) * D; j++)
                        moved += fabs(get(next, j) - get(x, j)), size += fabs(get(x, j));
                    CHECK_NEAR(relative_l1[row], moved / D / (size / D + 1e-8),
                               types[t] == CGRPO_TYPE_F64 ? 1e-14 : 1e-5);
                    if (s == 0) CHECK(log_prob[row] == 0);
                    else
                        CHECK_NEAR(log_prob[row], gaussian(next, x, v, row, a, b, s),
                                   types[t] == CGRPO_TYPE_F64 ? 1e-13 : 1e-5);
                }
                if (s != 0) {
                    CHECK_OK(cgrpo_log_prob(sampler, k, &x->tensor, &v->tensor, NULL, &next->tensor, later));
                    CHECK_SAME_BITS(log_prob, later,
                                    sizeof later); /* the ratio is exactly 1 on the policy that sampled */
                }
                cgrpo_sampler_destroy(sampler);
            }
}

static void a_step_may_be_taken_in_place(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, 1);
    array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    array *next = array_new(CGRPO_TYPE_F32, B, D, 0);
    double apart[B], in_place[B];
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    CHECK_OK(cgrpo_step(sampler, 2, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, apart, NULL));
    CHECK_OK(cgrpo_step(sampler, 2, &x->tensor, &v->tensor, NULL, &noise, &x->tensor, in_place, NULL));
    CHECK(same_bits(x, next));
    CHECK_SAME_BITS(apart, in_place, sizeof apart);
    cgrpo_sampler_destroy(sampler);
}

static void rows_need_not_be_neighbours(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, 1);
    array *trajectory = array_filled(CGRPO_TYPE_F32, B, 3, D, 1), *v = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    array *dense = array_new(CGRPO_TYPE_F32, B, D, 0), *next = array_new(CGRPO_TYPE_F32, B, D, 0);
    array *before = array_copy(trajectory);
    array *from = array_column(trajectory, 1), *to = array_column(trajectory, 2);
    double strided_log_prob[B], dense_log_prob[B];
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    for (int64_t i = 0; i < B * D; i++) set(dense, i, get(trajectory, (i / D * 3 + 1) * D + i % D));
    CHECK_OK(cgrpo_step(sampler, 2, &dense->tensor, &v->tensor, NULL, &noise, &next->tensor, dense_log_prob, NULL));
    CHECK_OK(cgrpo_step(sampler, 2, &from->tensor, &v->tensor, NULL, &noise, &to->tensor, strided_log_prob, NULL));
    CHECK_SAME_BITS(strided_log_prob, dense_log_prob, sizeof dense_log_prob);
    for (int64_t row = 0; row < B; row++)
        for (int64_t j = 0; j < D; j++) {
            CHECK(get(trajectory, (row * 3 + 2) * D + j) == get(next, row * D + j));
            for (int64_t column = 0; column < 2; column++)
                CHECK(get(trajectory, (row * 3 + column) * D + j) == get(before, (row * 3 + column) * D + j));
        }
    cgrpo_sampler_destroy(sampler);
}

static void vjp_is_its_formula_in_every_type(void) {
    static const double tolerance[] = {1e-13, 1e-5, 1.0 / 128, 1.0 / 1024};
    static const double grad[B] = {0.5, -2, 0};
    for (int t = 0; t < 4; t++)
        for (int64_t k = 0; k < T - 1; k += 5) {
            cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, 1);
            array *x = array_filled(types[t], B, D, 0, 1), *v = array_filled(types[t], B, D, 0, 2);
            array *next = array_filled(types[t], B, D, 0, 3), *dv = array_filled(types[t], B, D, 0, 4);
            double a, b, s, log_prob[B], alone[B];
            formula(CGRPO_DYNAMICS_FLOW_SDE, k, &a, &b, &s);
            CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &v->tensor, NULL, &next->tensor, grad, &dv->tensor,
                                        NULL, log_prob));
            CHECK_OK(cgrpo_log_prob(sampler, k, &x->tensor, &v->tensor, NULL, &next->tensor, alone));
            CHECK_SAME_BITS(log_prob, alone, sizeof alone);
            for (int64_t i = 0; i < B * D; i++) {
                double off = get(next, i) - (a * get(x, i) + b * get(v, i));
                CHECK_NEAR(get(dv, i), grad[i / D] * b * off / (D * s * s), tolerance[t]);
            }
            for (int64_t row = 0; row < B; row++)
                CHECK_NEAR(log_prob[row], gaussian(next, x, v, row, a, b, s), t == 0 ? 1e-13 : 1e-5);
            cgrpo_sampler_destroy(sampler);
        }
}

/* Of the sum of grad[i] log_prob[i], by central differences in f64, in both forms. */
static void vjp_agrees_with_finite_differences(void) {
    static const double grad[B] = {0.5, -2, 1.25};
    const double h = 1e-5;
    double sigmas[T + 1];
    CHECK_OK(shifted_schedule(T, 3, sigmas));
    for (int form = CGRPO_LOG_PROB_FORM_GAUSSIAN; form <= CGRPO_LOG_PROB_FORM_SQUARED_ERROR; form++)
        for (int i = 0; i < 3; i++) {
            cgrpo_sampler *sampler = NULL;
            cgrpo_sampler_options options;
            array *x = array_filled(CGRPO_TYPE_F64, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F64, B, D, 0, 2);
            array *next = array_filled(CGRPO_TYPE_F64, B, D, 0, 3), *dv = array_new(CGRPO_TYPE_F64, B, D, 0);
            double up[B], down[B];
            cgrpo_sampler_options_init(&options, sizeof options);
            options.dynamics = dynamics[i];
            options.log_prob_form = form;
            CHECK_OK(cgrpo_sampler_create(sigmas, T + 1, &options, &sampler));
            CHECK_OK(cgrpo_log_prob_vjp(sampler, 4, &x->tensor, &v->tensor, NULL, &next->tensor, grad, &dv->tensor,
                                        NULL, NULL));
            for (int64_t j = 0; j < B * D; j += 5) {
                double middle = get(v, j);
                set(v, j, middle + h);
                CHECK_OK(cgrpo_log_prob(sampler, 4, &x->tensor, &v->tensor, NULL, &next->tensor, up));
                set(v, j, middle - h);
                CHECK_OK(cgrpo_log_prob(sampler, 4, &x->tensor, &v->tensor, NULL, &next->tensor, down));
                set(v, j, middle);
                CHECK_NEAR(get(dv, j), grad[j / D] * (up[j / D] - down[j / D]) / (2 * h), 1e-8);
            }
            cgrpo_sampler_destroy(sampler);
        }
}

static void squared_error_form_is_minus_the_mean_square(void) {
    double sigmas[T + 1], a, b, s, log_prob[B];
    cgrpo_sampler_options options;
    cgrpo_sampler *sampler = NULL;
    array *x = array_filled(CGRPO_TYPE_F64, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F64, B, D, 0, 2);
    array *next = array_filled(CGRPO_TYPE_F64, B, D, 0, 3);
    CHECK_OK(shifted_schedule(T, 3, sigmas));
    cgrpo_sampler_options_init(&options, sizeof options);
    options.dynamics = CGRPO_DYNAMICS_CPS;
    options.log_prob_form = CGRPO_LOG_PROB_FORM_SQUARED_ERROR;
    CHECK_OK(cgrpo_sampler_create(sigmas, T + 1, &options, &sampler));
    CHECK_OK(cgrpo_log_prob(sampler, 3, &x->tensor, &v->tensor, NULL, &next->tensor, log_prob));
    formula(CGRPO_DYNAMICS_CPS, 3, &a, &b, &s);
    for (int64_t row = 0; row < B; row++) {
        double squares = 0;
        for (int64_t i = row * D; i < (row + 1) * D; i++)
            squares += pow(get(next, i) - a * get(x, i) - b * get(v, i), 2);
        CHECK_NEAR(log_prob[row], -squares / D, 1e-14);
    }
    cgrpo_sampler_destroy(sampler);
}

static void a_deterministic_step_needs_no_noise_and_has_no_density(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0, 1);
    array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *v = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    array *next = array_new(CGRPO_TYPE_F32, B, D, 0);
    double log_prob[B] = {1, 1, 1};
    CHECK_OK(cgrpo_step(sampler, 5, &x->tensor, &v->tensor, NULL, NULL, &next->tensor, log_prob, NULL));
    for (int row = 0; row < B; row++) CHECK(log_prob[row] == 0);
    for (int64_t i = 0; i < B * D; i++)
        CHECK_NEAR(get(next, i), get(x, i) - (sigma_at(5) - sigma_at(6)) * get(v, i), 1e-6);
    CHECK_REFUSED(cgrpo_log_prob(sampler, 5, &x->tensor, &v->tensor, NULL, &next->tensor, log_prob),
                  CGRPO_INVALID_ARGUMENT, "step|determin|densit");
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, 5, &x->tensor, &v->tensor, NULL, &next->tensor, log_prob, &next->tensor,
                                     NULL, NULL),
                  CGRPO_INVALID_ARGUMENT, "step|determin|densit");
    cgrpo_sampler_destroy(sampler);
}

static void the_librarys_noise_can_be_made_again(void) {
    uint64_t ids[B] = {7, 123456789012345u, 8};
    for (int t = 0; t < 4; t++) {
        cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, 1);
        array *x = array_filled(types[t], B, D, 0, 1), *v = array_filled(types[t], B, D, 0, 2);
        array *e = array_new(types[t], B, D, 0), *drawn = array_new(types[t], B, D, 0),
              *given = array_new(types[t], B, D, 0);
        cgrpo_noise noise;
        cgrpo_noise_init(&noise, sizeof noise);
        noise.seed = 42;
        noise.sample_ids = ids;
        CHECK_OK(cgrpo_step(sampler, 6, &x->tensor, &v->tensor, NULL, &noise, &drawn->tensor, NULL, NULL));
        CHECK_OK(cgrpo_normal(42, ids, 6, 1, &e->tensor));
        noise.given = &e->tensor;
        CHECK_OK(cgrpo_step(sampler, 6, &x->tensor, &v->tensor, NULL, &noise, &given->tensor, NULL, NULL));
        /* Stored noise is rounded to its type; in f32 and f64, nothing is lost. */
        if (types[t] == CGRPO_TYPE_F64 || types[t] == CGRPO_TYPE_F32) CHECK(same_bits(drawn, given));
        else
            for (int64_t i = 0; i < B * D; i++) CHECK_NEAR(get(drawn, i), get(given, i), 1.0 / 32);
        cgrpo_sampler_destroy(sampler);
    }
}

static void normals_are_normal_and_depend_on_seed_id_and_step(void) {
    array *e = array_new(CGRPO_TYPE_F32, 4, 250001, 0), *other = array_new(CGRPO_TYPE_F32, 4, 250001, 0);
    uint64_t ids[4] = {3, 2, 1, 0};
    double sum = 0, squares = 0, fourths = 0, n = (double)e->count;
    array *row, *mirrored;
    CHECK_OK(cgrpo_normal(1, NULL, 0, 1, &e->tensor));
    for (int64_t i = 0; i < e->count; i++) {
        double value = get(e, i);
        sum += value, squares += value * value, fourths += value * value * value * value;
    }
    /* Five standard errors: of the mean 1, of the variance sqrt 2, of the fourth moment sqrt 96, over sqrt n. */
    CHECK_NEAR(sum / n, 0, 5 / sqrt(n));
    CHECK_NEAR(squares / n - 1, 0, 5 * sqrt(2 / n));
    CHECK_NEAR(fourths / n - 3, 0, 5 * sqrt(96 / n));
    CHECK_OK(cgrpo_normal(2, NULL, 0, 1, &other->tensor));
    CHECK(!same_bits(e, other));
    CHECK_OK(cgrpo_normal(1, NULL, 1, 1, &other->tensor));
    CHECK(!same_bits(e, other));
    CHECK_OK(cgrpo_normal(1, NULL, CGRPO_INITIAL_NOISE, 1, &other->tensor));
    CHECK(!same_bits(e, other));
    CHECK_OK(cgrpo_normal(1, ids, 0, 1, &other->tensor));
    row = array_rows(e, 0, 1), mirrored = array_rows(other, 3, 1);
    CHECK(same_bits(row, mirrored)); /* no ids are the ids 0, 1, 2 ... */
    row = array_rows(e, 1, 1);
    CHECK(!same_bits(row, mirrored));
}

/* Everything that a step and a gradient write, for one split of the batch and one thread count. */
typedef struct written {
    array *next, *dv;
    double log_prob[7], relative_l1[7], vjp_log_prob[7];
} written;

static written step_in_parts(int64_t size, int64_t part, int32_t threads) {
    static const double grad[7] = {1, -1, 0.5, 2, -0.25, 3, 1};
    static const uint64_t ids[7] = {4, 9, 2, 7, 7, 0, 1};
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, threads);
    array *x = array_filled(CGRPO_TYPE_F32, 7, size, 0, 1), *v = array_filled(CGRPO_TYPE_F32, 7, size, 0, 2);
    written w;
    memset(&w, 0, sizeof w);
    w.next = array_new(CGRPO_TYPE_F32, 7, size, 0);
    w.dv = array_new(CGRPO_TYPE_F32, 7, size, 0);
    for (int64_t first = 0; first < 7; first += part) {
        int64_t count = first + part > 7 ? 7 - first : part;
        array *xs = array_rows(x, first, count), *vs = array_rows(v, first, count);
        array *nexts = array_rows(w.next, first, count), *dvs = array_rows(w.dv, first, count);
        cgrpo_noise noise;
        cgrpo_noise_init(&noise, sizeof noise);
        noise.seed = 5;
        noise.sample_ids = ids + first;
        CHECK_OK(cgrpo_step(sampler, 3, &xs->tensor, &vs->tensor, NULL, &noise, &nexts->tensor, w.log_prob + first,
                            w.relative_l1 + first));
        CHECK_OK(cgrpo_log_prob_vjp(sampler, 3, &xs->tensor, &vs->tensor, NULL, &nexts->tensor, grad + first,
                                    &dvs->tensor, NULL, w.vjp_log_prob + first));
        free(xs), free(vs), free(nexts), free(dvs);
    }
    cgrpo_sampler_destroy(sampler);
    return w;
}

static void any_split_and_thread_count_gives_the_same_bits(void) {
    static const int64_t sizes[] = {1, 3, 64, 1021, 40003};
    for (int i = 0; i < 5; i++) {
        written whole = step_in_parts(sizes[i], 7, 1);
        for (int32_t threads = 0; threads <= 3; threads++)
            for (int64_t part = 1; part <= 7; part += 3) {
                written split = step_in_parts(sizes[i], part, threads);
                CHECK(same_bits(whole.next, split.next));
                CHECK(same_bits(whole.dv, split.dv));
                CHECK_SAME_BITS(whole.log_prob, split.log_prob, sizeof whole.log_prob);
                CHECK_SAME_BITS(whole.vjp_log_prob, split.vjp_log_prob, sizeof whole.log_prob);
                CHECK_SAME_BITS(whole.log_prob, split.vjp_log_prob, sizeof whole.log_prob);
                CHECK_SAME_BITS(whole.relative_l1, split.relative_l1, sizeof whole.log_prob);
            }
    }
}

/* Every function of one step, of a batch at steps and guidances of its own and of its samples. */
static void a_batch_of_mixed_steps_is_its_samples_one_by_one(void) {
    enum { W = 1099 };
    static const int64_t steps[B] = {11, 0, 4};
    static const double guidances[B] = {2.5, 1, 0}, grad[B] = {0.5, -2, 1.25};
    static const uint64_t ids[B] = {7, 7, 123456789012345u};
    for (int t = 0; t < 4; t++) {
        cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, 2);
        array *in[3], *out[2][5];
        double numbers[2][6][B];
        for (int i = 0; i < 3; i++) in[i] = array_filled(types[t], B, W, 0, (uint64_t)i + 1);
        for (int i = 0; i < 10; i++) out[i / 5][i % 5] = array_new(types[t], B, W, 0);
        for (int64_t first = -1; first < B; first++) { /* the whole batch, then each sample */
            const int alone = first >= 0;
            const int64_t at = alone ? first : 0, count = alone ? 1 : B, step = alone ? steps[first] : 0;
            const int64_t *const own = alone ? NULL : steps;
            array *x = array_rows(in[0], at, count), *v = array_rows(in[1], at, count),
                  *u = array_rows(in[2], at, count), *o[5];
            double(*to)[B] = numbers[alone];
            cgrpo_noise noise;
            cgrpo_step_extras extras;
            for (int i = 0; i < 5; i++) o[i] = array_rows(out[alone][i], at, count);
            cgrpo_noise_init(&noise, sizeof noise);
            noise.seed = 5, noise.sample_ids = ids + at;
            cgrpo_step_extras_init(&extras, sizeof extras);
            extras.unconditional = &u->tensor, extras.steps = own;
            if (alone) extras.guidance = guidances[first];
            else extras.guidances = guidances;
            CHECK_OK(cgrpo_step(sampler, step, &x->tensor, &v->tensor, &extras, &noise, &o[0]->tensor, to[0] + at,
                                to[1] + at));
            CHECK_OK(cgrpo_log_prob(sampler, step, &x->tensor, &v->tensor, &extras, &o[0]->tensor, to[2] + at));
            CHECK_OK(cgrpo_log_prob_vjp(sampler, step, &x->tensor, &v->tensor, &extras, &o[0]->tensor, grad + at,
                                        &o[1]->tensor, &o[2]->tensor, to[3] + at));
            CHECK_OK(cgrpo_predicted_image(sampler, step, &x->tensor, &v->tensor, &extras, &o[3]->tensor));
            CHECK_OK(cgrpo_divergence_from_velocity(sampler, step, own, CGRPO_DIVERGENCE_GAUSSIAN_PER_TIME, &v->tensor,
                                                    &u->tensor, to[4] + at, grad + at, &o[4]->tensor));
            CHECK_OK(cgrpo_divergence_from_sampled(sampler, step, own, CGRPO_DIVERGENCE_VELOCITY, &x->tensor,
                                                   &v->tensor, &noise, &o[0]->tensor, to[5] + at, NULL, NULL));
        }
        for (int i = 0; i < 5; i++) CHECK(same_bits(out[0][i], out[1][i]));
        CHECK_SAME_BITS(numbers[0], numbers[1], sizeof numbers[0]);
        cgrpo_sampler_destroy(sampler);
    }
}

/* Beyond half a cache gradients on a 32-byte boundary are stored past it; one element further they cannot be. */
static void large_gradients_are_the_same_bits_wherever_they_lie(void) {
    const cgrpo_type types[] = {CGRPO_TYPE_F32, CGRPO_TYPE_BF16};
    const int64_t size = (1 << 20) + 16;
    for (int t = 0; t < 2; t++) {
        array *x = array_filled(types[t], 4, size, 0, 1), *v = array_filled(types[t], 4, size, 0, 2);
        array *next = array_filled(types[t], 4, size, 0, 3);
        const size_t bytes = (size_t)(x->count * element_size(types[t]));
        char *memory[2] = {(char *)malloc(bytes + 64), (char *)malloc(bytes + 64)};
        double grad[4] = {0.5, -1, 2, -3}, log_prob[2][4];
        for (int32_t threads = 1; threads <= 2; threads++) {
            cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, threads);
            array gradients[2] = {*x, *x};
            for (int i = 0; i < 2; i++) {
                gradients[i].tensor.data = memory[i] + (-(uintptr_t)memory[i] & 31) + i * element_size(types[t]);
                gradients[i].tensor.shape = x->shape;
                memset(memory[i], 0, bytes + 64);
                CHECK_OK(cgrpo_log_prob_vjp(sampler, 8, &x->tensor, &v->tensor, NULL, &next->tensor, grad,
                                            &gradients[i].tensor, NULL, log_prob[i]));
            }
            CHECK(same_bits(&gradients[0], &gradients[1]));
            CHECK(get(&gradients[0], x->count - 1) != 0);
            CHECK_SAME_BITS(log_prob[0], log_prob[1], sizeof log_prob[0]);
            cgrpo_sampler_destroy(sampler);
        }
        free(memory[0]), free(memory[1]);
        free(x->tensor.data), free(v->tensor.data), free(next->tensor.data);
    }
}

static void sums_stay_accurate_for_large_latents(void) {
    const int64_t size = 2025 * 64;
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, eta, 2);
    array *x = array_filled(CGRPO_TYPE_F32, 2, size, 0, 1), *v = array_filled(CGRPO_TYPE_F32, 2, size, 0, 2);
    array *next = array_filled(CGRPO_TYPE_F32, 2, size, 0, 3);
    double a, b, s, log_prob[2];
    formula(CGRPO_DYNAMICS_FLOW_SDE, 8, &a, &b, &s);
    CHECK_OK(cgrpo_log_prob(sampler, 8, &x->tensor, &v->tensor, NULL, &next->tensor, log_prob));
    for (int64_t row = 0; row < 2; row++) CHECK_NEAR(log_prob[row], gaussian(next, x, v, row, a, b, s), 1e-6);
    cgrpo_sampler_destroy(sampler);
}

/* A sampler made again from them takes the same steps. */
static void info_makes_an_equal_sampler(void) {
    static const double sigmas[] = {1, 0.8, 0.5, 0.2, 0}, etas[] = {0.1, 0.2, 0.3, 0.4};
    static const int64_t window[] = {1, 2};
    cgrpo_sampler_options options, told;
    cgrpo_sampler *sampler, *again;
    const double *found = NULL;
    int64_t count = 0;
    cgrpo_sampler_options_init(&options, sizeof options);
    options.dynamics = CGRPO_DYNAMICS_WAN_SDE;
    options.wan_sigma_min = 0.01;
    options.log_prob_form = CGRPO_LOG_PROB_FORM_SQUARED_ERROR;
    options.last_step = CGRPO_LAST_STEP_ODE;
    options.threads = 2;
    options.etas = etas;
    options.window = window;
    options.window_count = 2;
    options.after = CGRPO_DYNAMICS_DPM_ODE;
    options.dpm_order = 1;
    CHECK_OK(cgrpo_sampler_create(sigmas, 5, &options, &sampler));
    memset(&told, 0xa5, sizeof told);
    told.struct_size = sizeof told;
    CHECK_OK(cgrpo_sampler_info(sampler, &told, &found, &count));
    CHECK(count == 5 && told.window_count == 2 && told.etas != etas && told.window != window);
    CHECK_SAME_BITS(found, sigmas, sizeof sigmas);
    CHECK_SAME_BITS(told.etas, etas, sizeof etas);
    CHECK_SAME_BITS(told.window, window, sizeof window);
    CHECK_OK(cgrpo_sampler_create(found, count, &told, &again));
    told.etas = etas, told.window = window;
    CHECK_SAME_BITS(&told, &options, sizeof told);
    for (int64_t k = 0; k < 4; k++) {
        double one[4], two[4];
        CHECK_OK(cgrpo_sampler_coefficients(sampler, k, &one[0], &one[1], &one[2], &one[3]));
        CHECK_OK(cgrpo_sampler_coefficients(again, k, &two[0], &two[1], &two[2], &two[3]));
        CHECK_SAME_BITS(one, two, sizeof one);
    }
    cgrpo_sampler_destroy(sampler), cgrpo_sampler_destroy(again);
}

/* What grows with the caller's numbers is refused with a status where there is no memory, and nothing has changed. */
static void missing_memory_is_a_status(void) {
#ifdef __linux__
    enum { steps = 1000000 };
    double *sigmas = malloc((steps + 1) * sizeof *sigmas), *times = malloc(steps * sizeof *times);
    int64_t *window = malloc(steps * sizeof *window), count = -1;
    cgrpo_schedule_options options;
    cgrpo_sampler_options with;
    cgrpo_window_options windows;
    cgrpo_sampler *sampler = NULL;
    struct rlimit before, small;
    unsigned long pages = 0;
    int refused = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!CHECK(sigmas != NULL && times != NULL && window != NULL && statm != NULL)) return;
    CHECK(fscanf(statm, "%lu", &pages) == 1);
    fclose(statm);
    cgrpo_schedule_options_init(&options, sizeof options);
    cgrpo_sampler_options_init(&with, sizeof with);
    cgrpo_window_options_init(&windows, sizeof windows);
    windows.end = windows.size = steps;
    CHECK_OK(cgrpo_schedule_make(steps, NULL, sigmas));
    for (int64_t k = 0; k < steps; k++) times[k] = 0.5, window[k] = k;
    with.etas = times;
    with.window = window;
    with.window_count = steps;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    for (int mb = 0; mb <= 16; mb += 4) {
        small = before;
        small.rlim_cur = pages * 4096UL + ((unsigned long)mb << 20);
        CHECK(setrlimit(RLIMIT_AS, &small) == 0);
        cgrpo_status made = cgrpo_schedule_make(steps, &options, sigmas);
        cgrpo_status timed = cgrpo_timesteps(sigmas, steps + 1, 1, 0, sigmas);
        cgrpo_status created = cgrpo_sampler_create(sigmas, steps + 1, &with, &sampler);
        windows.strategy = CGRPO_WINDOW_STRATEGY_PROGRESSIVE;
        cgrpo_status moved = cgrpo_window_steps(&windows, 3, window, steps, &count);
        windows.strategy = CGRPO_WINDOW_STRATEGY_SUBSET;
        windows.size = steps / 2;
        cgrpo_status drawn = cgrpo_window_steps(&windows, 3, window, steps, &count);
        windows.size = steps;
        CHECK(setrlimit(RLIMIT_AS, &before) == 0);
        cgrpo_status all[] = {made, timed, created, moved, drawn};
        for (int i = 0; i < 5; i++) {
            CHECK(all[i] == CGRPO_OK || all[i] == CGRPO_OUT_OF_MEMORY);
            refused += all[i] == CGRPO_OUT_OF_MEMORY;
        }
        CHECK(created != CGRPO_OK ? sampler == NULL : sampler != NULL);
        cgrpo_sampler_destroy(sampler);
        sampler = NULL;
        for (int64_t k = 0; k < steps; k++) window[k] = k;
    }
    CHECK(refused > 0);
    free(sigmas), free(times), free(window);
#endif
}

/* At the header's bound, whatever spreads the points: the numbers are there, and fall. */
static void a_million_steps_take_less_than_a_second(void) {
    enum { steps = 1000000 };
    double *sigmas = malloc((steps + 1) * sizeof *sigmas);
    cgrpo_schedule_options options;
    cgrpo_schedule_options_init(&options, sizeof options);
    for (options.spacing = 1; options.spacing <= CGRPO_SCHEDULE_SPACING_BETA; options.spacing++) {
        clock_t start = clock();
        if (!CHECK_OK(cgrpo_schedule_make(steps, &options, sigmas))) continue;
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        CHECK(seconds < 1);
        CHECK(sigmas[0] == 1 && sigmas[steps] == 0);
    }
    free(sigmas);
}

int main(void) {
    RUN(schedules_are_their_formulas);
    RUN(coefficients_are_their_formulas);
    RUN(a_last_ode_step_returns_the_predicted_image);
    RUN(a_sampler_keeps_its_own_sigmas);
    RUN(a_step_is_its_formula_in_every_type);
    RUN(a_step_may_be_taken_in_place);
    RUN(rows_need_not_be_neighbours);
    RUN(vjp_is_its_formula_in_every_type);
    RUN(vjp_agrees_with_finite_differences);
    RUN(squared_error_form_is_minus_the_mean_square);
    RUN(a_deterministic_step_needs_no_noise_and_has_no_density);
    RUN(the_librarys_noise_can_be_made_again);
    RUN(normals_are_normal_and_depend_on_seed_id_and_step);
    RUN(any_split_and_thread_count_gives_the_same_bits);
    RUN(a_batch_of_mixed_steps_is_its_samples_one_by_one);
    RUN(large_gradients_are_the_same_bits_wherever_they_lie);
    RUN(sums_stay_accurate_for_large_latents);
    RUN(info_makes_an_equal_sampler);
    RUN_NATIVELY(missing_memory_is_a_status);
    RUN_NATIVELY(a_million_steps_take_less_than_a_second);
    return finish("sampler");
}
