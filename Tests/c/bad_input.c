/* Whatever a call is given: a status, and a sentence that names the argument; never a crash, and the state as it was.
 */
#define _POSIX_C_SOURCE 200809L
#include "arrays.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { T = 6, S = T - 1, B = 4, D = 5, K = 2 };
static const int64_t sizes[K] = {2, 3};
#define BAD CGRPO_INVALID_ARGUMENT
#define TYPE CGRPO_WRONG_TYPE
#define NAN_IN CGRPO_NON_FINITE
#define MANY ((int64_t)1 << 62)

/* Everything that a right call needs, fresh for every test. */
static cgrpo_sampler *sampler;
static array *x, *v, *e, *next, *latents, *velocities, *gradients;
static double log_prob[B], grad[B], grads[B * T], curve[B * T], rewards[B], log_probs[B * S], weights[B * K], loss;
static uint8_t selection[B * K];
static cgrpo_noise noise;
static cgrpo_trajectory trajectory;

static int zero_velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *now, const cgrpo_tensor *out) {
    (void)user, (void)step, (void)sigma;
    for (int64_t i = 0; i < now->shape[0]; i++)
        memset((float *)out->data + i * (out->strides ? out->strides[0] : D), 0, D * sizeof(float));
    return 0;
}

static void fresh(void) {
    cgrpo_sampler_destroy(sampler);
    sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), v = array_filled(CGRPO_TYPE_F32, B, D, 0, 2),
    e = array_filled(CGRPO_TYPE_F32, B, D, 0, 3);
    next = array_filled(CGRPO_TYPE_F32, B, D, 0, 4);
    latents = array_filled(CGRPO_TYPE_F32, B, T + 1, D, 5), velocities = array_filled(CGRPO_TYPE_F32, B, T, D, 6);
    gradients = array_new(CGRPO_TYPE_F32, B, T, D);
    for (int i = 0; i < B; i++) grad[i] = 1, rewards[i] = i;
    for (int i = 0; i < B * T; i++) curve[i] = 1 + i % 3, grads[i] = 1;
    for (int i = 0; i < B * S; i++) log_probs[i] = -1;
    for (int i = 0; i < B * K; i++) weights[i] = 1, selection[i] = 1;
    cgrpo_noise_init(&noise, sizeof noise);
    cgrpo_trajectory_init(&trajectory, sizeof trajectory);
    trajectory.latents = latents->tensor;
}

static void schedules(void) {
    double sigmas[4];
    CHECK_REFUSED(cgrpo_schedule_make(3, NULL, NULL), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_schedule_make(0, NULL, sigmas), BAD, "steps");
    CHECK_REFUSED(cgrpo_schedule_make(-1, NULL, sigmas), BAD, "steps");
    CHECK_REFUSED(cgrpo_schedule_make(1000001, NULL, sigmas), BAD, "steps");
    CHECK_REFUSED(cgrpo_schedule_make(INT64_MAX, NULL, sigmas), BAD, "steps");
    CHECK_REFUSED(cgrpo_schedule_make(INT64_MIN, NULL, sigmas), BAD, "steps");
    CHECK_REFUSED(shifted_schedule(3, 3, NULL), BAD, "sigmas");
    CHECK_REFUSED(shifted_schedule(0, 3, sigmas), BAD, "steps");
    CHECK_REFUSED(shifted_schedule(3, 0, sigmas), BAD, "shift");
    CHECK_REFUSED(shifted_schedule(3, -1, sigmas), BAD, "shift");
    CHECK_REFUSED(shifted_schedule(3, NAN, sigmas), BAD, "shift");
    CHECK_REFUSED(shifted_schedule(3, INFINITY, sigmas), BAD, "shift");
}

/* The sigmas that a schedule near the edge of double precision gives must still fall, or be refused. */
static void extreme_shifts_give_a_schedule_or_a_sentence(void) {
    static const double shifts[] = {1e-300, 1e-20, 1e20, 1e300, 5e-324, 1.7e308};
    double sigmas[11];
    for (int i = 0; i < 6; i++) {
        if (shifted_schedule(10, shifts[i], sigmas) == CGRPO_OK)
            for (int k = 0; k < 10; k++) CHECK(sigmas[k] > sigmas[k + 1] && sigmas[k] <= 1 && sigmas[k + 1] >= 0);
        else CHECK(strstr(cgrpo_last_error(), "shift") != NULL || strstr(cgrpo_last_error(), "sigmas") != NULL);
    }
}

static void sampler_sigmas(void) {
    static const double rising[] = {0, 0.5, 1}, equal[] = {1, 0.5, 0.5, 0}, above[] = {1.5, 0.5, 0},
                        below[] = {1, 0.5, -0.1};
    double with_nan[] = {1, 0.5, 0}, with_infinity[] = {1, 0.5, 0};
    cgrpo_sampler *none = NULL;
    with_nan[1] = NAN, with_infinity[0] = INFINITY;
    CHECK_REFUSED(cgrpo_sampler_create(NULL, 3, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(rising, 3, NULL, NULL), BAD, "sampler");
    CHECK_REFUSED(cgrpo_sampler_create(rising, 3, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(equal, 4, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(above, 3, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(below, 3, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(with_nan, 3, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(with_infinity, 3, NULL, &none), BAD, "sigmas");
    CHECK_REFUSED(cgrpo_sampler_create(above, 0, NULL, &none), BAD, "sigma_count");
    CHECK_REFUSED(cgrpo_sampler_create(above, 1, NULL, &none), BAD, "sigma_count");
    CHECK_REFUSED(cgrpo_sampler_create(above, -5, NULL, &none), BAD, "sigma_count");
    CHECK_REFUSED(cgrpo_sampler_create(above, INT64_MAX, NULL, &none), BAD, "sigma_count");
    CHECK_REFUSED(cgrpo_sampler_create(above, INT64_MIN, NULL, &none), BAD, "sigma_count");
    CHECK(none == NULL);
}

static void sampler_options(void) {
    static const double sigmas[] = {1, 0.5, 0}, etas[] = {-0.1, -INFINITY, INFINITY};
    static const int32_t enums[] = {0, -1, 99, 1000000, INT32_MIN};
    static const int64_t window[] = {0, 1, 2};
    cgrpo_sampler *none = NULL;
    cgrpo_sampler_options o;
    double a;
#define EXPECT(change, words)                 \
    cgrpo_sampler_options_init(&o, sizeof o); \
    change;                                   \
    CHECK_REFUSED(cgrpo_sampler_create(sigmas, 3, &o, &none), BAD, words)
    for (int i = 0; i < 3; i++) {
        EXPECT(o.eta = etas[i], "eta");
    }
    EXPECT(o.eta = NAN, "eta");
    EXPECT((o.eta = 1.5, o.dynamics = CGRPO_DYNAMICS_CPS), "eta");
    for (int i = 0; i < 5; i++) {
        EXPECT(o.dynamics = enums[i], "dynamics");
        EXPECT(o.log_prob_form = enums[i], "log_prob_form");
        EXPECT(o.last_step = enums[i], "last_step");
    }
    EXPECT((o.window = window, o.window_count = 3), "window_count"); /* T = 2: no more are read */
    EXPECT(o.wan_sigma_min = 0.1, "wan_sigma_min");                  /* of another SDE than Wan's */
    EXPECT((o.dynamics = CGRPO_DYNAMICS_WAN_SDE, o.wan_sigma_min = -0.1), "wan_sigma_min");
    EXPECT((o.dynamics = CGRPO_DYNAMICS_WAN_SDE, o.wan_sigma_min = 1.1), "wan_sigma_min");
    EXPECT((o.dynamics = CGRPO_DYNAMICS_WAN_SDE, o.wan_sigma_min = NAN), "wan_sigma_min");
    EXPECT(o.threads = -1, "threads");
    EXPECT(o.threads = 257, "threads");
    EXPECT(o.threads = INT32_MIN, "threads");
#undef EXPECT
    CHECK(none == NULL);
    fresh();
    CHECK_REFUSED(cgrpo_sampler_coefficients(NULL, 0, &a, &a, &a, NULL), BAD, "sampler");
    CHECK_REFUSED(cgrpo_sampler_coefficients(sampler, -1, &a, &a, &a, NULL), BAD, "step");
    CHECK_REFUSED(cgrpo_sampler_coefficients(sampler, T, &a, &a, &a, NULL), BAD, "step");
    CHECK_REFUSED(cgrpo_sampler_coefficients(sampler, INT64_MAX, &a, &a, &a, NULL), BAD, "step");
    CHECK_REFUSED(cgrpo_sampler_coefficients(sampler, 0, NULL, &a, &a, NULL), BAD, "a");
    CHECK_REFUSED(cgrpo_sampler_coefficients(sampler, 0, &a, NULL, &a, NULL), BAD, "b");
    CHECK_REFUSED(cgrpo_sampler_coefficients(sampler, 0, &a, &a, NULL, NULL), BAD, "s");
}

/* Each options struct through one call that is right but for struct_size. */
typedef cgrpo_status (*call_with_options)(void *options);
static cgrpo_status with_sampler_options(void *o) {
    static const double sigmas[] = {1, 0.5, 0};
    cgrpo_sampler *made = NULL;
    cgrpo_status status = cgrpo_sampler_create(sigmas, 3, (cgrpo_sampler_options *)o, &made);
    cgrpo_sampler_destroy(made);
    return status;
}
static cgrpo_status with_noise(void *o) {
    return cgrpo_step(sampler, 0, &x->tensor, &v->tensor, NULL, (cgrpo_noise *)o, &next->tensor, NULL, NULL);
}
static cgrpo_status with_trajectory(void *o) {
    cgrpo_trajectory *t = (cgrpo_trajectory *)o;
    t->latents = latents->tensor;
    return cgrpo_rollout(sampler, t, T, &noise, zero_velocity, NULL);
}
static cgrpo_status with_extras(void *o) {
    return cgrpo_step(sampler, 0, &x->tensor, &v->tensor, (cgrpo_step_extras *)o, &noise, &next->tensor, NULL, NULL);
}
static cgrpo_status with_window(void *o) {
    int64_t steps[8], count;
    if (((cgrpo_window_options *)o)->end == 0) ((cgrpo_window_options *)o)->end = 8;
    return cgrpo_window_steps((cgrpo_window_options *)o, 0, steps, 8, &count);
}
static cgrpo_status with_adaptive(void *o) {
    int64_t plan[S], count;
    return cgrpo_plan_adaptive(curve, B, S, (cgrpo_adaptive_options *)o, plan, S, &count);
}
static cgrpo_status with_schedule(void *o) {
    double sigmas[T + 1];
    return cgrpo_schedule_make(T, (cgrpo_schedule_options *)o, sigmas);
}
static cgrpo_status with_optimal(void *o) {
    int64_t plan[S], count;
    return cgrpo_plan_optimal(curve, B, S, (cgrpo_optimal_options *)o, plan, S, &count, NULL, NULL);
}
static cgrpo_status with_select(void *o) { return cgrpo_chunk_select(B, K, (cgrpo_select_options *)o, selection); }
static cgrpo_status with_advantage(void *o) {
    double out[B];
    return cgrpo_advantages(rewards, B, (cgrpo_advantage_options *)o, out);
}
static cgrpo_status with_loss(void *o) {
    return cgrpo_chunk_loss(log_probs, log_probs, grad, B, S, sizes, K, (cgrpo_chunk_loss_options *)o, &loss, NULL,
                            NULL, NULL);
}
static cgrpo_status with_stats(void *o) {
    return cgrpo_chunk_loss(log_probs, log_probs, grad, B, S, sizes, K, NULL, &loss, NULL, NULL,
                            (cgrpo_chunk_stats *)o);
}
static cgrpo_status with_total(void *o) {
    cgrpo_chunk_stats other;
    memset(&other, 0, sizeof other), other.struct_size = sizeof other;
    return cgrpo_chunk_stats_merge((cgrpo_chunk_stats *)o, &other);
}
static cgrpo_status with_trainer(void *o) {
    cgrpo_trainer *made = NULL;
    cgrpo_trainer_options *t = (cgrpo_trainer_options *)o;
    cgrpo_status status;
    t->latent_size = t->condition_size = 2, t->width = 4, t->blocks = 1, t->embedding_size = 2;
    status = cgrpo_trainer_create(t, &made);
    cgrpo_trainer_destroy(made);
    return status;
}
static cgrpo_trainer *small_trainer(void) {
    cgrpo_trainer *made = NULL;
    cgrpo_trainer_options o;
    cgrpo_trainer_options_init(&o, sizeof o);
    o.latent_size = D, o.condition_size = 2, o.width = 4, o.blocks = 1, o.embedding_size = 2, o.steps = T;
    o.group_size = 2;
    CHECK_OK(cgrpo_trainer_create(&o, &made));
    return made;
}
static cgrpo_status with_pretrain(void *o) {
    cgrpo_trainer *made = small_trainer();
    array *c = array_filled(CGRPO_TYPE_F32, B, 2, 0, 1);
    cgrpo_status status;
    cgrpo_pretrain_options *p = (cgrpo_pretrain_options *)o;
    p->steps = 1, p->batch_size = 2;
    status = cgrpo_trainer_pretrain(made, &x->tensor, &c->tensor, p, NULL, NULL);
    cgrpo_trainer_destroy(made);
    return status;
}
static int first_pixel(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *out) {
    (void)user, (void)prompt;
    for (int64_t i = 0; i < images->shape[0]; i++) out[i] = ((float *)images->data)[i * images->shape[1]];
    return 0;
}
static cgrpo_status with_report(void *o) {
    cgrpo_trainer *made = small_trainer();
    array *c = array_filled(CGRPO_TYPE_F32, 2, 2, 0, 1);
    cgrpo_status status = cgrpo_trainer_iterate(made, &c->tensor, first_pixel, NULL, (cgrpo_iteration_report *)o);
    cgrpo_trainer_destroy(made);
    return status;
}

static const double halves[B] = {0.5, 0.5, 0.5, 0.5};
static cgrpo_status with_forward_extras(void *o) {
    return cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 0, 1, (cgrpo_forward_extras *)o, log_prob, NULL,
                                  NULL);
}
static cgrpo_status with_nft(void *o) {
    cgrpo_nft_options *n = (cgrpo_nft_options *)o;
    if (n->times == NULL) n->times = halves;
    if (n->positive_absolute == NULL) n->positive_absolute = halves, n->negative_absolute = halves;
    return cgrpo_nft_loss(halves, halves, rewards, B, 1, n, &loss, NULL, NULL, NULL);
}
static cgrpo_status with_dgpo(void *o) {
    return cgrpo_dgpo_loss(halves, halves, rewards, B, 1, (cgrpo_dgpo_options *)o, &loss, grad, NULL);
}
static cgrpo_status with_crd(void *o) {
    return cgrpo_crd_loss(halves, halves, rewards, B, 1, (cgrpo_crd_options *)o, &loss, grad, NULL);
}
static cgrpo_status with_dpo(void *o) {
    return cgrpo_dpo_loss(halves, halves, halves, halves, B, 1, (cgrpo_dpo_options *)o, &loss, NULL, NULL, NULL);
}
static cgrpo_status with_times(void *o) { return cgrpo_times(B, 1, 0, (cgrpo_time_options *)o, log_prob); }
static cgrpo_status with_forward_stats(void *o) {
    return cgrpo_dpo_loss(halves, halves, halves, halves, B, 1, NULL, &loss, NULL, NULL, (cgrpo_forward_stats *)o);
}

static void init_stats(void *o, size_t size) { *(size_t *)o = size; }

/* What a program built against the first header of this ABI gives as the size of cgrpo_<name>. */
static size_t first_size(const char *name) {
#define SIZE(struct_name, bytes) \
    if (strcmp(name, #struct_name) == 0) return bytes;
#include "first_sizes.inc"
    return 0;
}

/* The call of a program whose struct ends at `size`: behind it is memory of another's, which is neither read nor
 * written. */
static cgrpo_status older_program(void *room, size_t bytes, void (*init)(void *, size_t), size_t size,
                                  call_with_options call) {
    unsigned char *end = (unsigned char *)room + size;
    memset(room, 0, size), memset(end, 0xa5, bytes - size);
    init(room, size);
    cgrpo_status status = call(room);
    CHECK(*(size_t *)room == size);
    for (size_t i = 0; i < bytes - size; i++)
        if (end[i] != 0xa5) return CHECK(!"a byte behind an older program's struct was written"), status;
    return status;
}

static void struct_sizes(void) {
    static const struct {
        const char *name;
        call_with_options call;
        void (*init)(void *, size_t);
        size_t size;
    } all[] = {
        {"sampler_options", with_sampler_options, (void (*)(void *, size_t))cgrpo_sampler_options_init,
         sizeof(cgrpo_sampler_options)},
        {"noise", with_noise, (void (*)(void *, size_t))cgrpo_noise_init, sizeof(cgrpo_noise)},
        {"trajectory", with_trajectory, (void (*)(void *, size_t))cgrpo_trajectory_init, sizeof(cgrpo_trajectory)},
        {"step_extras", with_extras, (void (*)(void *, size_t))cgrpo_step_extras_init, sizeof(cgrpo_step_extras)},
        {"window_options", with_window, (void (*)(void *, size_t))cgrpo_window_options_init,
         sizeof(cgrpo_window_options)},
        {"adaptive_options", with_adaptive, (void (*)(void *, size_t))cgrpo_adaptive_options_init,
         sizeof(cgrpo_adaptive_options)},
        {"schedule_options", with_schedule, (void (*)(void *, size_t))cgrpo_schedule_options_init,
         sizeof(cgrpo_schedule_options)},
        {"optimal_options", with_optimal, (void (*)(void *, size_t))cgrpo_optimal_options_init,
         sizeof(cgrpo_optimal_options)},
        {"select_options", with_select, (void (*)(void *, size_t))cgrpo_select_options_init,
         sizeof(cgrpo_select_options)},
        {"advantage_options", with_advantage, (void (*)(void *, size_t))cgrpo_advantage_options_init,
         sizeof(cgrpo_advantage_options)},
        {"chunk_loss_options", with_loss, (void (*)(void *, size_t))cgrpo_chunk_loss_options_init,
         sizeof(cgrpo_chunk_loss_options)},
        {"trainer_options", with_trainer, (void (*)(void *, size_t))cgrpo_trainer_options_init,
         sizeof(cgrpo_trainer_options)},
        {"pretrain_options", with_pretrain, (void (*)(void *, size_t))cgrpo_pretrain_options_init,
         sizeof(cgrpo_pretrain_options)},
        {"forward_extras", with_forward_extras, (void (*)(void *, size_t))cgrpo_forward_extras_init,
         sizeof(cgrpo_forward_extras)},
        {"nft_options", with_nft, (void (*)(void *, size_t))cgrpo_nft_options_init, sizeof(cgrpo_nft_options)},
        {"dgpo_options", with_dgpo, (void (*)(void *, size_t))cgrpo_dgpo_options_init, sizeof(cgrpo_dgpo_options)},
        {"crd_options", with_crd, (void (*)(void *, size_t))cgrpo_crd_options_init, sizeof(cgrpo_crd_options)},
        {"dpo_options", with_dpo, (void (*)(void *, size_t))cgrpo_dpo_options_init, sizeof(cgrpo_dpo_options)},
        {"time_options", with_times, (void (*)(void *, size_t))cgrpo_time_options_init, sizeof(cgrpo_time_options)},
        {"forward_stats", with_forward_stats, init_stats, sizeof(cgrpo_forward_stats)},
        {"chunk_stats", with_stats, init_stats, sizeof(cgrpo_chunk_stats)},
        {"chunk_stats", with_total, init_stats, sizeof(cgrpo_chunk_stats)},
        {"iteration_report", with_report, init_stats, sizeof(cgrpo_iteration_report)},
    };
    double room[128]; /* larger than any of them, and aligned for all */
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int before = check_wrong;
        fresh();
#define WITH_SIZE(number) \
    (memset(room, 0, sizeof room), all[i].init(room, all[i].size), *(size_t *)room = (number), all[i].call(room))
        CHECK_OK(WITH_SIZE(all[i].size));
        CHECK_REFUSED(WITH_SIZE(0), BAD, "struct_size");
        CHECK_REFUSED(WITH_SIZE(8), BAD, "struct_size");
        CHECK_REFUSED(WITH_SIZE(first_size(all[i].name) - 8), BAD, "struct_size");
        CHECK_REFUSED(WITH_SIZE(first_size(all[i].name) + 4), BAD, "struct_size"); /* half a pointer */
        CHECK_REFUSED(WITH_SIZE(all[i].size + 4), BAD, "struct_size");
        CHECK_REFUSED(WITH_SIZE(SIZE_MAX), BAD, "struct_size");
        CHECK_OK(WITH_SIZE(all[i].size + 16)); /* newer, and what is new is not used */
        fresh();
        trajectory.position = 0;
        memset(room, 0, sizeof room);
        all[i].init(room, all[i].size);
        *(size_t *)room = all[i].size + 16;
        ((char *)room)[all[i].size + 9] = 1;
        if (all[i].init != init_stats) /* what a report has there before the call does not matter */
            CHECK_REFUSED(all[i].call(room), BAD, "does not know");
        fresh();
        CHECK_OK(older_program(room, sizeof room, all[i].init, first_size(all[i].name), all[i].call));
        if (check_wrong > before) printf("    (struct_size of cgrpo_%s)\n", all[i].name);
    }
}

/* What can be wrong about each tensor of a call. The call uses the global arrays; `a` is one of them. */
static void tensor_is_checked(array *a, cgrpo_status (*call)(void), const char *words, int batch_matters) {
    cgrpo_tensor right = a->tensor;
    int before = check_wrong;
    static const int64_t overflowing[3] = {MANY, 4, 4}, to_the_brim[2] = {INT64_MAX, 1}, zero[2] = {B, 0},
                         negative[2] = {B, -5};
    static const int64_t other_batch[2] = {B - 1, D}, spread[2] = {4 * D, 2};
    static const int32_t garbage[] = {0, 5, -1, INT32_MIN, INT32_MAX};
    array *f64 = array_filled(CGRPO_TYPE_F64, B, T + 1, D, 1);
    int wide = right.ndim;
#define BECOMES(change, status)           \
    change;                               \
    CHECK_REFUSED(call(), status, words); \
    a->tensor = right
    BECOMES(a->tensor.data = NULL, BAD);
    BECOMES(a->tensor.shape = NULL, BAD);
    BECOMES(a->tensor.ndim = 0, BAD);
    BECOMES(a->tensor.ndim = -1, BAD);
    BECOMES(a->tensor.ndim = INT32_MAX, BAD);
    BECOMES((a->tensor.shape = overflowing, a->tensor.ndim = 3), BAD);
    BECOMES((a->tensor.shape = to_the_brim, a->tensor.ndim = 2), BAD);
    BECOMES((a->tensor.shape = zero, a->tensor.ndim = 2), BAD);
    BECOMES((a->tensor.shape = negative, a->tensor.ndim = 2), BAD);
    if (batch_matters) {
        BECOMES((a->tensor.shape = other_batch, a->tensor.ndim = 2), BAD);
    }
    if (wide == 2) {
        BECOMES(a->tensor.strides = spread, BAD);
    }
    for (int i = 0; i < 5; i++) {
        BECOMES(a->tensor.type = garbage[i], TYPE);
        if (garbage[i] != 0) {
            BECOMES(a->tensor.device = garbage[i], TYPE);
        }
    }
    BECOMES(a->tensor.reserved = 1, BAD);
    if (batch_matters) { /* a mix of types */
        BECOMES((a->tensor.data = f64->tensor.data, a->tensor.type = CGRPO_TYPE_F64), TYPE);
    }
#undef BECOMES
    if (check_wrong > before) printf("    (tensor \"%s\")\n", words);
}

static cgrpo_status call_step(void) {
    return cgrpo_step(sampler, 1, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, log_prob, NULL);
}
static cgrpo_status call_log_prob(void) {
    return cgrpo_log_prob(sampler, 1, &x->tensor, &v->tensor, NULL, &next->tensor, log_prob);
}
static cgrpo_status call_vjp(void) {
    return cgrpo_log_prob_vjp(sampler, 1, &x->tensor, &v->tensor, NULL, &next->tensor, grad, &gradients->tensor, NULL,
                              log_prob);
}
static cgrpo_status call_normal(void) { return cgrpo_normal(1, NULL, 0, 1, &x->tensor); }
static cgrpo_status call_trajectory_log_probs(void) {
    return cgrpo_trajectory_log_probs(sampler, 0, NULL, &latents->tensor, &velocities->tensor, curve);
}
static cgrpo_status call_trajectory_vjp(void) {
    return cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, &latents->tensor, &velocities->tensor, grads,
                                          &gradients->tensor);
}
static cgrpo_status call_relative_l1(void) { return cgrpo_relative_l1(&latents->tensor, 1, curve); }
static cgrpo_status call_diversity(void) { return cgrpo_diversity(&x->tensor, 0, 1, curve); }
static cgrpo_status call_divergence(void) {
    return cgrpo_divergence_from_velocity(sampler, 1, NULL, CGRPO_DIVERGENCE_GAUSSIAN, &v->tensor, &e->tensor, log_prob,
                                          grad, &gradients->tensor);
}
static cgrpo_status call_sampled_divergence(void) {
    return cgrpo_divergence_from_sampled(sampler, 1, NULL, CGRPO_DIVERGENCE_GAUSSIAN, &x->tensor, &v->tensor, &noise,
                                         &next->tensor, log_prob, grad, &gradients->tensor);
}
static array *rolled;
static cgrpo_status call_rollout(void) {
    trajectory.latents = rolled->tensor;
    return cgrpo_rollout(sampler, &trajectory, T, &noise, zero_velocity, NULL);
}

static void tensors(void) {
    fresh();
    gradients = array_new(CGRPO_TYPE_F32, B, D, 0);
    CHECK_OK(call_step());
    tensor_is_checked(x, call_step, "latents", 1);
    tensor_is_checked(v, call_step, "velocity", 1);
    tensor_is_checked(next, call_step, "next_latents", 1);
    CHECK_OK(call_log_prob());
    tensor_is_checked(x, call_log_prob, "latents", 1);
    tensor_is_checked(v, call_log_prob, "velocity", 1);
    tensor_is_checked(next, call_log_prob, "next_latents", 1);
    CHECK_OK(call_vjp());
    tensor_is_checked(x, call_vjp, "latents", 1);
    tensor_is_checked(v, call_vjp, "velocity", 1);
    tensor_is_checked(next, call_vjp, "next_latents", 1);
    tensor_is_checked(gradients, call_vjp, "grad_velocity", 1);
    CHECK_OK(call_divergence());
    tensor_is_checked(v, call_divergence, "velocity", 1);
    tensor_is_checked(e, call_divergence, "other_velocity", 1);
    tensor_is_checked(gradients, call_divergence, "grad_velocity", 1);
    CHECK_OK(call_sampled_divergence());
    tensor_is_checked(x, call_sampled_divergence, "latents", 1);
    tensor_is_checked(v, call_sampled_divergence, "velocity", 1);
    tensor_is_checked(next, call_sampled_divergence, "next_latents", 1);
    tensor_is_checked(gradients, call_sampled_divergence, "grad_velocity", 1);
    CHECK_OK(call_normal());
    tensor_is_checked(x, call_normal, "out", 0);
    noise.given = &e->tensor;
    CHECK_OK(call_step());
    tensor_is_checked(e, call_step, "noise", 1);
    CHECK_OK(call_sampled_divergence());
    tensor_is_checked(e, call_sampled_divergence, "noise", 1);
    fresh();
    CHECK_OK(call_trajectory_log_probs());
    tensor_is_checked(latents, call_trajectory_log_probs, "latents", 1);
    tensor_is_checked(velocities, call_trajectory_log_probs, "velocities", 1);
    CHECK_OK(call_trajectory_vjp());
    tensor_is_checked(latents, call_trajectory_vjp, "latents", 1);
    tensor_is_checked(velocities, call_trajectory_vjp, "velocities", 1);
    tensor_is_checked(gradients, call_trajectory_vjp, "grad_velocities", 1);
    CHECK_OK(call_relative_l1());
    tensor_is_checked(latents, call_relative_l1, "latents", 0);
    CHECK_OK(call_diversity());
    tensor_is_checked(x, call_diversity, "features", 0);
    rolled = array_copy(latents);
    tensor_is_checked(rolled, call_rollout, "latents", 0);
    CHECK(trajectory.position == 0);
}

static void null_arguments(void) {
    cgrpo_tensor *X, *V, *N, *L, *W, *G;
    int64_t plan[S], count;
    fresh();
    X = &x->tensor, V = &v->tensor, N = &next->tensor, L = &latents->tensor, W = &velocities->tensor,
    G = &gradients->tensor;
    CHECK_REFUSED(cgrpo_step(NULL, 1, X, V, NULL, &noise, N, NULL, NULL), BAD, "sampler");
    CHECK_REFUSED(cgrpo_step(sampler, 1, NULL, V, NULL, &noise, N, NULL, NULL), BAD, "latents");
    CHECK_REFUSED(cgrpo_step(sampler, 1, X, NULL, NULL, &noise, N, NULL, NULL), BAD, "velocity");
    CHECK_REFUSED(cgrpo_step(sampler, 1, X, V, NULL, NULL, N, NULL, NULL), BAD, "noise");
    CHECK_REFUSED(cgrpo_step(sampler, 1, X, V, NULL, &noise, NULL, NULL, NULL), BAD, "next_latents");
    CHECK_REFUSED(cgrpo_log_prob(NULL, 1, X, V, NULL, N, log_prob), BAD, "sampler");
    CHECK_REFUSED(cgrpo_log_prob(sampler, 1, NULL, V, NULL, N, log_prob), BAD, "latents");
    CHECK_REFUSED(cgrpo_log_prob(sampler, 1, X, NULL, NULL, N, log_prob), BAD, "velocity");
    CHECK_REFUSED(cgrpo_log_prob(sampler, 1, X, V, NULL, NULL, log_prob), BAD, "next_latents");
    CHECK_REFUSED(cgrpo_log_prob(sampler, 1, X, V, NULL, N, NULL), BAD, "log_prob");
    CHECK_REFUSED(cgrpo_log_prob_vjp(NULL, 1, X, V, NULL, N, grad, N, NULL, NULL), BAD, "sampler");
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, 1, NULL, V, NULL, N, grad, N, NULL, NULL), BAD, "latents");
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, 1, X, NULL, NULL, N, grad, N, NULL, NULL), BAD, "velocity");
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, 1, X, V, NULL, NULL, grad, N, NULL, NULL), BAD, "next_latents");
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, 1, X, V, NULL, N, NULL, N, NULL, NULL), BAD, "grad_log_prob");
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, 1, X, V, NULL, N, grad, NULL, NULL, NULL), BAD, "grad_velocity");
    CHECK_REFUSED(cgrpo_log_prob_residual(NULL, 1, X, V, NULL, N, V, log_prob), BAD, "sampler");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, 1, NULL, V, NULL, N, V, log_prob), BAD, "latents");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, 1, X, NULL, NULL, N, V, log_prob), BAD, "velocity");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, 1, X, V, NULL, NULL, V, log_prob), BAD, "next_latents");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, 1, X, V, NULL, N, NULL, log_prob), BAD, "residual");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, 1, X, V, NULL, N, V, NULL), BAD, "log_prob");
    CHECK_REFUSED(cgrpo_log_prob_residual(sampler, T, X, V, NULL, N, V, log_prob), BAD, "step");
    CHECK_REFUSED(cgrpo_residual_vjp(NULL, 1, V, NULL, grad, N, NULL), BAD, "sampler");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, 1, NULL, NULL, grad, N, NULL), BAD, "residual");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, 1, V, NULL, NULL, N, NULL), BAD, "grad_log_prob");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, 1, V, NULL, grad, NULL, NULL), BAD, "grad_velocity");
    CHECK_REFUSED(cgrpo_residual_vjp(sampler, T, V, NULL, grad, N, NULL), BAD, "step");
    CHECK_REFUSED(cgrpo_normal(1, NULL, 0, 1, NULL), BAD, "out");
    CHECK_REFUSED(cgrpo_rollout(NULL, &trajectory, T, &noise, zero_velocity, NULL), BAD, "sampler");
    CHECK_REFUSED(cgrpo_rollout(sampler, NULL, T, &noise, zero_velocity, NULL), BAD, "trajectory");
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, NULL, zero_velocity, NULL), BAD, "noise");
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, NULL, NULL), BAD, "velocity");
    CHECK(trajectory.position == 0);
    CHECK_REFUSED(cgrpo_trajectory_log_probs(NULL, 0, NULL, L, W, curve), BAD, "sampler");
    CHECK_REFUSED(cgrpo_trajectory_log_probs(sampler, 0, NULL, NULL, W, curve), BAD, "latents");
    CHECK_REFUSED(cgrpo_trajectory_log_probs(sampler, 0, NULL, L, NULL, curve), BAD, "velocities");
    CHECK_REFUSED(cgrpo_trajectory_log_probs(sampler, 0, NULL, L, W, NULL), BAD, "log_probs");
    CHECK_REFUSED(cgrpo_trajectory_log_probs_vjp(NULL, 0, NULL, L, W, grads, G), BAD, "sampler");
    CHECK_REFUSED(cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, NULL, W, grads, G), BAD, "latents");
    CHECK_REFUSED(cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, L, NULL, grads, G), BAD, "velocities");
    CHECK_REFUSED(cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, L, W, NULL, G), BAD, "grad_log_probs");
    CHECK_REFUSED(cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, L, W, grads, NULL), BAD, "grad_velocities");
    CHECK_REFUSED(cgrpo_trajectory_residuals(NULL, 0, NULL, L, W, W, curve), BAD, "sampler");
    CHECK_REFUSED(cgrpo_trajectory_residuals(sampler, 0, NULL, NULL, W, W, curve), BAD, "latents");
    CHECK_REFUSED(cgrpo_trajectory_residuals(sampler, 0, NULL, L, NULL, W, curve), BAD, "velocities");
    CHECK_REFUSED(cgrpo_trajectory_residuals(sampler, 0, NULL, L, W, NULL, curve), BAD, "residuals");
    CHECK_REFUSED(cgrpo_trajectory_residuals(sampler, 0, NULL, L, W, W, NULL), BAD, "log_probs");
    CHECK_REFUSED(cgrpo_trajectory_residuals_vjp(NULL, 0, NULL, W, grads, G), BAD, "sampler");
    CHECK_REFUSED(cgrpo_trajectory_residuals_vjp(sampler, 0, NULL, NULL, grads, G), BAD, "residuals");
    CHECK_REFUSED(cgrpo_trajectory_residuals_vjp(sampler, 0, NULL, W, NULL, G), BAD, "grad_log_probs");
    CHECK_REFUSED(cgrpo_trajectory_residuals_vjp(sampler, 0, NULL, W, grads, NULL), BAD, "grad_velocities");
    CHECK_REFUSED(cgrpo_relative_l1(NULL, 1, curve), BAD, "latents");
    CHECK_REFUSED(cgrpo_relative_l1(L, 1, NULL), BAD, "relative_l1");
    CHECK_REFUSED(cgrpo_plan_fixed(S, 2, NULL, S, &count), BAD, "sizes");
    CHECK_REFUSED(cgrpo_plan_fixed(S, 2, plan, S, NULL), BAD, "chunk_count");
    CHECK_REFUSED(cgrpo_plan_adaptive(NULL, B, S, NULL, plan, S, &count), BAD, "relative_l1");
    CHECK_REFUSED(cgrpo_plan_adaptive(curve, B, S, NULL, NULL, S, &count), BAD, "sizes");
    CHECK_REFUSED(cgrpo_plan_adaptive(curve, B, S, NULL, plan, S, NULL), BAD, "chunk_count");
    CHECK_REFUSED(cgrpo_chunk_weights(NULL, B, S, sizes, K, weights), BAD, "relative_l1");
    CHECK_REFUSED(cgrpo_chunk_weights(curve, B, S, NULL, K, weights), BAD, "sizes");
    CHECK_REFUSED(cgrpo_chunk_weights(curve, B, S, sizes, K, NULL), BAD, "weights");
    CHECK_REFUSED(cgrpo_chunk_select(B, K, NULL, NULL), BAD, "selection");
    CHECK_REFUSED(cgrpo_advantages(NULL, B, NULL, grad), BAD, "rewards");
    CHECK_REFUSED(cgrpo_advantages(rewards, B, NULL, NULL), BAD, "advantages");
    CHECK_REFUSED(cgrpo_chunk_loss(NULL, log_probs, grad, B, S, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                  "new_log_probs");
    CHECK_REFUSED(cgrpo_chunk_loss(log_probs, NULL, grad, B, S, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                  "old_log_probs");
    CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, NULL, B, S, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                  "advantages");
    CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, B, S, NULL, K, NULL, &loss, NULL, NULL, NULL), BAD,
                  "sizes");
    CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, B, S, sizes, K, NULL, NULL, NULL, NULL, NULL), BAD,
                  "loss");
}

static void steps_and_positions(void) {
    static const int64_t steps[] = {-1, T, INT64_MAX, INT64_MIN};
    static const int64_t ends[] = {0, -1, T + 1, INT64_MAX, INT64_MIN};
    fresh();
    for (int i = 0; i < 4; i++) {
        CHECK_REFUSED(cgrpo_step(sampler, steps[i], &x->tensor, &v->tensor, NULL, &noise, &next->tensor, NULL, NULL),
                      BAD, "step");
        CHECK_REFUSED(cgrpo_log_prob(sampler, steps[i], &x->tensor, &v->tensor, NULL, &next->tensor, log_prob), BAD,
                      "step");
        CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, steps[i], &x->tensor, &v->tensor, NULL, &next->tensor, grad,
                                         &next->tensor, NULL, NULL),
                      BAD, "step");
        CHECK_REFUSED(cgrpo_trajectory_log_probs(sampler, steps[i], NULL, &latents->tensor, &velocities->tensor, curve),
                      BAD, "first_step");
        CHECK_REFUSED(cgrpo_trajectory_log_probs_vjp(sampler, steps[i], NULL, &latents->tensor, &velocities->tensor,
                                                     curve, &gradients->tensor),
                      BAD, "first_step");
    }
    /* T velocities from step 1 on would pass the end. */
    CHECK_REFUSED(cgrpo_trajectory_log_probs(sampler, 1, NULL, &latents->tensor, &velocities->tensor, curve), BAD,
                  "first_step|velocities");
    for (int i = 0; i < 5; i++) {
        CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, ends[i], &noise, zero_velocity, NULL), BAD, "end");
        CHECK(trajectory.position == 0);
    }
    for (int i = 0; i < 4; i++) {
        const int64_t own[B] = {0, steps[i]}, none[B] = {0, 0};
        cgrpo_step_extras extras;
        cgrpo_step_extras_init(&extras, sizeof extras);
        extras.steps = own;
        CHECK_REFUSED(cgrpo_step(sampler, 0, &x->tensor, &v->tensor, &extras, &noise, &next->tensor, NULL, NULL), BAD,
                      "steps[1]");
        CHECK_REFUSED(cgrpo_trajectory_log_probs(sampler, 0, own, &latents->tensor, &velocities->tensor, curve), BAD,
                      "first_steps[1]");
        CHECK_REFUSED(cgrpo_divergence_from_velocity(sampler, 0, own, CGRPO_DIVERGENCE_MEAN, &v->tensor, &e->tensor,
                                                     log_prob, NULL, NULL),
                      BAD, "steps[1]");
        extras.steps = none;
        CHECK_REFUSED(cgrpo_log_prob(sampler, 1, &x->tensor, &v->tensor, &extras, &next->tensor, log_prob), BAD,
                      "step = 1");
    }
    trajectory.position = 3;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, 3, &noise, zero_velocity, NULL), BAD, "end");
    trajectory.position = T;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, zero_velocity, NULL), BAD, "position|end");
    trajectory.position = -1;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, zero_velocity, NULL), BAD, "position");
    trajectory.position = INT64_MIN;
    CHECK_REFUSED(cgrpo_rollout(sampler, &trajectory, T, &noise, zero_velocity, NULL), BAD, "position");
    CHECK_REFUSED(cgrpo_normal(1, NULL, -2, 1, &x->tensor), BAD, "step");
    CHECK_REFUSED(cgrpo_normal(1, NULL, (int64_t)1 << 31, 1, &x->tensor), BAD, "step");
    CHECK_REFUSED(cgrpo_normal(1, NULL, 0, -1, &x->tensor), BAD, "threads");
    CHECK_REFUSED(cgrpo_normal(1, NULL, 0, 257, &x->tensor), BAD, "threads");
    CHECK_REFUSED(cgrpo_relative_l1(&latents->tensor, -1, curve), BAD, "threads");
    CHECK_REFUSED(cgrpo_relative_l1(&latents->tensor, 257, curve), BAD, "threads");
    CHECK_REFUSED(cgrpo_diversity(&x->tensor, 0, -1, curve), BAD, "threads");
    CHECK_REFUSED(cgrpo_diversity(&x->tensor, 1, 1, curve), BAD, "group_size");
    CHECK_REFUSED(cgrpo_diversity(&x->tensor, B - 1, 1, curve), BAD, "group_size");
    CHECK_REFUSED(cgrpo_diversity(&x->tensor, INT64_MIN, 1, curve), BAD, "group_size");
    CHECK_REFUSED(cgrpo_diversity(&x->tensor, 0, 1, NULL), BAD, "diversity");
}

/* In each tensor of each call: the status, the tensor and the sample. */
static void non_finite_numbers(void) {
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float right;
#define PUT_IN(a, index, call, words)                      \
    right = ((float *)(a)->tensor.data)[index];            \
    ((float *)(a)->tensor.data)[index] = wrong[i];         \
    CHECK_REFUSED(call, NAN_IN, words);                    \
    CHECK(strstr(cgrpo_last_error(), "sample 2") != NULL); \
    ((float *)(a)->tensor.data)[index] = right
        fresh();
        gradients = array_new(CGRPO_TYPE_F32, B, D, 0);
        PUT_IN(x, 2 * D + 3, call_step(), "latents");
        PUT_IN(v, 2 * D + 3, call_step(), "velocity|latents");
        noise.given = &e->tensor;
        PUT_IN(e, 2 * D + 3, call_step(), "noise|given|latents");
        PUT_IN(x, 2 * D + 3, call_log_prob(), "latents|log-prob");
        PUT_IN(v, 2 * D + 3, call_log_prob(), "velocity|latents|log-prob");
        PUT_IN(next, 2 * D + 3, call_log_prob(), "latents|log-prob");
        PUT_IN(x, 2 * D + 3, call_vjp(), "latents|log-prob");
        PUT_IN(v, 2 * D + 3, call_vjp(), "velocity|latents|log-prob");
        PUT_IN(next, 2 * D + 3, call_vjp(), "latents|log-prob");
        fresh();
        PUT_IN(latents, (2 * (T + 1) + 3) * D, call_trajectory_log_probs(), "latents|log-prob");
        CHECK(strstr(cgrpo_last_error(), "step") != NULL);
        PUT_IN(velocities, (2 * T + 3) * D, call_trajectory_log_probs(), "step 3");
        PUT_IN(velocities, (2 * T + 3) * D, call_trajectory_vjp(), "step 3");
        PUT_IN(latents, (2 * (T + 1) + 3) * D, call_relative_l1(), "latents");
        PUT_IN(x, 2 * D + 3, call_diversity(), "features");
#undef PUT_IN
        rolled = latents;
        ((float *)latents->tensor.data)[2 * (T + 1) * D] = wrong[i];
        CHECK_REFUSED(call_rollout(), NAN_IN, "sample 2");
        CHECK(trajectory.position == 0);
        fresh();
        gradients = array_new(CGRPO_TYPE_F32, B, D, 0);
        grad[2] = wrong[i];
        CHECK_REFUSED(call_vjp(), NAN_IN, "grad_log_prob");
        fresh();
        rewards[2] = wrong[i];
        CHECK_REFUSED(cgrpo_advantages(rewards, B, NULL, grad), NAN_IN, "reward");
        CHECK(strstr(cgrpo_last_error(), "2") != NULL);
        curve[2 * S] = wrong[i];
        CHECK_REFUSED(with_adaptive(NULL), NAN_IN, "relative_l1");
        CHECK_REFUSED(cgrpo_chunk_weights(curve, B, S, sizes, K, weights), NAN_IN, "relative_l1");
        log_probs[2 * S] = wrong[i];
        CHECK_REFUSED(with_loss(NULL), NAN_IN, "log_probs");
        log_probs[2 * S] = -1;
        grad[2] = wrong[i];
        CHECK_REFUSED(with_loss(NULL), NAN_IN, "advantages");
    }
    /* A ratio that is too large for a double, where no clipping bounds the loss. */
    fresh();
    grad[0] = -1;
    for (int k = 0; k < S; k++) log_probs[k] = -1e6;
    {
        double others[B * S];
        for (int k = 0; k < B * S; k++) others[k] = 1e6;
        CHECK_REFUSED(cgrpo_chunk_loss(others, log_probs, grad, B, S, sizes, K, NULL, &loss, NULL, NULL, NULL), NAN_IN,
                      "ratio");
    }
}

static void counts_and_chunk_sizes(void) {
    static const int64_t short_sum[2] = {2, 2}, long_sum[2] = {2, 4}, zero[2] = {0, 5}, negative[2] = {-1, 6},
                         huge[2] = {INT64_MAX, INT64_MAX};
    static const int64_t *const wrong[] = {short_sum, long_sum, zero, negative, huge};
    static const int64_t counts[] = {0, -1, INT64_MIN};
    int64_t plan[S], count;
    fresh();
    for (int i = 0; i < 5; i++) {
        CHECK_REFUSED(cgrpo_chunk_weights(curve, B, S, wrong[i], K, weights), BAD, "sizes");
        CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, B, S, wrong[i], K, NULL, &loss, NULL, NULL, NULL),
                      BAD, "sizes");
    }
    for (int i = 0; i < 3; i++) {
        int64_t n = counts[i];
        CHECK_REFUSED(cgrpo_plan_fixed(n, 2, plan, S, &count), BAD, "steps");
        CHECK_REFUSED(cgrpo_plan_fixed(S, n, plan, S, &count), BAD, "size");
        CHECK_REFUSED(cgrpo_plan_fixed(S, 2, plan, n, &count), BAD, "capacity");
        CHECK_REFUSED(cgrpo_plan_adaptive(curve, n, S, NULL, plan, S, &count), BAD, "batch");
        CHECK_REFUSED(cgrpo_plan_adaptive(curve, B, n, NULL, plan, S, &count), BAD, "steps");
        CHECK_REFUSED(cgrpo_plan_adaptive(curve, B, S, NULL, plan, n, &count), BAD, "capacity");
        CHECK_REFUSED(cgrpo_chunk_weights(curve, n, S, sizes, K, weights), BAD, "batch");
        CHECK_REFUSED(cgrpo_chunk_weights(curve, B, n, sizes, K, weights), BAD, "steps");
        CHECK_REFUSED(cgrpo_chunk_weights(curve, B, S, sizes, n, weights), BAD, "chunk_count");
        CHECK_REFUSED(cgrpo_chunk_select(n, K, NULL, selection), BAD, "batch");
        CHECK_REFUSED(cgrpo_chunk_select(B, n, NULL, selection), BAD, "chunk_count");
        CHECK_REFUSED(cgrpo_advantages(rewards, n, NULL, grad), BAD, "count");
        CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, n, S, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                      "batch");
        CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, B, n, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                      "steps");
        CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, B, S, sizes, n, NULL, &loss, NULL, NULL, NULL), BAD,
                      "chunk_count");
    }
    /* Products that overflow: found before anything is read. */
    CHECK_REFUSED(cgrpo_plan_adaptive(curve, MANY, MANY, NULL, plan, S, &count), BAD, "batch|steps");
    CHECK_REFUSED(cgrpo_plan_adaptive(curve, MANY, S, NULL, plan, S, &count), BAD, "batch|steps");
    CHECK_REFUSED(cgrpo_chunk_weights(curve, MANY, S, sizes, K, weights), BAD, "batch|steps");
    CHECK_REFUSED(cgrpo_chunk_select(MANY, MANY, NULL, selection), BAD, "batch|chunk_count");
    CHECK_REFUSED(cgrpo_chunk_select(INT64_MAX, 2, NULL, selection), BAD, "batch|chunk_count");
    CHECK_REFUSED(cgrpo_advantages(rewards, INT64_MAX, NULL, grad), BAD, "count");
    CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, MANY, S, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                  "batch|steps");
    CHECK_REFUSED(cgrpo_chunk_loss(log_probs, log_probs, grad, B, MANY, sizes, K, NULL, &loss, NULL, NULL, NULL), BAD,
                  "batch|steps|sizes");
}

/* Divergences and weights, beyond what `tensors` checks. */
static void divergences(void) {
    static const int64_t first_alone[K] = {1, 4}, huge[2] = {INT64_MAX, INT64_MAX};
    cgrpo_sampler *ode = sampler_new(T, CGRPO_DYNAMICS_ODE, 0, 1);
    cgrpo_tensor *V, *E, *X, *N, *G;
    fresh();
    gradients = array_new(CGRPO_TYPE_F32, B, D, 0);
    V = &v->tensor, E = &e->tensor, X = &x->tensor, N = &next->tensor, G = &gradients->tensor;
#define FROM_VELOCITY(sampler, step, kind, up, out) \
    cgrpo_divergence_from_velocity(sampler, step, NULL, kind, V, E, log_prob, up, out)
#define FROM_SAMPLED(sampler, step, kind, noise) \
    cgrpo_divergence_from_sampled(sampler, step, NULL, kind, X, V, noise, N, log_prob, NULL, NULL)
    CHECK_OK(FROM_VELOCITY(sampler, 1, CGRPO_DIVERGENCE_MEAN, NULL, NULL));
    CHECK_REFUSED(FROM_VELOCITY(NULL, 1, 1, NULL, NULL), BAD, "sampler");
    CHECK_REFUSED(FROM_VELOCITY(sampler, -1, 1, NULL, NULL), BAD, "step");
    CHECK_REFUSED(FROM_VELOCITY(sampler, T, 1, NULL, NULL), BAD, "step");
    CHECK_REFUSED(FROM_VELOCITY(sampler, INT64_MAX, 1, NULL, NULL), BAD, "step");
    CHECK_REFUSED(FROM_VELOCITY(sampler, 1, 0, NULL, NULL), BAD, "kind");
    CHECK_REFUSED(FROM_VELOCITY(sampler, 1, 5, NULL, NULL), BAD, "kind");
    CHECK_REFUSED(FROM_VELOCITY(sampler, 1, 1, grad, NULL), BAD, "grad_velocity");
    CHECK_REFUSED(FROM_VELOCITY(sampler, 1, 1, NULL, G), BAD, "grad_divergence");
    CHECK_REFUSED(FROM_VELOCITY(ode, 1, CGRPO_DIVERGENCE_GAUSSIAN, NULL, NULL), BAD, "deterministic");
    CHECK_REFUSED(FROM_VELOCITY(ode, 1, CGRPO_DIVERGENCE_GAUSSIAN_PER_TIME, NULL, NULL), BAD, "deterministic");
    CHECK_OK(FROM_VELOCITY(ode, 1, CGRPO_DIVERGENCE_VELOCITY, NULL, NULL));
    CHECK_REFUSED(FROM_SAMPLED(sampler, 1, 1, NULL), BAD, "noise");
    CHECK_REFUSED(FROM_SAMPLED(sampler, 1, 9, &noise), BAD, "kind");
    CHECK_REFUSED(FROM_SAMPLED(sampler, T, 1, &noise), BAD, "step");
    CHECK_OK(FROM_SAMPLED(ode, 1, CGRPO_DIVERGENCE_MEAN, NULL));
    ((float *)V->data)[2 * D] = NAN;
    CHECK_REFUSED(FROM_VELOCITY(sampler, 1, 1, NULL, NULL), NAN_IN, "sample 2");
    CHECK_REFUSED(FROM_SAMPLED(sampler, 1, 1, &noise), NAN_IN, "sample 2");
    fresh();
    V = &v->tensor, E = &e->tensor, grad[1] = NAN, gradients = array_new(CGRPO_TYPE_F32, B, D, 0);
    CHECK_REFUSED(call_divergence(), NAN_IN, "grad_divergence");
    CHECK_REFUSED(call_sampled_divergence(), NAN_IN, "grad_divergence");
#undef FROM_VELOCITY
#undef FROM_SAMPLED
    CHECK_OK(cgrpo_gcpo_weights(sizes, K, weights));
    CHECK_REFUSED(cgrpo_gcpo_weights(NULL, K, weights), BAD, "sizes");
    CHECK_REFUSED(cgrpo_gcpo_weights(sizes, K, NULL), BAD, "weights");
    CHECK_REFUSED(cgrpo_gcpo_weights(sizes, 0, weights), BAD, "chunk_count");
    CHECK_REFUSED(cgrpo_gcpo_weights(huge, K, weights), BAD, "sizes");
    CHECK_REFUSED(cgrpo_gcpo_weights(first_alone, K, weights), BAD, "step 0");
    cgrpo_chunk_stats total, other;
    memset(&total, 0, sizeof total), total.struct_size = sizeof total, other = total;
    CHECK_OK(cgrpo_chunk_stats_merge(&total, &other));
    CHECK_REFUSED(cgrpo_chunk_stats_merge(NULL, &other), BAD, "total");
    CHECK_REFUSED(cgrpo_chunk_stats_merge(&total, NULL), BAD, "other");
#define WITH(change, words)                                                        \
    (memset(&other, 0, sizeof other), other.struct_size = sizeof other, (change)); \
    CHECK_REFUSED(cgrpo_chunk_stats_merge(&total, &other), BAD, words)
    WITH(other.selected = -1, "other.selected");
    WITH(other.ratio_mean = NAN, "other.ratio_mean");
    WITH(other.ratio_std = -1, "other.ratio_std");
    WITH(other.ratio_min = INFINITY, "other.ratio_min");
    WITH(other.ratio_max = -1, "other.ratio_max");
    WITH(other.clip_fraction_low = 1.5, "other.clip_fraction_low");
    WITH(other.clip_fraction_high = NAN, "other.clip_fraction_high");
    WITH(other.approximate_kl = INFINITY, "other.approximate_kl");
    WITH(other.effective_sample_size = 2, "other.effective_sample_size");
    WITH(other.log_ratio_max = -1, "other.log_ratio_max");
#undef WITH
    CHECK_OK(cgrpo_tempflow_weights(sampler, sizes, K, weights));
    CHECK_REFUSED(cgrpo_tempflow_weights(NULL, sizes, K, weights), BAD, "sampler");
    CHECK_REFUSED(cgrpo_tempflow_weights(sampler, NULL, K, weights), BAD, "sizes");
    CHECK_REFUSED(cgrpo_tempflow_weights(sampler, sizes, K, NULL), BAD, "weights");
    CHECK_REFUSED(cgrpo_tempflow_weights(sampler, sizes, 1, weights), BAD, "sizes");
    CHECK_REFUSED(cgrpo_tempflow_weights(ode, sizes, K, weights), BAD, "stochastic");
    cgrpo_sampler_destroy(ode);
}

/* The forward process, beyond what `tensors` checks. */
static void forward_process(void) {
    double outside[B] = {0.5, 0, 0.5, 0.5};
    cgrpo_tensor *X, *V, *E, *G;
    cgrpo_forward_extras o;
    fresh();
    gradients = array_new(CGRPO_TYPE_F32, B, D, 0);
    X = &x->tensor, V = &v->tensor, E = &e->tensor, G = &gradients->tensor;
#define NOISED(times, noise, draw, threads) cgrpo_forward_noised(X, times, noise, draw, threads, G)
#define DISTANCE(noise, draw, threads, up, out) \
    cgrpo_forward_distance(X, V, noise, draw, threads, &o, log_prob, up, out)
#define EXPECT(change, up, out, words)       \
    cgrpo_forward_extras_init(&o, sizeof o); \
    change;                                  \
    CHECK_REFUSED(DISTANCE(&noise, 0, 1, up, out), BAD, words)
    CHECK_OK(NOISED(halves, &noise, 0, 1));
    CHECK_REFUSED(NOISED(NULL, &noise, 0, 1), BAD, "times");
    CHECK_REFUSED(NOISED(halves, NULL, 0, 1), BAD, "noise");
    CHECK_REFUSED(NOISED(halves, &noise, -1, 1), BAD, "draw");
    CHECK_REFUSED(NOISED(halves, &noise, 1 << 29, 1), BAD, "draw");
    CHECK_REFUSED(NOISED(halves, &noise, 0, -1), BAD, "threads");
    CHECK_REFUSED(NOISED(outside, &noise, 0, 1), BAD, "times[1]");
    outside[1] = 1.001;
    CHECK_REFUSED(NOISED(outside, &noise, 0, 1), BAD, "times[1]");
    outside[1] = NAN;
    CHECK_REFUSED(NOISED(outside, &noise, 0, 1), NAN_IN, "times[1]");
    cgrpo_forward_extras_init(&o, sizeof o);
    CHECK_OK(DISTANCE(&noise, (1 << 29) - 1, 1, grad, G));
    CHECK_REFUSED(DISTANCE(NULL, 0, 1, NULL, NULL), BAD, "noise");
    CHECK_REFUSED(DISTANCE(&noise, INT64_MAX, 1, NULL, NULL), BAD, "draw");
    CHECK_REFUSED(DISTANCE(&noise, 0, 257, NULL, NULL), BAD, "threads");
    EXPECT((void)0, grad, NULL, "grad_velocity");
    EXPECT((void)0, NULL, G, "grad_distance");
    EXPECT(o.old_distance = log_prob, NULL, NULL, "old_velocity");
    EXPECT(o.grad_old_divergence = grad, NULL, G, "old_velocity");
    EXPECT(o.reference_divergence = log_prob, NULL, NULL, "reference_velocity");
    EXPECT(o.grad_reference_divergence = grad, NULL, G, "reference_velocity");
    EXPECT(o.nft_beta = 1, NULL, NULL, "old_velocity");
    EXPECT((o.old_velocity = E, o.nft_beta = -1), NULL, NULL, "nft_beta");
    EXPECT((o.old_velocity = E, o.nft_beta = NAN), NULL, NULL, "nft_beta");
    EXPECT((o.old_velocity = E, o.nft_beta = INFINITY), NULL, NULL, "nft_beta");
    EXPECT((o.old_velocity = E, o.positive_distance = log_prob), NULL, NULL, "nft_beta");
    EXPECT((o.old_velocity = E, o.grad_negative_distance = grad), NULL, G, "nft_beta");
    cgrpo_tensor shifted = *G;
    shifted.data = (float *)V->data + 1, shifted.shape = V->shape;
    cgrpo_forward_extras_init(&o, sizeof o);
    CHECK_REFUSED(DISTANCE(&noise, 0, 1, grad, &shifted), BAD, "overlaps velocity");
#undef EXPECT
#undef NOISED
#undef DISTANCE
}

static void forward_objectives(void) {
    static const double numbers[B] = {0.1, 0.2, 0.3, 0.4}, negative[B] = {0, 0, -0.1, 0};
    double broken[B] = {0, 0, 0, INFINITY};
    int64_t chosen[B], rejected[B], count;
    cgrpo_nft_options n;
    cgrpo_dgpo_options g;
    cgrpo_crd_options c;
    cgrpo_dpo_options p;
    cgrpo_time_options t;
    fresh();
#define EXPECT(o, type, change, call, words) \
    type##_init(&o, sizeof o);               \
    change;                                  \
    CHECK_REFUSED(call(&o), BAD, words)
    EXPECT(n, cgrpo_nft_options, n.beta = 0, with_nft, "beta");
    EXPECT(n, cgrpo_nft_options, n.beta = INFINITY, with_nft, "beta");
    EXPECT(n, cgrpo_nft_options, n.advantage_clip = 0, with_nft, "advantage_clip");
    EXPECT(n, cgrpo_nft_options, n.floor = -1, with_nft, "floor");
    EXPECT(n, cgrpo_nft_options, n.weighting = 4, with_nft, "weighting");
    EXPECT(n, cgrpo_nft_options, n.mode = 0, with_nft, "mode");
    EXPECT(n, cgrpo_nft_options, n.kl = 1, with_nft, "reference_divergence");
    EXPECT(n, cgrpo_nft_options, n.kl = -1, with_nft, "kl");
    EXPECT(n, cgrpo_nft_options, n.grad_reference_divergence = grads, with_nft, "reference_divergence");
    EXPECT(n, cgrpo_nft_options, n.times = negative, with_nft, "times[0]");
    CHECK_REFUSED(cgrpo_nft_loss(halves, halves, rewards, B, 1, NULL, &loss, NULL, NULL, NULL), BAD, "times");
    CHECK_REFUSED(cgrpo_nft_loss(NULL, halves, rewards, B, 1, &n, &loss, NULL, NULL, NULL), BAD, "positive_distance");
    CHECK_REFUSED(cgrpo_nft_loss(halves, NULL, rewards, B, 1, &n, &loss, NULL, NULL, NULL), BAD, "negative_distance");
    CHECK_REFUSED(cgrpo_nft_loss(halves, halves, NULL, B, 1, &n, &loss, NULL, NULL, NULL), BAD, "advantages");
    CHECK_REFUSED(cgrpo_nft_loss(halves, halves, rewards, 0, 1, &n, &loss, NULL, NULL, NULL), BAD, "batch");
    CHECK_REFUSED(cgrpo_nft_loss(halves, halves, rewards, B, MANY, &n, &loss, NULL, NULL, NULL), BAD, "count");
    CHECK_REFUSED(cgrpo_nft_loss(halves, halves, rewards, B, 1, &n, NULL, NULL, NULL, NULL), BAD, "loss");
    EXPECT(g, cgrpo_dgpo_options, g.beta = -1, with_dgpo, "beta");
    EXPECT(g, cgrpo_dgpo_options, g.group_size = 3, with_dgpo, "group_size");
    EXPECT(g, cgrpo_dgpo_options, (g.group_size = 2, g.group_ids = chosen), with_dgpo, "group_ids");
    EXPECT(g, cgrpo_dgpo_options, g.clip_low = 1.1, with_dgpo, "clip_low");
    EXPECT(g, cgrpo_dgpo_options, g.clip_high = NAN, with_dgpo, "clip_high");
    EXPECT(g, cgrpo_dgpo_options, g.clip_kl = 2, with_dgpo, "clip_kl");
    EXPECT(g, cgrpo_dgpo_options, g.clip_kl = 1, with_dgpo, "clip_kl = 1 is of clipped distances");
    EXPECT(g, cgrpo_dgpo_options, g.clip_distance = -1, with_dgpo, "clip_distance");
    EXPECT(g, cgrpo_dgpo_options, g.old_distance = negative, with_dgpo, "old_distance");
    EXPECT(c, cgrpo_crd_options, c.beta = NAN, with_crd, "beta");
    EXPECT(c, cgrpo_crd_options, c.regression = 3, with_crd, "regression");
    EXPECT(c, cgrpo_crd_options, c.temperature = -1, with_crd, "temperature");
    EXPECT(c, cgrpo_crd_options, c.absolute = numbers, with_crd, "old_absolute");
    EXPECT(c, cgrpo_crd_options, c.kl_least = -2, with_crd, "kl_least");
    EXPECT(c, cgrpo_crd_options, c.floor = 0, with_crd, "floor");
    EXPECT(p, cgrpo_dpo_options, p.beta = 0, with_dpo, "beta");
    EXPECT(t, cgrpo_time_options, t.distribution = 0, with_times, "distribution");
    EXPECT(t, cgrpo_time_options, t.distribution = CGRPO_TIME_DISTRIBUTION_DISCRETE, with_times, "values");
    EXPECT(t, cgrpo_time_options, (t.values = numbers, t.values_count = 2), with_times, "discrete");
    EXPECT(t, cgrpo_time_options, t.values_count = 2, with_times, "values");
    EXPECT(t, cgrpo_time_options, t.stratified = 2, with_times, "stratified");
    EXPECT(t, cgrpo_time_options, t.shift = 0, with_times, "shift");
    EXPECT(t, cgrpo_time_options, t.std = 0, with_times, "std");
    EXPECT(t, cgrpo_time_options, t.mean = INFINITY, with_times, "mean");
    EXPECT(t, cgrpo_time_options, (t.low = 0.5, t.high = 0.5), with_times, "low");
    EXPECT(t, cgrpo_time_options, t.least = 1, with_times, "least");
#undef EXPECT
    CHECK_REFUSED(cgrpo_times(0, 1, 0, NULL, log_prob), BAD, "batch");
    CHECK_REFUSED(cgrpo_times(B, 0, 0, NULL, log_prob), BAD, "count");
    CHECK_REFUSED(cgrpo_times(B, 1, -1, NULL, log_prob), BAD, "draw");
    CHECK_REFUSED(cgrpo_times(B, 1, 0, NULL, NULL), BAD, "times");
    CHECK_REFUSED(cgrpo_dpo_loss(halves, halves, halves, broken, B, 1, NULL, &loss, NULL, NULL, NULL), NAN_IN,
                  "rejected_reference_distance = inf of sample 3");
    CHECK_REFUSED(cgrpo_dpo_loss(halves, negative, halves, halves, B, 1, NULL, &loss, NULL, NULL, NULL), BAD,
                  "sample 2");
    CHECK_REFUSED(cgrpo_dgpo_loss(halves, halves, broken, B, 1, NULL, &loss, NULL, NULL), NAN_IN, "advantages[3]");
    CHECK_REFUSED(cgrpo_matching_log_probs(halves, NULL, B, 2, 1, log_prob, NULL), BAD, "times");
    CHECK_REFUSED(cgrpo_matching_log_probs(halves, NULL, B, 6, 1, log_prob, NULL), BAD, "weighting");
    CHECK_REFUSED(cgrpo_matching_log_probs(halves, NULL, B, 1, 0, log_prob, NULL), BAD, "power");
    CHECK_REFUSED(cgrpo_matching_log_probs(halves, NULL, 0, 1, 1, log_prob, NULL), BAD, "count");
    CHECK_REFUSED(cgrpo_matching_log_probs(halves, NULL, B, 1, 1, NULL, NULL), BAD, "log_probs");
    CHECK_REFUSED(cgrpo_matching_log_probs(broken, NULL, B, 1, 1, log_prob, NULL), NAN_IN, "distances");
    CHECK_REFUSED(cgrpo_preference_pairs(broken, B, 0, NULL, chosen, rejected, &count), NAN_IN, "scores[3]");
    CHECK_REFUSED(cgrpo_preference_pairs(halves, B, 3, NULL, chosen, rejected, &count), BAD, "group_size");
    CHECK_REFUSED(cgrpo_preference_pairs(halves, B, 0, NULL, NULL, rejected, &count), BAD, "chosen");
    CHECK_REFUSED(cgrpo_preference_pairs(halves, B, 0, NULL, chosen, rejected, NULL), BAD, "pair_count");
}

static void objective_options(void) {
    static const int64_t outside[1] = {K}, negative[1] = {-1}, twice[2] = {1, 1};
    static const int32_t enums[] = {0, -1, 99, INT32_MIN};
    static double numbers[B * S];
    static uint8_t none_present[B * S];
    cgrpo_adaptive_options a;
    cgrpo_select_options s;
    cgrpo_advantage_options g;
    cgrpo_chunk_loss_options l;
    fresh();
#define EXPECT(o, type, change, call, words) \
    type##_init(&o, sizeof o);               \
    change;                                  \
    CHECK_REFUSED(call(&o), BAD, words)
    EXPECT(a, cgrpo_adaptive_options, a.max_size = -1, with_adaptive, "max_size");
    EXPECT(a, cgrpo_adaptive_options, a.min_size = -1, with_adaptive, "min_size");
    EXPECT(a, cgrpo_adaptive_options, a.min_size = 8, with_adaptive, "min_size");
    EXPECT(s, cgrpo_select_options, s.fraction = 0, with_select, "fraction");
    EXPECT(s, cgrpo_select_options, s.fraction = -1, with_select, "fraction");
    EXPECT(s, cgrpo_select_options, s.fraction = 1.01, with_select, "fraction");
    EXPECT(s, cgrpo_select_options, s.fraction = NAN, with_select, "fraction");
    EXPECT(s, cgrpo_select_options, s.fraction = 0.4, with_select, "fraction"); /* floor(2 x 0.4) = 0 chunks */
    EXPECT(s, cgrpo_select_options, s.weighting = 0, with_select, "weighting");
    EXPECT(s, cgrpo_select_options, s.weighting = 3, with_select, "weighting");
    EXPECT(s, cgrpo_select_options, s.reserved = 1, with_select, "reserved");
    EXPECT(s, cgrpo_select_options, s.fixed_count = -1, with_select, "fixed");
    EXPECT(s, cgrpo_select_options, s.fixed_count = 1, with_select, "fixed");
    EXPECT(s, cgrpo_select_options, s.fixed = outside, with_select, "fixed");
    EXPECT(s, cgrpo_select_options, (s.fixed = outside, s.fixed_count = 1), with_select, "fixed");
    EXPECT(s, cgrpo_select_options, (s.fixed = negative, s.fixed_count = 1), with_select, "fixed");
    EXPECT(s, cgrpo_select_options, (s.fixed = twice, s.fixed_count = 2), with_select, "fixed|chunks");
    EXPECT(s, cgrpo_select_options, (s.fixed = twice, s.fixed_count = INT64_MAX), with_select, "fixed_count");
    EXPECT(s, cgrpo_select_options, (s.fixed = twice, s.fixed_count = K + 1), with_select, "fixed_count");
    EXPECT(s, cgrpo_select_options, (s.fixed = twice, s.fixed_count = 1, s.fraction = 0.5), with_select,
           "fixed|fraction");
    EXPECT(s, cgrpo_select_options, (s.fixed = twice, s.fixed_count = 1, s.weights = weights), with_select,
           "fixed|weights");
    weights[3] = -1;
    EXPECT(s, cgrpo_select_options, (s.weights = weights, s.fraction = 0.5), with_select, "weights");
    cgrpo_select_options_init(&s, sizeof s);
    s.weights = weights, s.fraction = 0.5, s.weighting = CGRPO_WEIGHTING_SOFTMAX;
    CHECK_OK(with_select(&s));
    weights[3] = NAN;
    CHECK(with_select(&s) == BAD || with_select(&s) == NAN_IN);
    CHECK(strstr(cgrpo_last_error(), "weights") != NULL);
    EXPECT(g, cgrpo_advantage_options, g.group_size = 3, with_advantage, "group_size"); /* 4 samples */
    EXPECT(g, cgrpo_advantage_options, g.group_size = -1, with_advantage, "group_size");
    EXPECT(g, cgrpo_advantage_options, g.group_size = 5, with_advantage, "group_size");
    EXPECT(g, cgrpo_advantage_options, g.group_size = INT64_MAX, with_advantage, "group_size");
    EXPECT(g, cgrpo_advantage_options, g.clamp = 0, with_advantage, "clamp");
    EXPECT(g, cgrpo_advantage_options, g.clamp = NAN, with_advantage, "clamp");
    EXPECT(g, cgrpo_advantage_options, g.epsilon = -1, with_advantage, "epsilon");
    EXPECT(g, cgrpo_advantage_options, g.epsilon = NAN, with_advantage, "epsilon");
    EXPECT(l, cgrpo_chunk_loss_options, l.clip_low = -1e-9, with_loss, "clip_low");
    EXPECT(l, cgrpo_chunk_loss_options, l.clip_low = 1.1, with_loss, "clip_low");
    EXPECT(l, cgrpo_chunk_loss_options, l.clip_low = NAN, with_loss, "clip_low");
    EXPECT(l, cgrpo_chunk_loss_options, l.clip_high = -1, with_loss, "clip_high");
    EXPECT(l, cgrpo_chunk_loss_options, l.clip_high = NAN, with_loss, "clip_high");
    EXPECT(l, cgrpo_chunk_loss_options, (l.clip_low = 0.999, l.clip_high = 1.001), with_loss, "look like bounds");
    EXPECT(l, cgrpo_chunk_loss_options, l.kl = -1, with_loss, "kl");
    EXPECT(l, cgrpo_chunk_loss_options, l.kl = NAN, with_loss, "kl");
#define LOSS(change, words) EXPECT(l, cgrpo_chunk_loss_options, change, with_loss, words)
    for (int i = 0; i < 4; i++) {
        LOSS(l.surrogate = enums[i], "surrogate");
        LOSS(l.average = enums[i], "average");
        LOSS(l.kl_estimator = enums[i], "kl_estimator");
        LOSS(l.kl_level = enums[i], "kl_level");
        LOSS(l.advantage_level = enums[i], "advantage_level");
    }
    LOSS(l.ratio_cap = 0.99, "ratio_cap");
    LOSS(l.ratio_cap = NAN, "ratio_cap");
    LOSS(l.dual_clip = 1, "dual_clip");
    LOSS(l.dual_clip = NAN, "dual_clip");
    LOSS((l.ratio_cap = 2, l.dual_clip = 3), "exclude each other");
    LOSS((l.ratio_cap = 2, l.surrogate = CGRPO_SURROGATE_CISPO), "ratio_cap");
    LOSS((l.dual_clip = 2, l.surrogate = CGRPO_SURROGATE_LOG_CLIPPED), "dual_clip");
    LOSS((l.clip_low = 0.1, l.surrogate = CGRPO_SURROGATE_UNCLIPPED), "clip_low");
    LOSS((l.clip_low = 1.1, l.surrogate = CGRPO_SURROGATE_CISPO), "clip_low");
    LOSS((l.clip_low = -1, l.surrogate = CGRPO_SURROGATE_LOG_CLIPPED), "clip_low");
    LOSS(l.normaliser = -1, "normaliser");
    LOSS(l.normaliser = NAN, "normaliser");
    LOSS(l.normaliser = INFINITY, "normaliser");
    LOSS(l.divergence_threshold = 1, "divergence_threshold");
    LOSS(l.surrogate = CGRPO_SURROGATE_DIVERGENCE_MASK, "divergence");
    LOSS(l.divergence = numbers, "divergence");
    LOSS((l.surrogate = CGRPO_SURROGATE_DIVERGENCE_MASK, l.divergence = numbers, l.divergence_threshold = -1),
         "divergence_threshold");
    LOSS((l.surrogate = CGRPO_SURROGATE_CISPO, l.ratio_bias = numbers), "ratio_bias");
    LOSS((l.surrogate = CGRPO_SURROGATE_CISPO, l.ratio_scale = numbers), "ratio_scale");
    LOSS(l.grad_ratio_bias = numbers, "grad_ratio_bias");
    LOSS(l.weights_per_sample = 1, "weights_per_sample");
    LOSS((l.weights_per_sample = 2, l.weights = numbers), "weights_per_sample");
    LOSS(l.mask = none_present, "mask");
    LOSS(l.reserved = 1, "reserved");
    LOSS(l.reserved2 = 1, "reserved");
    LOSS(l.sapo_temperature_pos = 2, "sapo_temperature_pos = 2.0 is for SAPO only");
    LOSS((l.surrogate = CGRPO_SURROGATE_SAPO, l.sapo_temperature_neg = 0), "sapo_temperature_neg = 0.0");
    LOSS((l.surrogate = CGRPO_SURROGATE_SAPO, l.sapo_temperature_pos = NAN), "sapo_temperature_pos");
    LOSS((l.surrogate = CGRPO_SURROGATE_SAPO, l.clip_low = 0.1), "clip_low");
    LOSS(l.vespo_k_neg = 1, "vespo_k_neg = 1.0");
    LOSS((l.surrogate = CGRPO_SURROGATE_VESPO, l.vespo_k_pos = -1), "vespo_k_pos");
    LOSS((l.surrogate = CGRPO_SURROGATE_VESPO, l.vespo_lambda_pos = 0), "vespo_lambda_pos");
    LOSS((l.surrogate = CGRPO_SURROGATE_VESPO, l.vespo_lambda_neg = INFINITY), "vespo_lambda_neg");
    LOSS((l.surrogate = CGRPO_SURROGATE_VESPO, l.ratio_bias = numbers), "ratio_bias");
    LOSS((l.surrogate = CGRPO_SURROGATE_SPO, l.clip_high = 0), "clip_high = 0.0");
    numbers[1] = -1;
    LOSS(l.weights = numbers, "weights");
    LOSS(l.kl_weights = numbers, "kl_weights are factors of kl, which is 0");
    LOSS((l.kl = 1, l.kl_weights = numbers), "kl_weights[1] = -1.0");
    LOSS(l.ratio_scale = numbers, "ratio_scale");
    LOSS((l.surrogate = CGRPO_SURROGATE_DIVERGENCE_MASK, l.divergence = numbers), "divergence");
    numbers[1] = NAN;
    cgrpo_chunk_loss_options_init(&l, sizeof l);
    l.reference_log_probs = numbers;
    CHECK_REFUSED(with_loss(&l), NAN_IN, "reference_log_probs");
    cgrpo_chunk_loss_options_init(&l, sizeof l);
    l.ratio_bias = numbers;
    CHECK_REFUSED(with_loss(&l), NAN_IN, "ratio_bias");
#undef LOSS
    memset(selection, 0, sizeof selection);
    EXPECT(l, cgrpo_chunk_loss_options, l.selection = selection, with_loss, "selection"); /* nothing to train */
#undef EXPECT
}

static void trainer_options(void) {
    static const int64_t short_sum[2] = {2, 2}, half[1] = {8};
    static const double weights[4] = {1, -0.5, 1, 1};
    cgrpo_trainer *none = NULL;
    cgrpo_trainer_options o;
    CHECK_REFUSED(cgrpo_trainer_create(NULL, &none), BAD, "options|latent_size");
    CHECK_REFUSED(cgrpo_trainer_create(&o, NULL), BAD, "trainer");
#define EXPECT(change, words)                 \
    cgrpo_trainer_options_init(&o, sizeof o); \
    o.latent_size = 4, o.condition_size = 2;  \
    change;                                   \
    CHECK_REFUSED(cgrpo_trainer_create(&o, &none), BAD, words)
#define BOUNDS(field, least, most)        \
    EXPECT(o.field = (least)-1, #field);  \
    EXPECT(o.field = -1, #field);         \
    EXPECT(o.field = INT64_MIN, #field);  \
    EXPECT(o.field = (most) + 1, #field); \
    EXPECT(o.field = INT64_MAX, #field)
    BOUNDS(latent_size, 1, 1048576);
    BOUNDS(condition_size, 1, 65536);
    BOUNDS(width, 1, 16384);
    BOUNDS(blocks, 1, 256);
    BOUNDS(embedding_size, 2, 16384);
    EXPECT(o.embedding_size = 3, "embedding_size");
    BOUNDS(steps, 2, 10000);
    EXPECT(o.shift = 0, "shift");
    EXPECT(o.shift = NAN, "shift");
    EXPECT(o.dynamics = 0, "dynamics");
    EXPECT(o.dynamics = 99, "dynamics");
    EXPECT(o.dynamics = CGRPO_DYNAMICS_ODE, "dynamics|eta"); /* no density, nothing to train */
    EXPECT(o.share_noise = 2, "share_noise");
    EXPECT(o.eta = -1, "eta");
    EXPECT(o.eta = 0, "eta");
    EXPECT(o.eta = NAN, "eta");
    EXPECT((o.chunk_sizes = short_sum, o.chunk_count = 2), "chunk_sizes");
    EXPECT((o.chunk_sizes = half, o.chunk_count = 1), "chunk_sizes");
    EXPECT((o.chunk_sizes = half, o.chunk_count = 0), "chunk_count|chunk_sizes");
    EXPECT((o.chunk_sizes = half, o.chunk_count = -1), "chunk_count|chunk_sizes");
    EXPECT((o.chunk_sizes = NULL, o.chunk_count = 1), "chunk_count|chunk_sizes");
    EXPECT(o.group_size = 1, "group_size");
    EXPECT(o.group_size = INT64_MIN, "group_size");
    EXPECT(o.chunk_fraction = 0, "chunk_fraction");
    EXPECT(o.chunk_fraction = 0.1, "chunk_fraction"); /* floor(4 x 0.1) = 0 chunks */
    EXPECT(o.chunk_fraction = NAN, "chunk_fraction");
    EXPECT(o.weighted_selection = 2, "weighted_selection");
    EXPECT(o.threads = -1, "threads");
    EXPECT(o.threads = 257, "threads");
    EXPECT(o.advantage_clamp = 0, "advantage_clamp");
    EXPECT(o.clip_low = -1, "clip_low");
    EXPECT(o.clip_high = NAN, "clip_high");
    EXPECT((o.clip_low = 0.8, o.clip_high = 1.2), "look like bounds");
    EXPECT(o.kl = -1, "kl");
    EXPECT(o.updates_per_rollout = 0, "updates_per_rollout");
    EXPECT(o.learning_rate = -1, "learning_rate");
    EXPECT(o.learning_rate = NAN, "learning_rate");
    EXPECT(o.beta1 = 1, "beta1");
    EXPECT(o.beta1 = -0.1, "beta1");
    EXPECT(o.beta2 = NAN, "beta2");
    EXPECT(o.adam_epsilon = -1, "adam_epsilon");
    EXPECT(o.weight_decay = -1, "weight_decay");
    EXPECT(o.max_grad_norm = 0, "max_grad_norm");
    EXPECT(o.max_grad_norm = NAN, "max_grad_norm");
    EXPECT(o.ema_decay = 1, "ema_decay");
    EXPECT(o.ema_decay = -0.5, "ema_decay");
    EXPECT(o.reference_kl = -1e-9, "reference_kl");
    EXPECT(o.reference_kl = INFINITY, "reference_kl");
    EXPECT(o.reference_divergence = 0, "reference_divergence");
    EXPECT(o.reference_divergence = 5, "reference_divergence");
    EXPECT(o.reference_last_step = -1e-9, "reference_last_step");
    EXPECT(o.reference_last_step = INFINITY, "reference_last_step");
    EXPECT(o.reserved = 1, "reserved");
    EXPECT((o.chunk_weights = weights, o.chunk_weights_count = 3), "chunk_weights has 3 numbers for 4 chunks");
    EXPECT((o.chunk_weights = weights, o.chunk_weights_count = 4), "chunk_weights[1] = -0.5");
    EXPECT((o.chunk_weights = weights, o.chunk_weights_count = 0), "chunk_weights_count");
    EXPECT((o.chunk_weights = weights, o.chunk_weights_count = INT64_MAX), "chunk_weights_count");
    EXPECT((o.chunk_weights = NULL, o.chunk_weights_count = 4), "chunk_weights is null");
#undef EXPECT
#undef BOUNDS
    CHECK(none == NULL);
}

static void trainer_calls(void) {
    cgrpo_trainer *t = small_trainer(), *none = NULL;
    array *c = array_filled(CGRPO_TYPE_F32, B, 2, 0, 1), *narrow = array_filled(CGRPO_TYPE_F32, B, 1, 0, 1);
    array *doubles = array_filled(CGRPO_TYPE_F64, B, 2, 0, 1), *other = array_filled(CGRPO_TYPE_F32, B, D + 1, 0, 1);
    cgrpo_pretrain_options p;
    cgrpo_tensor *C, *X, *V;
    int64_t count;
    fresh();
    C = &c->tensor, X = &x->tensor, V = &v->tensor;
    CHECK_REFUSED(cgrpo_trainer_info(NULL, NULL, &count, &count), BAD, "trainer");
    CHECK_REFUSED(cgrpo_trainer_pretrain(NULL, X, C, NULL, NULL, NULL), BAD, "trainer");
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, NULL, C, NULL, NULL, NULL), BAD, "images");
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, X, NULL, NULL, NULL, NULL), BAD, "conditions");
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, &other->tensor, C, NULL, NULL, NULL), BAD, "images");
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, X, &narrow->tensor, NULL, NULL, NULL), BAD, "conditions");
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, X, &doubles->tensor, NULL, NULL, NULL), TYPE, "conditions");
#define EXPECT(change, words)                  \
    cgrpo_pretrain_options_init(&p, sizeof p); \
    change;                                    \
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, X, C, &p, NULL, NULL), BAD, words)
    EXPECT(p.steps = 0, "steps");
    EXPECT(p.steps = INT64_MIN, "steps");
    EXPECT(p.batch_size = 0, "batch_size");
    EXPECT(p.batch_size = INT64_MAX, "batch_size");
    EXPECT(p.learning_rate = -1, "learning_rate");
    EXPECT(p.learning_rate = NAN, "learning_rate");
    EXPECT(p.ema_decay = 1, "ema_decay");
#undef EXPECT
    CHECK_REFUSED(cgrpo_trainer_iterate(NULL, C, first_pixel, NULL, NULL), BAD, "trainer");
    CHECK_REFUSED(cgrpo_trainer_iterate(t, NULL, first_pixel, NULL, NULL), BAD, "conditions");
    CHECK_REFUSED(cgrpo_trainer_iterate(t, C, NULL, NULL, NULL), BAD, "reward");
    CHECK_REFUSED(cgrpo_trainer_iterate(t, &narrow->tensor, first_pixel, NULL, NULL), BAD, "conditions");
    CHECK_REFUSED(cgrpo_trainer_iterate(t, &doubles->tensor, first_pixel, NULL, NULL), TYPE, "conditions");
    CHECK_REFUSED(cgrpo_trainer_sample(NULL, C, CGRPO_PARAMETERS_TRAINED, 0, 1, X), BAD, "trainer");
    CHECK_REFUSED(cgrpo_trainer_sample(t, NULL, CGRPO_PARAMETERS_TRAINED, 0, 1, X), BAD, "conditions");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, CGRPO_PARAMETERS_TRAINED, 0, 1, NULL), BAD, "images");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, CGRPO_PARAMETERS_TRAINED, 0, 1, &other->tensor), BAD, "images");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, 0, 0, 1, X), BAD, "parameters");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, 3, 0, 1, X), BAD, "parameters");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, CGRPO_PARAMETERS_TRAINED, -1, 1, X), BAD, "eta");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, CGRPO_PARAMETERS_TRAINED, NAN, 1, X), BAD, "eta");
    CHECK_REFUSED(cgrpo_trainer_velocity(NULL, CGRPO_PARAMETERS_TRAINED, X, 0.5, C, V), BAD, "trainer");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, 0, X, 0.5, C, V), BAD, "parameters");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, NULL, 0.5, C, V), BAD, "latents");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, X, 0.5, NULL, V), BAD, "conditions");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, X, 0.5, C, NULL), BAD, "velocity");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, X, NAN, C, V), BAD, "sigma");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, X, 1.5, C, V), BAD, "sigma");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, X, -0.5, C, V), BAD, "sigma");
    CHECK_REFUSED(cgrpo_trainer_save(NULL, "x"), BAD, "trainer");
    CHECK_REFUSED(cgrpo_trainer_save(t, NULL), BAD, "directory");
    CHECK_REFUSED(cgrpo_trainer_load(NULL, &none), BAD, "directory");
    CHECK_REFUSED(cgrpo_trainer_load("x", NULL), BAD, "trainer");
    set(c, 3, NAN);
    CHECK_REFUSED(cgrpo_trainer_iterate(t, C, first_pixel, NULL, NULL), NAN_IN, "conditions");
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, X, C, NULL, NULL, NULL), NAN_IN, "conditions");
    CHECK_REFUSED(cgrpo_trainer_sample(t, C, CGRPO_PARAMETERS_TRAINED, 0, 1, X), NAN_IN, "conditions");
    set(c, 3, 1), set(x, 7, INFINITY);
    CHECK_REFUSED(cgrpo_trainer_pretrain(t, X, C, NULL, NULL, NULL), NAN_IN, "images");
    CHECK_REFUSED(cgrpo_trainer_velocity(t, CGRPO_PARAMETERS_TRAINED, X, 0.5, C, V), NAN_IN, "latents");
    CHECK(none == NULL);
    cgrpo_trainer_destroy(t);
}

/* Counts that could be right, in a process that may not have the memory for them. */
static void too_little_memory(void) {
    int status = 0;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        struct rlimit limit;
        cgrpo_trainer *none = NULL;
        cgrpo_trainer_options o;
        limit.rlim_cur = limit.rlim_max = (rlim_t)1 << 30;
        setrlimit(RLIMIT_AS, &limit);
        check_wrong = 0;
        cgrpo_trainer_options_init(&o, sizeof o);
        o.latent_size = 65536, o.condition_size = 4096, o.width = 16384, o.blocks = 200;
        CHECK_REFUSED(cgrpo_trainer_create(&o, &none), CGRPO_OUT_OF_MEMORY, "memory");
        CHECK(none == NULL);
        fflush(stdout);
        _exit(check_wrong != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void) {
    RUN(schedules);
    RUN(extreme_shifts_give_a_schedule_or_a_sentence);
    RUN(sampler_sigmas);
    RUN(sampler_options);
    RUN(struct_sizes);
    RUN(tensors);
    RUN(null_arguments);
    RUN(steps_and_positions);
    RUN(non_finite_numbers);
    RUN(counts_and_chunk_sizes);
    RUN(divergences);
    RUN(forward_process);
    RUN(forward_objectives);
    RUN(objective_options);
    RUN(trainer_options);
    RUN(trainer_calls);
    RUN_NATIVELY(too_little_memory);
    return finish("bad_input");
}
