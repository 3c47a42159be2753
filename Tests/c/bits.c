/* A digest of what every kernel writes, for scripts/check-bits to compare: the same for any processor, instruction set
 * and number of threads. bits [THREADS] [small] */
#include "arrays.h"

static uint64_t digest_of(const void *data, size_t bytes) {
    const unsigned char *byte = data;
    uint64_t digest = 14695981039346656037u;
    for (size_t i = 0; i < bytes; i++) digest = (digest ^ byte[i]) * 1099511628211u;
    return digest;
}

static uint64_t contents(const array *a) {
    return digest_of(a->tensor.data, (size_t)(a->count * element_size(a->tensor.type)));
}

int main(int count, char **arguments) {
    /* Of the latents and of the velocities. */
    const char *names[] = {"f32", "f64", "bf16", "f16", "f32+bf16", "f32+f16"};
    const cgrpo_type types[] = {CGRPO_TYPE_F32, CGRPO_TYPE_F64, CGRPO_TYPE_BF16,
                                CGRPO_TYPE_F16, CGRPO_TYPE_F32, CGRPO_TYPE_F32};
    const cgrpo_type velocity_types[] = {CGRPO_TYPE_F32, CGRPO_TYPE_F64,  CGRPO_TYPE_BF16,
                                         CGRPO_TYPE_F16, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
    const int64_t sizes[] = {1, 8, 9, 63, 1031, 70001};
    const int32_t threads = count > 1 ? atoi(arguments[1]) : 1;
    const int small = count > 2; /* an emulated processor is slow */
    enum { B = 3, T = 17, k = 5 };
    double sigmas[T + 1], log_prob[B], change[B], grad[B] = {0.7, -1.3, 0.01};
    cgrpo_sampler *sampler = NULL;
    cgrpo_sampler_options options;
    cgrpo_sampler_options_init(&options, sizeof options);
    options.threads = threads;
    CHECK_OK(shifted_schedule(T, 3, sigmas));
    CHECK_OK(cgrpo_sampler_create(sigmas, T + 1, &options, &sampler));
    for (int t = 0; t < 6; t++)
        for (int s = 0; s < (small ? 5 : 6); s++) {
            const cgrpo_type type = types[t], of_velocity = velocity_types[t];
            const int64_t D = sizes[s];
            array *x = array_new(type, B, D, 0), *v = array_filled(of_velocity, B, D, 0, 2),
                  *u = array_filled(of_velocity, B, D, 0, 3), *w = array_filled(of_velocity, B, D, 0, 4);
            array *next = array_new(type, B, D, 0), *other = array_new(type, B, D, 0);
            array *out = array_new(of_velocity, B, D, 0), *out2 = array_new(of_velocity, B, D, 0);
            cgrpo_noise noise;
            cgrpo_step_extras extras;
            cgrpo_noise_init(&noise, sizeof noise);
            noise.seed = 99;
            cgrpo_step_extras_init(&extras, sizeof extras);
            extras.unconditional = &u->tensor;
            extras.guidance = 3.5;
            const char *name = names[t];
#define LINE(kernel, a, numbers)                                                                \
    printf("%s %s %d %016llx %016llx\n", kernel, name, (int)D, (unsigned long long)contents(a), \
           (unsigned long long)digest_of(numbers, sizeof numbers))
            CHECK_OK(cgrpo_normal(7, NULL, -1, threads, &x->tensor));
            LINE("normal", x, grad);
            CHECK_OK(cgrpo_step(sampler, k, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, log_prob, change));
            LINE("step", next, log_prob);
            LINE("relative_l1", next, change);
            CHECK_OK(cgrpo_log_prob(sampler, k, &x->tensor, &v->tensor, NULL, &next->tensor, log_prob));
            LINE("log_prob", next, log_prob);
            CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &v->tensor, NULL, &next->tensor, grad, &out->tensor,
                                        NULL, log_prob));
            LINE("log_prob_vjp", out, log_prob);
            if (of_velocity == CGRPO_TYPE_F32 || of_velocity == CGRPO_TYPE_F64) {
                CHECK_OK(cgrpo_log_prob_residual(sampler, k, &x->tensor, &v->tensor, NULL, &next->tensor, &out2->tensor,
                                                 log_prob));
                LINE("residual", out2, log_prob);
                CHECK_OK(cgrpo_residual_vjp(sampler, k, &out2->tensor, NULL, grad, &out2->tensor, NULL));
                CHECK(same_bits(out, out2));
            }
            CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &x->tensor, &v->tensor, &extras, &next->tensor, grad, &out->tensor,
                                        &out2->tensor, log_prob));
            LINE("guided vjp", out, log_prob);
            LINE("guided vjp, unconditional", out2, log_prob);
            CHECK_OK(cgrpo_step(sampler, k, &x->tensor, &v->tensor, &extras, &noise, &other->tensor, log_prob, change));
            LINE("guided step", other, log_prob);
            CHECK_OK(cgrpo_divergence_from_velocity(sampler, k, NULL, CGRPO_DIVERGENCE_GAUSSIAN, &v->tensor, &u->tensor,
                                                    log_prob, grad, &out->tensor));
            LINE("divergence", out, log_prob);
            CHECK_OK(cgrpo_divergence_from_sampled(sampler, k, NULL, CGRPO_DIVERGENCE_MEAN, &x->tensor, &v->tensor,
                                                   &noise, &next->tensor, log_prob, grad, &out->tensor));
            LINE("divergence from sampled", out, log_prob);
            const double at[B] = {1, 0.4, 1e-3};
            CHECK_OK(cgrpo_forward_noised(&x->tensor, at, &noise, 4, threads, &other->tensor));
            LINE("forward noised", other, at);
            CHECK_OK(
                cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 4, threads, NULL, log_prob, grad, &out->tensor));
            LINE("forward distance", out, log_prob);
            double numbers[4][B];
            cgrpo_forward_extras others;
            cgrpo_forward_extras_init(&others, sizeof others);
            others.old_velocity = &u->tensor, others.reference_velocity = &w->tensor, others.nft_beta = 0.3;
            others.positive_distance = numbers[0], others.negative_absolute = numbers[1];
            others.old_divergence = numbers[2], others.reference_distance = numbers[3];
            others.grad_positive_distance = grad, others.grad_reference_divergence = grad;
            CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &noise, 4, threads, &others, log_prob, NULL,
                                            &out->tensor));
            LINE("forward distances", out, numbers);
            const int64_t steps[B] = {9, 0, 14};
            const double guidances[B] = {2.5, 1, -0.5};
            extras.steps = steps, extras.guidances = guidances, extras.guidance = 1;
            CHECK_OK(cgrpo_step(sampler, 0, &x->tensor, &v->tensor, &extras, &noise, &next->tensor, log_prob, change));
            LINE("step of mixed steps", next, log_prob);
            CHECK_OK(cgrpo_log_prob_vjp(sampler, 0, &x->tensor, &v->tensor, &extras, &next->tensor, grad, &out->tensor,
                                        &out2->tensor, log_prob));
            LINE("vjp of mixed steps", out, log_prob);
            CHECK_OK(cgrpo_divergence_from_sampled(sampler, 0, steps, CGRPO_DIVERGENCE_GAUSSIAN, &x->tensor, &v->tensor,
                                                   &noise, &next->tensor, log_prob, grad, &out->tensor));
            LINE("divergence of mixed steps", out, log_prob);
        }
    cgrpo_sampler_destroy(sampler);
    return check_wrong != 0;
}
