/* One call of each hot function, for callgrind to count (scripts/check-instructions), on one thread; each is made once
 * before. A dump is named "set kernel type elements". */
#include "arrays.h"

#include <valgrind/callgrind.h>

enum { LARGE = 1 << 15, TINY = 64 };

static cgrpo_sampler *sampler;
static array *x, *v, *next_x, *grad_v;
static cgrpo_noise noise, given;
static double log_prob[2], grad[2] = {1, -1};

static void normal(void) { CHECK_OK(cgrpo_normal(1, NULL, 3, 1, &grad_v->tensor)); }

static void step(void) {
    CHECK_OK(cgrpo_step(sampler, 3, &x->tensor, &v->tensor, NULL, &noise, &next_x->tensor, log_prob, NULL));
}

static void log_probability(void) {
    CHECK_OK(cgrpo_log_prob(sampler, 3, &x->tensor, &v->tensor, NULL, &next_x->tensor, log_prob));
}

static void vjp(void) {
    CHECK_OK(cgrpo_log_prob_vjp(sampler, 3, &x->tensor, &v->tensor, NULL, &next_x->tensor, grad, &grad_v->tensor, NULL,
                                log_prob));
}

static void forward_distance(void) {
    CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &given, 0, 1, NULL, log_prob, NULL, NULL));
}

static void forward_gradient(void) {
    CHECK_OK(cgrpo_forward_distance(&x->tensor, &v->tensor, &given, 0, 1, NULL, log_prob, grad, &grad_v->tensor));
}

static void count(const char *types, const char *name, void (*kernel)(void)) {
    char line[64];
    snprintf(line, sizeof line, "%s %s %s %d", cgrpo_instruction_set(), name, types, (int)x->count);
    kernel();
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    kernel();
    CALLGRIND_DUMP_STATS_AT(line);
    CALLGRIND_STOP_INSTRUMENTATION;
}

int main(void) {
    static const struct {
        const char *name;
        cgrpo_type latents, velocities;
    } types[] = {{"f32", CGRPO_TYPE_F32, CGRPO_TYPE_F32},
                 {"bf16", CGRPO_TYPE_BF16, CGRPO_TYPE_BF16},
                 {"f16", CGRPO_TYPE_F16, CGRPO_TYPE_F16},
                 {"f32+bf16", CGRPO_TYPE_F32, CGRPO_TYPE_BF16},
                 {"f32+f16", CGRPO_TYPE_F32, CGRPO_TYPE_F16}};
    const int64_t sizes[] = {LARGE, TINY};
    sampler = sampler_new(17, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_noise_init(&noise, sizeof noise), cgrpo_noise_init(&given, sizeof given);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            const char *name = types[t].name;
            x = array_filled(types[t].latents, 2, sizes[s], 0, 1), next_x = array_new(types[t].latents, 2, sizes[s], 0);
            v = array_filled(types[t].velocities, 2, sizes[s], 0, 2);
            grad_v = array_new(types[t].velocities, 2, sizes[s], 0);
            if (types[t].latents == types[t].velocities) count(name, "normal", normal);
            count(name, "step", step); /* makes the next_x of the others */
            count(name, "log_prob", log_probability);
            count(name, "log_prob_vjp", vjp);
            given.given = &next_x->tensor;
            count(name, "forward_distance", forward_distance);
            count(name, "forward_gradient", forward_gradient);
        }
    cgrpo_sampler_destroy(sampler);
    return check_wrong != 0;
}
