/* Every function that takes tensors, on a CUDA device that is none: see fake_cuda.cpp. Results have the CPU's bits; no
 * call waits, allocates or leaves a context behind. `tensors none`: without a driver. */
#include "device.h"

#include <pthread.h>

enum { T = 6, K = 2 };
static const cgrpo_type types[] = {CGRPO_TYPE_F32, CGRPO_TYPE_F64, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
static const struct { int64_t batch, elements; } sizes[] = {{3, 1}, {2, 1100}, {35, 70}};
#define FOR_EACH_SHAPE(...)                                                         \
    for (int i_ = 0; i_ < 4; i_++)                                                  \
        for (int j_ = 0; j_ < 3; j_++) {                                            \
            const cgrpo_type type = types[i_];                                      \
            const int64_t B = sizes[j_].batch, D = sizes[j_].elements;              \
            cgrpo_cuda cuda = queue_for(B, D, T + 1, NULL);                         \
            uint64_t ids[64];                                                       \
            double *up = (double *)malloc((size_t)(B * T) * sizeof *up);            \
            for (int64_t i = 0; i < 64; i++) ids[i] = 1000 + 77 * (uint64_t)i;      \
            (void)ids;                                                              \
            for (int64_t i = 0; i < B * T; i++) up[i] = scattered(99, (uint64_t)i); \
            __VA_ARGS__                                                             \
            free(up);                                                               \
            FINITE(&cuda);                                                          \
        }

static double *numbers(int64_t count) { return (double *)calloc((size_t)count, sizeof(double)); }

static void normals_are_the_cpus(void) {
    FOR_EACH_SHAPE(array *out = array_new(type, B, D, 0); cgrpo_tensor there = device_tensor(out, &cuda);
                   for (int own = 0; own < 2; own++) {
                       CHECK_OK(cgrpo_normal(7, own ? ids : NULL, 3, 1, &out->tensor));
                       CHECK_OK(cgrpo_normal(7, own ? ids : NULL, 3, 1, &there));
                       SAME(there, out);
                   })
}

/* One step on both. what: 0 library's noise, 1 with ids, 2 given, 3 guided, 4 mixed steps and guidances, 5 in place,
   6 no numbers */
static void one_step(cgrpo_sampler *sampler, cgrpo_type type, int64_t B, int64_t D, cgrpo_cuda *cuda, int what) {
    array *x = array_filled(type, B, D, 0, 1), *v = array_filled(type, B, D, 0, 2), *u = array_filled(type, B, D, 0, 3);
    array *e = array_filled(type, B, D, 0, 4), *next = array_new(type, B, D, 0);
    cgrpo_tensor dx = device_tensor(x, cuda), dv = device_tensor(v, cuda), du = device_tensor(u, cuda);
    cgrpo_tensor de = device_tensor(e, cuda), dnext = what == 5 ? dx : device_tensor(next, cuda);
    uint64_t ids[64];
    int64_t steps[64];
    double guidances[64], *lp = numbers(B), *l1 = numbers(B), *dlp = device_numbers(B, NULL),
                          *dl1 = device_numbers(B, NULL);
    cgrpo_noise noise;
    cgrpo_step_extras extras;
    cgrpo_noise_init(&noise, sizeof noise);
    cgrpo_step_extras_init(&extras, sizeof extras);
    for (int64_t i = 0; i < 64; i++)
        ids[i] = 5 * (uint64_t)i, steps[i] = i % T, guidances[i] = 1 + 0.25 * (double)(i % 5);
    noise.seed = 11;
    if (what == 1) noise.sample_ids = ids;
    if (what == 2) noise.given = &e->tensor;
    if (what == 3) extras.unconditional = &u->tensor, extras.guidance = 3.5;
    if (what == 4) extras.unconditional = &u->tensor, extras.steps = steps, extras.guidances = guidances;
    CHECK_OK(cgrpo_step(sampler, what == 4 ? 0 : K, &x->tensor, &v->tensor, &extras, &noise,
                        what == 5 ? &x->tensor : &next->tensor, what == 6 ? NULL : lp, what % 2 ? l1 : NULL));
    if (noise.given != NULL) noise.given = &de;
    if (extras.unconditional != NULL) extras.unconditional = &du;
    CHECK_OK(cgrpo_step(sampler, what == 4 ? 0 : K, &dx, &dv, &extras, &noise, &dnext, what == 6 ? NULL : dlp,
                        what % 2 ? dl1 : NULL));
    /* What the caller had is his again. */
    memset(ids, 0xff, sizeof ids), memset(steps, 0xff, sizeof steps), memset(guidances, 0xff, sizeof guidances);
    SAME(dnext, what == 5 ? x : next);
    if (what != 6) SAME_NUMBERS(dlp, lp, B);
    if (what % 2) SAME_NUMBERS(dl1, l1, B);
}

static void steps_are_the_cpus(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    FOR_EACH_SHAPE(for (int what = 0; what < 7; what++) one_step(sampler, type, B, D, &cuda, what);)
    cgrpo_sampler_destroy(sampler);
}

/* what: 0 plain, 1 guided with both gradients, 2 mixed steps */
static cgrpo_step_extras extras_of(int what, const array *u) {
    static int64_t steps[64];
    cgrpo_step_extras extras;
    cgrpo_step_extras_init(&extras, sizeof extras);
    for (int64_t i = 0; i < 64; i++) steps[i] = i % (T - 1);
    if (what == 1) extras.unconditional = &u->tensor, extras.guidance = 2;
    if (what == 2) extras.steps = steps;
    return extras;
}

static void one_gradient(cgrpo_sampler *sampler, cgrpo_type type, int64_t B, int64_t D, cgrpo_cuda *cuda, double *up,
                         int what) {
    array *x = array_filled(type, B, D, 0, 1), *v = array_filled(type, B, D, 0, 2), *u = array_filled(type, B, D, 0, 3);
    array *next = array_filled(type, B, D, 0, 4), *g = array_new(type, B, D, 0), *gu = array_new(type, B, D, 0);
    cgrpo_tensor dx = device_tensor(x, cuda), dv = device_tensor(v, cuda), du = device_tensor(u, cuda);
    cgrpo_tensor dnext = device_tensor(next, cuda), dg = device_tensor(g, cuda), dgu = device_tensor(gu, cuda);
    double *lp = numbers(B), *dlp = device_numbers(B, NULL), *dup = device_numbers(B, up);
    cgrpo_step_extras extras = extras_of(what, u);
    const int64_t k = what == 2 ? 0 : K;
    CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &v->tensor, &extras, &next->tensor, up, &g->tensor,
                                what == 1 ? &gu->tensor : NULL, lp));
    if (what == 1) extras.unconditional = &du;
    CHECK_OK(cgrpo_log_prob(sampler, k, &dx, &dv, &extras, &dnext, dlp));
    SAME_NUMBERS(dlp, lp, B);
    dlp = device_numbers(B, NULL);
    CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &dx, &dv, &extras, &dnext, dup, &dg, what == 1 ? &dgu : NULL, dlp));
    SAME(dg, g);
    SAME_NUMBERS(dlp, lp, B);
    if (what == 1) SAME(dgu, gu);
    dg = device_tensor(x, cuda);
    CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &dx, &dv, &extras, &dnext, dup, &dg, NULL, NULL));
    SAME(dg, g);
}

static void log_probs_and_gradients_are_the_cpus(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_CPS, 0.6, 1);
    FOR_EACH_SHAPE(for (int what = 0; what < 3; what++) one_gradient(sampler, type, B, D, &cuda, up, what);)
    cgrpo_sampler_destroy(sampler);
}

/* Of a step, and gradients of them, in place too. what: as of one_gradient */
static void one_residual(cgrpo_sampler *sampler, cgrpo_type type, int64_t B, int64_t D, cgrpo_cuda *cuda, double *up,
                         int what) {
    array *x = array_filled(type, B, D, 0, 1), *v = array_filled(type, B, D, 0, 2), *u = array_filled(type, B, D, 0, 3);
    array *next = array_filled(type, B, D, 0, 4), *r = array_new(type, B, D, 0);
    array *g = array_new(type, B, D, 0), *gu = array_new(type, B, D, 0);
    cgrpo_tensor dx = device_tensor(x, cuda), dv = device_tensor(v, cuda), du = device_tensor(u, cuda);
    cgrpo_tensor dnext = device_tensor(next, cuda), dr = device_tensor(r, cuda);
    cgrpo_tensor dg = device_tensor(g, cuda), dgu = device_tensor(gu, cuda);
    double *lp = numbers(B), *dlp = device_numbers(B, NULL), *dup = device_numbers(B, up);
    cgrpo_step_extras extras = extras_of(what, u);
    const int64_t k = what == 2 ? 0 : K;
    CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &v->tensor, &extras, &next->tensor, up, &g->tensor,
                                what == 1 ? &gu->tensor : NULL, lp));
    CHECK_OK(cgrpo_log_prob_residual(sampler, k, &x->tensor, &v->tensor, &extras, &next->tensor, &r->tensor, lp));
    if (what == 1) extras.unconditional = &du;
    CHECK_OK(cgrpo_log_prob_residual(sampler, k, &dx, &dv, &extras, &dnext, &dr, dlp));
    SAME(dr, r);
    SAME_NUMBERS(dlp, lp, B);
    for (int in_place = 0; in_place < 2; in_place++) {
        cgrpo_tensor *to = in_place ? &dr : &dg;
        CHECK_OK(cgrpo_residual_vjp(sampler, k, &dr, &extras, dup, to, what == 1 ? &dgu : NULL));
        SAME(*to, g);
        if (what == 1) SAME(dgu, gu);
    }
}

static void residuals_are_the_cpus(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_CPS, 0.6, 1);
    enum { n = 3 };
    FOR_EACH_SHAPE(
        if (i_ > 1) break; for (int what = 0; what < 3; what++) one_residual(sampler, type, B, D, &cuda, up, what);
        array *x = array_filled(type, B, n + 1, D, 1); array *v = array_filled(type, B, n, D, 2);
        array *r = array_new(type, B, n, D); array *g = array_new(type, B, n, D);
        cgrpo_tensor dx = device_tensor(x, &cuda); cgrpo_tensor dv = device_tensor(v, &cuda);
        double *lp = numbers(B * n); int64_t firsts[64]; for (int64_t i = 0; i < 64; i++) firsts[i] = i % (T - n);
        for (int64_t i = 0; i < B; i++) up[i * n + 1] = 0; /* a step that is not trained */
        double *dup = device_numbers(B * n, up); for (int own = 0; own < 2; own++) {
            const int64_t first = own ? 0 : 1, *each = own ? firsts : NULL;
            cgrpo_tensor dr = device_tensor(r, &cuda);
            double *dlp = device_numbers(B * n, NULL);
            CHECK_OK(cgrpo_trajectory_residuals(sampler, first, each, &x->tensor, &v->tensor, &r->tensor, lp));
            CHECK_OK(cgrpo_trajectory_residuals(sampler, first, each, &dx, &dv, &dr, dlp));
            SAME(dr, r);
            SAME_NUMBERS(dlp, lp, B * n);
            if (own)
                for (int64_t i = 0; i < B; i++)
                    up[i * n + 1] = 0.5; /* where each has its step, the device does not look */
            if (own) dup = device_numbers(B * n, up);
            CHECK_OK(cgrpo_trajectory_residuals_vjp(sampler, first, each, &r->tensor, up, &g->tensor));
            CHECK_OK(cgrpo_trajectory_residuals_vjp(sampler, first, each, &dr, dup, &dr));
            SAME(dr, g);
        })
    cgrpo_sampler_destroy(sampler);
}

static void trajectories_are_the_cpus(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    enum { n = 3 };
    FOR_EACH_SHAPE(
        array *x = array_filled(type, B, n + 1, D, 1); array *v = array_filled(type, B, n, D, 2);
        array *g = array_new(type, B, n, D); cgrpo_tensor dx = device_tensor(x, &cuda);
        cgrpo_tensor dv = device_tensor(v, &cuda); double *lp = numbers(B * n); double *l1 = numbers(B * n);
        int64_t firsts[64]; for (int64_t i = 0; i < 64; i++) firsts[i] = i % (T - n + 1);
        for (int64_t i = 0; i < B; i++) up[i * n + 1] = 0; /* a step that is not trained */
        double *dup = device_numbers(B * n, up); for (int own = 0; own < 2; own++) {
            const int64_t first = own ? 0 : 1, *each = own ? firsts : NULL;
            cgrpo_tensor dg = device_tensor(g, &cuda);
            double *dlp = device_numbers(B * n, NULL);
            CHECK_OK(cgrpo_trajectory_log_probs(sampler, first, each, &x->tensor, &v->tensor, lp));
            CHECK_OK(cgrpo_trajectory_log_probs(sampler, first, each, &dx, &dv, dlp));
            SAME_NUMBERS(dlp, lp, B * n);
            if (own)
                for (int64_t i = 0; i < B; i++) up[i * n + 1] = 0.5;
            if (own) dup = device_numbers(B * n, up);
            CHECK_OK(cgrpo_trajectory_log_probs_vjp(sampler, first, each, &x->tensor, &v->tensor, up, &g->tensor));
            CHECK_OK(cgrpo_trajectory_log_probs_vjp(sampler, first, each, &dx, &dv, dup, &dg));
            SAME(dg, g);
        } double *dl1 = device_numbers(B * n, NULL);
        CHECK_OK(cgrpo_relative_l1(&x->tensor, 1, l1)); CHECK_OK(cgrpo_relative_l1(&dx, 1, dl1));
        SAME_NUMBERS(dl1, l1, B * n); array *one = array_column(x, 2);
        cgrpo_tensor there = one->tensor; /* rows that are not neighbours */
        there.data = (char *)dx.data + 2 * D * element_size(type); there.device = CGRPO_DEVICE_CUDA, there.cuda = &cuda;
        array *image = array_new(type, B, D, 0); cgrpo_tensor dimage = device_tensor(image, &cuda);
        CHECK_OK(cgrpo_predicted_image(sampler, K, &one->tensor, &one->tensor, NULL, &image->tensor));
        CHECK_OK(cgrpo_predicted_image(sampler, K, &there, &there, NULL, &dimage)); SAME(dimage, image);)
    cgrpo_sampler_destroy(sampler);
}

static void divergences_are_the_cpus(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    FOR_EACH_SHAPE(
        array *x = array_filled(type, B, D, 0, 1); array *v = array_filled(type, B, D, 0, 2);
        array *w = array_filled(type, B, D, 0, 3); array *next = array_filled(type, B, D, 0, 4);
        array *g = array_new(type, B, D, 0); cgrpo_tensor dx = device_tensor(x, &cuda);
        cgrpo_tensor dv = device_tensor(v, &cuda); cgrpo_tensor dw = device_tensor(w, &cuda);
        cgrpo_tensor dnext = device_tensor(next, &cuda); cgrpo_tensor dg = device_tensor(g, &cuda);
        double *kl = numbers(B); double *dkl = device_numbers(B, NULL); double *dup = device_numbers(B, up);
        int64_t steps[64]; cgrpo_noise noise; cgrpo_noise_init(&noise, sizeof noise);
        noise.seed = 3, noise.sample_ids = ids; for (int64_t i = 0; i < 64; i++) steps[i] = i % T;
        for (int32_t kind = 1; kind <= 4; kind++) {
            const int64_t *each = kind == 2 ? steps : NULL;
            const int64_t k = kind == 2 ? 0 : K;
            CHECK_OK(
                cgrpo_divergence_from_velocity(sampler, k, each, kind, &v->tensor, &w->tensor, kl, up, &g->tensor));
            CHECK_OK(cgrpo_divergence_from_velocity(sampler, k, each, kind, &dv, &dw, dkl, dup, &dg));
            SAME(dg, g);
            SAME_NUMBERS(dkl, kl, B);
            CHECK_OK(cgrpo_divergence_from_sampled(sampler, k, each, kind, &x->tensor, &v->tensor, &noise,
                                                   &next->tensor, kl, up, &g->tensor));
            CHECK_OK(cgrpo_divergence_from_sampled(sampler, k, each, kind, &dx, &dv, &noise, &dnext, dkl, dup, &dg));
            SAME(dg, g);
            SAME_NUMBERS(dkl, kl, B);
        })
    cgrpo_sampler_destroy(sampler);
}

/* The numbers of a distance, in the order of the extras; the first is `distance`. */
static void places(cgrpo_forward_extras *e, double **n) {
    e->absolute = n[1], e->old_distance = n[2], e->old_absolute = n[3], e->reference_distance = n[4];
    e->positive_distance = n[5], e->positive_absolute = n[6], e->negative_distance = n[7], e->negative_absolute = n[8];
    e->old_divergence = n[9], e->reference_divergence = n[10];
}

static void the_forward_process_is_the_cpus(void) {
    FOR_EACH_SHAPE(
        array *x = array_filled(type, B, D, 0, 1); array *v = array_filled(type, B, D, 0, 2);
        array *o = array_filled(type, B, D, 0, 3); array *r = array_filled(type, B, D, 0, 4);
        array *out = array_new(type, B, D, 0); cgrpo_tensor dx = device_tensor(x, &cuda);
        cgrpo_tensor dv = device_tensor(v, &cuda); cgrpo_tensor d_o = device_tensor(o, &cuda);
        cgrpo_tensor dr = device_tensor(r, &cuda); cgrpo_tensor dout = device_tensor(out, &cuda); double times[64];
        double *dup = device_numbers(B, up); double *n[11]; double *dn[11]; cgrpo_noise noise;
        cgrpo_noise_init(&noise, sizeof noise); noise.seed = 3, noise.sample_ids = ids;
        for (int i = 0; i < 64; i++) times[i] = 0.1 + 0.01 * i;
        CHECK_OK(cgrpo_forward_noised(&x->tensor, times, &noise, 5, 1, &out->tensor));
        CHECK_OK(cgrpo_forward_noised(&dx, device_numbers(B, times), &noise, 5, 1, &dout)); SAME(dout, out);
        for (int i = 0; i < 11; i++) n[i] = numbers(B), dn[i] = device_numbers(B, NULL); cgrpo_forward_extras e;
        cgrpo_forward_extras_init(&e, sizeof e); cgrpo_forward_extras de = e;
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 5, 1, NULL, n[0], up, &out->tensor));
        CHECK_OK(cgrpo_forward_distance(&dx, &dv, &noise, 5, 1, NULL, dn[0], dup, &dout)); SAME(dout, out);
        SAME_NUMBERS(dn[0], n[0], B); e.old_velocity = &o->tensor, e.reference_velocity = &r->tensor, e.nft_beta = 0.3;
        de.old_velocity = &d_o, de.reference_velocity = &dr, de.nft_beta = 0.3; places(&e, n), places(&de, dn);
        e.grad_positive_distance = e.grad_negative_distance = e.grad_reference_divergence = up;
        de.grad_positive_distance = de.grad_negative_distance = de.grad_reference_divergence = dup;
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 5, 1, &e, n[0], up, &out->tensor));
        CHECK_OK(cgrpo_forward_distance(&dx, &dv, &noise, 5, 1, &de, dn[0], dup, &dout)); SAME(dout, out);
        for (int i = 0; i < 11; i++) SAME_NUMBERS(dn[i], n[i], B);)
}

/* bf16 and f16 velocities, and their gradients, beside f32 latents. */
static void narrow_velocities_are_the_cpus(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    enum { B = 3, D = 1100 };
    cgrpo_cuda cuda = queue_for(B, D, 1, NULL);
    double up[] = {1, -0.5, 0.25}, *dup = device_numbers(B, up), lp[B], other[B];
    cgrpo_noise noise;
    cgrpo_step_extras extras;
    cgrpo_noise_init(&noise, sizeof noise), cgrpo_step_extras_init(&extras, sizeof extras);
    for (int i = 2; i < 4; i++) {
        array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *next = array_filled(CGRPO_TYPE_F32, B, D, 0, 4);
        array *v = array_filled(types[i], B, D, 0, 2), *u = array_filled(types[i], B, D, 0, 3);
        array *g = array_new(types[i], B, D, 0), *gu = array_new(types[i], B, D, 0);
        cgrpo_tensor dx = device_tensor(x, &cuda), dv = device_tensor(v, &cuda), du = device_tensor(u, &cuda);
        cgrpo_tensor dnext = device_tensor(next, &cuda), dg = device_tensor(g, &cuda), dgu = device_tensor(gu, &cuda);
        double *dlp = device_numbers(B, NULL), *dother = device_numbers(B, NULL);
        extras.guidance = 2, extras.unconditional = &u->tensor;
        CHECK_OK(cgrpo_log_prob_vjp(sampler, K, &x->tensor, &v->tensor, &extras, &next->tensor, up, &g->tensor,
                                    &gu->tensor, lp));
        extras.unconditional = &du;
        CHECK_OK(cgrpo_log_prob_vjp(sampler, K, &dx, &dv, &extras, &dnext, dup, &dg, &dgu, dlp));
        SAME(dg, g), SAME(dgu, gu), SAME_NUMBERS(dlp, lp, B);
        CHECK_OK(cgrpo_log_prob_vjp(sampler, K, &x->tensor, &v->tensor, NULL, &next->tensor, up, &g->tensor, NULL, lp));
        CHECK_OK(cgrpo_log_prob_vjp(sampler, K, &dx, &dv, NULL, &dnext, dup, &dg, NULL, dlp));
        SAME(dg, g), SAME_NUMBERS(dlp, lp, B);
        CHECK_OK(cgrpo_divergence_from_sampled(sampler, K, NULL, CGRPO_DIVERGENCE_MEAN, &x->tensor, &v->tensor, &noise,
                                               &next->tensor, other, up, &g->tensor));
        CHECK_OK(cgrpo_divergence_from_sampled(sampler, K, NULL, CGRPO_DIVERGENCE_MEAN, &dx, &dv, &noise, &dnext,
                                               dother, dup, &dg));
        SAME(dg, g), SAME_NUMBERS(dother, other, B);
        CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, NULL, other, up, &g->tensor));
        CHECK_OK(cgrpo_forward_distance(&dx, &dv, &noise, 0, 1, NULL, dother, dup, &dg));
        SAME(dg, g), SAME_NUMBERS(dother, other, B);
        CHECK_OK(cgrpo_step(sampler, K, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, lp, other));
        CHECK_OK(cgrpo_step(sampler, K, &dx, &dv, NULL, &noise, &dnext, dlp, dother));
        SAME(dnext, next), SAME_NUMBERS(dlp, lp, B), SAME_NUMBERS(dother, other, B);
    }
    FINITE(&cuda);
    cgrpo_sampler_destroy(sampler);
}

/* The model: a velocity that depends on the step alone. */
static int drawn_velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *x, const cgrpo_tensor *v) {
    (void)sigma;
    if (user != NULL && (x->device != CGRPO_DEVICE_CUDA || x->cuda != user || v->cuda != user || x->ndim != 3))
        return 1;
    return cgrpo_normal(77, NULL, step, 1, v) != CGRPO_OK;
}

static void one_rollout(cgrpo_sampler *sampler, cgrpo_type type, cgrpo_cuda *cuda) {
    enum { B = 2, D = 33, S = T - 1 };
    array *x = array_new(type, B, (T + 1) * D, 0), *image = array_new(type, B, 1, D);
    const int64_t shape[] = {B, T + 1, 1, D};
    cgrpo_tensor start = {.data = x->tensor.data, .shape = shape, .ndim = 4, .type = type};
    double lp[B * S] = {0}, l1[B * S] = {0}, *dlp = device_numbers(B * S, lp), *dl1 = device_numbers(B * S, l1);
    cgrpo_trajectory t, d;
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = 4;
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < D; j++) set(x, i * (T + 1) * D + j, scattered(8, (uint64_t)(i * D + j)));
    cgrpo_tensor dimage = device_tensor(image, cuda), there = device_tensor(x, cuda);
    cgrpo_trajectory_init(&t, sizeof t);
    t.latents = start, t.log_probs = lp, t.relative_l1 = l1, t.previous_image = &image->tensor;
    d = t;
    d.latents.data = there.data, d.latents.device = CGRPO_DEVICE_CUDA, d.latents.cuda = cuda;
    d.log_probs = dlp, d.relative_l1 = dl1, d.previous_image = &dimage;
    for (int64_t end = 2; end <= T; end += 4) { /* to 2, then on to the end */
        CHECK_OK(cgrpo_rollout(sampler, &t, end, &noise, drawn_velocity, NULL));
        CHECK_OK(cgrpo_rollout(sampler, &d, end, &noise, drawn_velocity, cuda));
    }
    CHECK(t.position == T && d.position == T);
    SAME(there, x);
    SAME(dimage, image);
    SAME_NUMBERS(dlp, lp, B * S);
    SAME_NUMBERS(dl1, l1, B * S);
}

static void rollouts_are_the_cpus(void) {
    cgrpo_cuda cuda = queue_for(2, 33, 1, NULL);
    const cgrpo_dynamics dynamics[] = {CGRPO_DYNAMICS_FLOW_SDE, CGRPO_DYNAMICS_DPM_SDE};
    for (int i = 0; i < 2; i++) {
        cgrpo_sampler *sampler = sampler_new(T, dynamics[i], 0.7, 1);
        for (int j = 0; j < 4; j++) one_rollout(sampler, types[j], &cuda);
        cgrpo_sampler_destroy(sampler);
    }
    FINITE(&cuda);
}

static void a_call_neither_waits_nor_allocates_nor_leaves_a_context(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    void *stream, *graph, *old;
    create_stream(&stream, 0);
    cgrpo_cuda cuda = queue_for(2, 500, 1, stream);
    array *x = array_filled(CGRPO_TYPE_F32, 2, 500, 0, 1), *v = array_filled(CGRPO_TYPE_F32, 2, 500, 0, 2);
    array *next = array_new(CGRPO_TYPE_F32, 2, 500, 0);
    uint64_t seed = 9, *dseed = (uint64_t *)device_memory(8, &seed);
    cuda.seed = dseed;
    cgrpo_tensor dx = device_tensor(x, &cuda), dv = device_tensor(v, &cuda), dnext = device_tensor(next, &cuda);
    double lp[2], *dlp = device_numbers(2, NULL);
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    CHECK_OK(cgrpo_cuda_prepare(0));
    for (int i = 0; i < 4; i++) counted(i);
    pop(&old); /* the host's thread has no context of its own */
    const int before = depth();
    CHECK(begin_capture(stream, 0) != 0);
    push(old);
    CHECK(begin_capture(stream, 0) == 0);
    pop(&old);
    CHECK_OK(cgrpo_step(sampler, K, &dx, &dv, NULL, &noise, &dnext, dlp, NULL));
    CHECK_OK(cgrpo_log_prob(sampler, K, &dx, &dv, NULL, &dnext, dlp));
    CHECK(depth() == before);
    push(old);
    CHECK(end_capture(stream, &graph) == 0);
    CHECK(counted(LAUNCHES) == 2 && counted(WAITS) == 0 && counted(ALLOCATIONS) == 0 && counted(FORBIDDEN) == 0);
    /* The replay draws the noise of the seed that is on the device then. */
    for (noise.seed = 20; noise.seed < 22; noise.seed++) {
        seed = noise.seed;
        copy_up((address)(uintptr_t)dseed, &seed, 8);
        CHECK(replay(graph, stream) == 0 && pending(stream) == 2);
        CHECK_OK(cgrpo_step(sampler, K, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, lp, NULL));
        SAME(dnext, next);
        SAME_NUMBERS(dlp, lp, 2);
    }
    FINITE(&cuda);
    cgrpo_sampler_destroy(sampler);
}

static void what_is_not_finite_is_in_the_status_word(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_cuda cuda = queue_for(5, 60, 1, NULL);
    array *x = array_filled(CGRPO_TYPE_F32, 5, 60, 0, 1);
    set(x, 3 * 60 + 7, NAN);
    cgrpo_tensor dx = device_tensor(x, &cuda);
    array *next = array_filled(CGRPO_TYPE_F32, 5, 60, 0, 2);
    cgrpo_tensor dnext = device_tensor(next, &cuda);
    CHECK_OK(cgrpo_log_prob(sampler, K, &dx, &dnext, NULL, &dnext, device_numbers(5, NULL)));
    CHECK_REFUSED(cgrpo_cuda_status(status_of(&cuda)), CGRPO_NON_FINITE, "sample 3 at step 2");
    CHECK_OK(cgrpo_cuda_status(0));
    CHECK_REFUSED(cgrpo_cuda_status(5), CGRPO_NON_FINITE, "sample 4 are");
    cgrpo_sampler_destroy(sampler);
}

static void bad_tensors_are_refused(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_cuda cuda = queue_for(2, 60, 1, NULL), other = cuda, none;
    cgrpo_cuda_init(&none, sizeof none);
    array *x = array_filled(CGRPO_TYPE_F32, 2, 60, 0, 1);
    double *lp = device_numbers(2, NULL), host[2];
    cgrpo_tensor d = device_tensor(x, &cuda), next = device_tensor(x, &cuda), bad = d;
#define LOG_PROB(v, next, to) cgrpo_log_prob(sampler, K, &d, v, NULL, next, to)
    CHECK_REFUSED(LOG_PROB(&x->tensor, &next, lp), CGRPO_WRONG_TYPE,
                  "velocity lies in the CPU's memory, but the latents are on a CUDA");
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &x->tensor, &d, NULL, &x->tensor, host), CGRPO_WRONG_TYPE,
                  "velocity lies on a CUDA");
    bad.data = x->tensor.data;
    CHECK_REFUSED(LOG_PROB(&bad, &next, lp), CGRPO_INVALID_ARGUMENT, "velocity is an address of the host");
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &d, NULL, &next, lp), CGRPO_INVALID_ARGUMENT, "latents.data is not");
    CHECK_REFUSED(LOG_PROB(&d, &next, host), CGRPO_INVALID_ARGUMENT, "log_prob is an address of the host");
    CHECK_REFUSED(LOG_PROB(&d, &next, (double *)(void *)((char *)lp + 4)), CGRPO_INVALID_ARGUMENT,
                  "log_prob is not on an 8-byte");
    other.stream = &other, bad = d, bad.cuda = &other;
    CHECK_REFUSED(LOG_PROB(&bad, &next, lp), CGRPO_INVALID_ARGUMENT, "velocity.cuda differs");
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &bad, NULL, &bad, lp), CGRPO_DEVICE_FAILED,
                  "invalid resource handle");
    bad.cuda = &none;
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &bad, NULL, &bad, lp), CGRPO_INVALID_ARGUMENT,
                  "cgrpo_cuda_workspace");
    CHECK_OK(cgrpo_predicted_image(sampler, K, &bad, &bad, NULL, &bad)); /* which gives no numbers */
    bad.cuda = NULL;
    CHECK_OK(cgrpo_predicted_image(sampler, K, &bad, &bad, NULL, &bad));
    none.workspace = cuda.workspace, none.workspace_size = 16, bad.cuda = &none;
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &bad, NULL, &bad, lp), CGRPO_INVALID_ARGUMENT,
                  "workspace_size = 16");
    none.workspace = host, none.workspace_size = cuda.workspace_size;
    none.workspace = (void *)((uintptr_t)none.workspace & ~(uintptr_t)15);
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &bad, NULL, &bad, lp), CGRPO_INVALID_ARGUMENT,
                  "cuda.workspace is an address");
    none.workspace = (char *)cuda.workspace + 8;
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &bad, NULL, &bad, lp), CGRPO_INVALID_ARGUMENT, "16-byte boundary");
    none.struct_size = 8;
    CHECK_REFUSED(cgrpo_log_prob(sampler, K, &bad, &bad, NULL, &bad, lp), CGRPO_INVALID_ARGUMENT,
                  "latents.cuda.struct_size = 8");
    bad = d, bad.device = 2;
    CHECK_REFUSED(LOG_PROB(&bad, &next, lp), CGRPO_WRONG_TYPE, "velocity.device = 2");
    CHECK_REFUSED(cgrpo_norm_hinge(&d, &d, 1, host, NULL, NULL, NULL), CGRPO_WRONG_TYPE, "norm hinge");
    CHECK_REFUSED(cgrpo_diversity(&d, 2, 1, host), CGRPO_WRONG_TYPE, "diversity");
    CHECK_REFUSED(cgrpo_cuda_prepare(2), CGRPO_DEVICE_FAILED, "CUDA device 2");
    CHECK_REFUSED(cgrpo_cuda_prepare(-1), CGRPO_INVALID_ARGUMENT, "device = -1");
    size_t size;
    CHECK_REFUSED(cgrpo_cuda_workspace(0, 1, 1, &size), CGRPO_INVALID_ARGUMENT, "batch = 0");
    CHECK_REFUSED(cgrpo_cuda_workspace(1, INT64_MAX, 1, &size), CGRPO_INVALID_ARGUMENT, "elements");
    use(1);
    cgrpo_tensor far = device_tensor(x, &cuda);
    use(0);
    CHECK_REFUSED(LOG_PROB(&far, &next, lp), CGRPO_INVALID_ARGUMENT, "velocity is memory of CUDA device 1");
    CHECK(depth() == 1);
    cgrpo_sampler_destroy(sampler);
}

/* A thread with a stream, workspace and arrays of its own, on a device. */
static void *thread(void *number) {
    const int device = (int)(intptr_t)number % 2;
    void *own, *old, *stream;
    primary(&own, device), push(own);
    create_stream(&stream, 0);
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_cuda cuda = queue_for(2, 300, 1, stream);
    array *x = array_filled(CGRPO_TYPE_F32, 2, 300, 0, (uint64_t)(intptr_t)number),
          *next = array_new(CGRPO_TYPE_F32, 2, 300, 0);
    cgrpo_tensor dx = device_tensor(x, &cuda), dnext = device_tensor(next, &cuda);
    double lp[2], *dlp = device_numbers(2, NULL);
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    intptr_t failed = 0;
    for (int i = 0; i < 5; i++) {
        noise.seed = (uint64_t)i;
        failed += cgrpo_step(sampler, K, &x->tensor, &x->tensor, NULL, &noise, &next->tensor, lp, NULL) != CGRPO_OK;
        failed += cgrpo_step(sampler, K, &dx, &dx, NULL, &noise, &dnext, dlp, NULL) != CGRPO_OK;
        wait_for(stream);
        failed += !same_there(dnext.data, next->tensor.data, bytes_of(next)) || !same_there(dlp, lp, sizeof lp);
    }
    cgrpo_sampler_destroy(sampler);
    pop(&old);
    return (void *)failed;
}

static void threads_use_both_devices_at_once(void) {
    pthread_t threads[6];
    for (intptr_t i = 0; i < 6; i++) pthread_create(&threads[i], NULL, thread, (void *)i);
    for (int i = 0; i < 6; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        CHECK(failed == NULL);
    }
}

static void without_a_driver_a_sentence_says_so(void) {
    cgrpo_sampler *sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    array *x = array_filled(CGRPO_TYPE_F32, 2, 60, 0, 1);
    cgrpo_tensor tensor = x->tensor;
    tensor.device = CGRPO_DEVICE_CUDA;
    for (int i = 0; i < 2; i++) {
        CHECK_REFUSED(cgrpo_predicted_image(sampler, K, &tensor, &tensor, NULL, &tensor), CGRPO_DEVICE_FAILED,
                      "there is no CUDA driver");
        CHECK_REFUSED(cgrpo_cuda_prepare(0), CGRPO_DEVICE_FAILED, "there is no CUDA driver");
    }
    CHECK_OK(cgrpo_predicted_image(sampler, K, &x->tensor, &x->tensor, NULL, &x->tensor));
    cgrpo_sampler_destroy(sampler);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "none") == 0) {
        RUN(without_a_driver_a_sentence_says_so);
        return finish("no driver");
    }
    if (!open_driver()) return printf("no libcuda.so.1: %s\n", dlerror()), 2;
    use(0);
    RUN(a_call_neither_waits_nor_allocates_nor_leaves_a_context);
    RUN(normals_are_the_cpus);
    RUN(steps_are_the_cpus);
    RUN(log_probs_and_gradients_are_the_cpus);
    RUN(residuals_are_the_cpus);
    RUN(trajectories_are_the_cpus);
    RUN(divergences_are_the_cpus);
    RUN(the_forward_process_is_the_cpus);
    RUN(narrow_velocities_are_the_cpus);
    RUN(rollouts_are_the_cpus);
    RUN(what_is_not_finite_is_in_the_status_word);
    RUN(bad_tensors_are_refused);
    RUN(threads_use_both_devices_at_once);
    return finish("tensors on a device");
}
