/* Advantages of steps and trees, groups, weights and forks: against their formulas, computed here. */
#include "arrays.h"

enum { B = 6, S = 4, K = 2 };
static const int64_t sizes[K] = {1, 3};

static void gains_are_differences_and_turning_points_gain_the_rest(void) {
    /* Against the whole, its way: step 2 turns. Step 0 goes against it. */
    static const double rewards[2 * (S + 1)] = {1, 0.5, 0.25, 2, 3, 4, 3, 2, 2.5, 1};
    double gains[2 * S];
    CHECK_OK(cgrpo_step_gains(rewards, 2, S, CGRPO_GAIN_STEP, gains));
    for (int i = 0; i < 2 * S; i++)
        CHECK(gains[i] == rewards[i / S * (S + 1) + i % S + 1] - rewards[i / S * (S + 1) + i % S]);
    CHECK_OK(cgrpo_step_gains(rewards, 2, S, CGRPO_GAIN_TURNING_POINT, gains));
    CHECK(gains[0] == -0.5 && gains[1] == -0.25 && gains[2] == 3 - 0.25 && gains[3] == 1);
    CHECK(gains[4] == 1 - 4 && gains[5] == -1 && gains[6] == 0.5 && gains[7] == 1 - 2.5);
    CHECK_REFUSED(cgrpo_step_gains(rewards, 2, S, 3, gains), CGRPO_INVALID_ARGUMENT, "kind");
    CHECK_REFUSED(cgrpo_step_gains(NULL, 2, S, 1, gains), CGRPO_INVALID_ARGUMENT, "rewards");
    CHECK_REFUSED(cgrpo_step_gains(rewards, 2, S, 1, NULL), CGRPO_INVALID_ARGUMENT, "gains");
    CHECK_REFUSED(cgrpo_step_gains(rewards, 0, S, 1, gains), CGRPO_INVALID_ARGUMENT, "batch");
    CHECK_REFUSED(cgrpo_step_gains(rewards, 2, 0, 1, gains), CGRPO_INVALID_ARGUMENT, "steps");
}

static void advantages_of_steps_are_those_of_each_column_and_may_be_in_place(void) {
    double rewards[B * S], advantages[B * S], column[B];
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_size = 3, options.clamp = 1;
    for (int i = 0; i < B * S; i++) rewards[i] = scattered(1, (uint64_t)i);
    CHECK_OK(cgrpo_step_advantages(rewards, B, S, &options, advantages));
    for (int k = 0; k < S; k++) {
        for (int i = 0; i < B; i++) column[i] = rewards[i * S + k];
        CHECK_OK(cgrpo_advantages(column, B, &options, column));
        for (int i = 0; i < B; i++) CHECK(advantages[i * S + k] == column[i]);
    }
    CHECK_OK(cgrpo_step_advantages(rewards, B, S, &options, rewards));
    CHECK_SAME_BITS(rewards, advantages, sizeof rewards);
    options.reward_count = 2;
    CHECK_REFUSED(cgrpo_step_advantages(rewards, B, S, &options, advantages), CGRPO_INVALID_ARGUMENT, "reward_count");
    CHECK_REFUSED(cgrpo_step_advantages(NULL, B, S, NULL, advantages), CGRPO_INVALID_ARGUMENT, "rewards");
    CHECK_REFUSED(cgrpo_step_advantages(rewards, B, S, NULL, NULL), CGRPO_INVALID_ARGUMENT, "advantages");
    rewards[5] = NAN;
    CHECK_REFUSED(cgrpo_step_advantages(rewards, B, S, NULL, advantages), CGRPO_NON_FINITE, "sample 1 at step 1");
}

static void a_node_has_the_mean_of_its_samples_or_of_its_children(void) {
    /* After step 0 two nodes of three samples; after step 1 nodes of 1, 2, 3; then all apart. */
    static const int64_t nodes[B * 3] = {0, 10, 1, 0, 11, 2, 0, 11, 3, 5, 12, 4, 5, 12, 5, 5, 12, 6};
    static const double rewards[B] = {1, 2, 4, 3, 8, 1};
    double log_probs[B * 3] = {0}, advantages[B * 3], values[2], other[3] = {1, 3, 4};
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    CHECK_OK(cgrpo_tree_advantages(rewards, nodes, NULL, B, 3, &options, advantages));
    values[0] = 7.0 / 3, values[1] = 4;
    CHECK_OK(cgrpo_advantages(values, 2, &options, values));
    CHECK_OK(cgrpo_advantages(other, 3, &options, other));
    for (int i = 0; i < B; i++) {
        CHECK_NEAR(advantages[3 * i], values[i / 3], 1e-14);
        CHECK_NEAR(advantages[3 * i + 1], other[i == 0 ? 0 : i < 3 ? 1 : 2], 1e-14);
    }
    /* Node 11 is twice as likely as node 10. */
    log_probs[3 * 1 + 1] = log_probs[3 * 2 + 1] = log(2);
    CHECK_OK(cgrpo_tree_advantages(rewards, nodes, log_probs, B, 3, &options, advantages));
    values[0] = (1 + 2 * 3.0) / 3, values[1] = 4;
    CHECK_OK(cgrpo_advantages(values, 2, &options, values));
    for (int i = 0; i < B; i++) CHECK_NEAR(advantages[3 * i], values[i / 3], 1e-14);
    options.group_size = 2;
    CHECK_REFUSED(cgrpo_tree_advantages(rewards, nodes, NULL, B, 3, &options, advantages), CGRPO_INVALID_ARGUMENT,
                  "two groups");
    CHECK_REFUSED(cgrpo_tree_advantages(NULL, nodes, NULL, B, 3, NULL, advantages), CGRPO_INVALID_ARGUMENT, "rewards");
    CHECK_REFUSED(cgrpo_tree_advantages(rewards, NULL, NULL, B, 3, NULL, advantages), CGRPO_INVALID_ARGUMENT, "nodes");
    CHECK_REFUSED(cgrpo_tree_advantages(rewards, nodes, NULL, B, 3, NULL, NULL), CGRPO_INVALID_ARGUMENT, "advantages");
    log_probs[7] = INFINITY;
    CHECK_REFUSED(cgrpo_tree_advantages(rewards, nodes, log_probs, B, 3, NULL, advantages), CGRPO_NON_FINITE,
                  "log_probs of sample 2 at step 1");
}

static void groups_that_say_nothing_are_counted_and_masked(void) {
    static const double rewards[B] = {2, 2, 3, 1, 5, 5};
    uint8_t mask[B];
    int64_t groups = 0, zero_std = 0;
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_size = 2;
    CHECK_OK(cgrpo_zero_std_groups(rewards, B, &options, mask, &groups, &zero_std));
    CHECK(groups == 3 && zero_std == 2 && !mask[0] && !mask[1] && mask[2] && mask[3] && !mask[4] && !mask[5]);
    CHECK_OK(cgrpo_zero_std_groups(rewards, B, NULL, NULL, &groups, &zero_std));
    CHECK(groups == 1 && zero_std == 0);
    CHECK_REFUSED(cgrpo_zero_std_groups(rewards, B, NULL, mask, NULL, &zero_std), CGRPO_INVALID_ARGUMENT, "groups");
    CHECK_REFUSED(cgrpo_zero_std_groups(rewards, B, NULL, mask, &groups, NULL), CGRPO_INVALID_ARGUMENT, "zero_std");
    CHECK_REFUSED(cgrpo_zero_std_groups(NULL, B, NULL, mask, &groups, &zero_std), CGRPO_INVALID_ARGUMENT, "rewards");
    options.group_size = 4;
    CHECK_REFUSED(cgrpo_zero_std_groups(rewards, B, &options, mask, &groups, &zero_std), CGRPO_INVALID_ARGUMENT,
                  "group_size");
}

static void win_rates_count_ties_one_half(void) {
    double rewards[B] = {2, 2, 3, 1, 5, 5}, rates[B];
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_size = 3;
    CHECK_OK(cgrpo_win_rates(rewards, B, &options, rates));
    CHECK(rates[0] == 0.25 && rates[1] == 0.25 && rates[2] == 1 && rates[3] == 0 && rates[4] == 0.75);
    CHECK_OK(cgrpo_win_rates(rewards, B, &options, rewards));
    CHECK_SAME_BITS(rewards, rates, sizeof rates);
    CHECK_REFUSED(cgrpo_win_rates(NULL, B, &options, rates), CGRPO_INVALID_ARGUMENT, "rewards");
    CHECK_REFUSED(cgrpo_win_rates(rewards, B, &options, NULL), CGRPO_INVALID_ARGUMENT, "rates");
    rewards[3] = NAN;
    CHECK_REFUSED(cgrpo_win_rates(rewards, B, &options, rates), CGRPO_NON_FINITE, "rewards[3]");
}

static void rejection_bounds_the_divergence_of_a_weight(void) {
    double log_probs[B * S], behaviour[B * S], weights[B * K];
    cgrpo_importance_options o;
    cgrpo_importance_options_init(&o, sizeof o);
    for (int i = 0; i < B * S; i++) log_probs[i] = 0.4 * scattered(2, (uint64_t)i), behaviour[i] = 0;
    for (int k3 = 0; k3 < 2; k3++)
        for (int mean = 0; mean < 2; mean++) {
            int kept = 0;
            o.level = CGRPO_IMPORTANCE_LEVEL_CHUNK, o.geometric = mean, o.high = mean ? 0.02 : 0.05;
            o.mode = k3 ? CGRPO_IMPORTANCE_MODE_REJECT_K3 : CGRPO_IMPORTANCE_MODE_REJECT_K2;
            CHECK_OK(cgrpo_importance_weights(log_probs, behaviour, B, S, sizes, K, &o, weights));
            for (int i = 0; i < B; i++)
                for (int j = 0, first = 0; j < K; first += (int)sizes[j], j++) {
                    double sum = 0;
                    for (int t = first; t < first + sizes[j]; t++) {
                        double d = log_probs[i * S + t];
                        sum += k3 ? exp(d) - 1 - d : d * d / 2;
                    }
                    CHECK(weights[i * K + j] == (sum / (mean ? (double)sizes[j] : 1) <= o.high));
                    kept += weights[i * K + j] == 1;
                }
            CHECK(kept > 0 && kept < B * K);
        }
    log_probs[0] = 800;
    CHECK_OK(cgrpo_importance_weights(log_probs, behaviour, B, S, sizes, K, &o, weights));
    CHECK(weights[0] == 0);
}

static void importance_weights_are_bounded_ratios(void) {
    double log_probs[B * S], behaviour[B * S], weights[B * K];
    cgrpo_importance_options o;
    cgrpo_importance_options_init(&o, sizeof o);
    for (int i = 0; i < B * S; i++) log_probs[i] = 0.2 * scattered(2, (uint64_t)i), behaviour[i] = 0;
    int outside = 0;
    for (int32_t level = 1; level <= 3; level++)
        for (int32_t mode = 1; mode <= 3; mode++) {
            o.level = level, o.mode = mode, o.low = 0.95, o.high = 1.05;
            CHECK_OK(cgrpo_importance_weights(log_probs, behaviour, B, S, sizes, K, &o, weights));
            for (int i = 0; i < B; i++)
                for (int j = 0, first = 0; j < K; first += (int)sizes[j], j++) {
                    double expected = 0;
                    int begin = level == 3 ? 0 : first, count = level == 3 ? S : (int)sizes[j],
                        runs = level == 1 ? count : 1, length = level == 1 ? 1 : count;
                    for (int run = 0; run < runs; run++) {
                        double sum = 0, w;
                        for (int t = 0; t < length; t++) sum += log_probs[i * S + begin + run * length + t];
                        w = exp(sum);
                        outside += w < o.low || w > o.high;
                        expected += (mode == 1                 ? fmin(fmax(w, o.low), o.high)
                                     : w < o.low || w > o.high ? 0
                                     : mode == 2               ? w
                                                               : 1) /
                                    runs;
                    }
                    CHECK_NEAR(weights[i * K + j], expected, 1e-14);
                }
        }
    CHECK(outside > 20);
#define REFUSED(change, words)                                                                                         \
    cgrpo_importance_options_init(&o, sizeof o);                                                                       \
    change;                                                                                                            \
    CHECK_REFUSED(cgrpo_importance_weights(log_probs, behaviour, B, S, sizes, K, &o, weights), CGRPO_INVALID_ARGUMENT, \
                  words)
    REFUSED(o.level = 0, "level");
    REFUSED(o.mode = 6, "mode");
    REFUSED((o.mode = CGRPO_IMPORTANCE_MODE_REJECT_K2, o.low = 0.5), "low = 0.5");
    REFUSED((o.mode = CGRPO_IMPORTANCE_MODE_REJECT_K3, o.low = 0.5), "low = 0.5");
    REFUSED(o.low = -1, "low");
    REFUSED(o.low = NAN, "low");
    REFUSED(o.high = 0, "high");
    REFUSED((o.low = 2, o.high = 1), "high");
    REFUSED(o.geometric = 2, "geometric");
    REFUSED(o.reserved = 1, "reserved");
#undef REFUSED
    cgrpo_importance_options_init(&o, sizeof o);
    o.high = INFINITY;
    log_probs[1] = 800;
    CHECK_REFUSED(cgrpo_importance_weights(log_probs, behaviour, B, S, sizes, K, &o, weights), CGRPO_NON_FINITE,
                  "sample 0, chunk 1");
    log_probs[1] = NAN;
    CHECK_REFUSED(cgrpo_importance_weights(log_probs, behaviour, B, S, sizes, K, NULL, weights), CGRPO_NON_FINITE,
                  "log_probs of sample 0 at step 1");
    CHECK_REFUSED(cgrpo_importance_weights(NULL, behaviour, B, S, sizes, K, NULL, weights), CGRPO_INVALID_ARGUMENT,
                  "log_probs");
    CHECK_REFUSED(cgrpo_importance_weights(behaviour, NULL, B, S, sizes, K, NULL, weights), CGRPO_INVALID_ARGUMENT,
                  "behaviour_log_probs");
    CHECK_REFUSED(cgrpo_importance_weights(behaviour, behaviour, B, S, NULL, K, NULL, weights), CGRPO_INVALID_ARGUMENT,
                  "sizes");
    CHECK_REFUSED(cgrpo_importance_weights(behaviour, behaviour, B, S, sizes, K, NULL, NULL), CGRPO_INVALID_ARGUMENT,
                  "weights");
}

static void weights_even_out_the_gradients_of_the_steps(void) {
    cgrpo_sampler_options options;
    cgrpo_sampler *sampler = NULL, *ode = NULL;
    double sigmas[S + 2], weights[S], a, b, s, c, sum = 0;
    static const int64_t ones[S] = {1, 1, 1, 1};
    cgrpo_sampler_options_init(&options, sizeof options);
    CHECK_OK(shifted_schedule(S + 1, 3, sigmas));
    CHECK_OK(cgrpo_sampler_create(sigmas, S + 2, &options, &sampler));
    CHECK_OK(cgrpo_gradient_weights(sampler, CGRPO_GRADIENT_WEIGHTING_FLASH, ones, S, weights));
    for (int k = 0; k < S; k++) {
        double first, own;
        CHECK_OK(cgrpo_sampler_coefficients(sampler, 0, &a, &b, &s, &c));
        first = s / fabs(b);
        CHECK_OK(cgrpo_sampler_coefficients(sampler, k, &a, &b, &s, &c));
        own = s / fabs(b);
        CHECK_NEAR(weights[k] / weights[0], own / first, 1e-13);
        sum += weights[k];
    }
    CHECK_NEAR(sum, S, 1e-13);
    options.dynamics = CGRPO_DYNAMICS_ODE;
    CHECK_OK(cgrpo_sampler_create(sigmas, S + 2, &options, &ode));
    CHECK_REFUSED(cgrpo_gradient_weights(ode, 1, ones, S, weights), CGRPO_INVALID_ARGUMENT, "stochastic");
    CHECK_REFUSED(cgrpo_gradient_weights(NULL, 1, ones, S, weights), CGRPO_INVALID_ARGUMENT, "sampler");
    CHECK_REFUSED(cgrpo_gradient_weights(sampler, 4, ones, S, weights), CGRPO_INVALID_ARGUMENT, "kind");
    CHECK_REFUSED(cgrpo_gradient_weights(sampler, 1, NULL, S, weights), CGRPO_INVALID_ARGUMENT, "sizes");
    CHECK_REFUSED(cgrpo_gradient_weights(sampler, 1, ones, 2, weights), CGRPO_INVALID_ARGUMENT, "sizes");
    CHECK_REFUSED(cgrpo_gradient_weights(sampler, 1, ones, S, NULL), CGRPO_INVALID_ARGUMENT, "weights");
    cgrpo_sampler_destroy(sampler), cgrpo_sampler_destroy(ode);
}

static void a_hinge_of_norms_is_zero_up_to_the_reference(void) {
    static const int64_t shape[2] = {2, 3};
    double v[6] = {1, 2, -2, 0.5, 0, 0}, w[6] = {0, 3, 0, 1, 0, 0}, out[6], ratios[2], hinges[2];
    static const double grad[2] = {4, 7};
    cgrpo_tensor velocity = {0}, other, gradient;
    velocity.data = v, velocity.shape = shape, velocity.ndim = 2, velocity.type = CGRPO_TYPE_F64;
    other = gradient = velocity;
    other.data = w, gradient.data = out;
    CHECK_OK(cgrpo_norm_hinge(&velocity, &other, 1, ratios, hinges, grad, &gradient));
    CHECK(ratios[0] == 1 && hinges[0] == 0 && ratios[1] == 0.5 && hinges[1] == 0);
    for (int i = 0; i < 6; i++) CHECK(out[i] == 0);
    v[0] = 2;
    CHECK_OK(cgrpo_norm_hinge(&velocity, &other, 1, ratios, hinges, grad, &gradient));
    CHECK_NEAR(ratios[0], sqrt(12) / 3, 1e-15);
    CHECK(hinges[0] == 1);
    for (int i = 0; i < 3; i++) CHECK_NEAR(out[i], 4 * 2 * v[i] / 3, 1e-14);
    CHECK_OK(cgrpo_norm_hinge(&velocity, &other, 1, NULL, NULL, NULL, NULL));
    CHECK_REFUSED(cgrpo_norm_hinge(NULL, &other, 1, ratios, hinges, NULL, NULL), CGRPO_INVALID_ARGUMENT, "velocity");
    CHECK_REFUSED(cgrpo_norm_hinge(&velocity, NULL, 1, ratios, hinges, NULL, NULL), CGRPO_INVALID_ARGUMENT,
                  "reference_velocity");
    CHECK_REFUSED(cgrpo_norm_hinge(&velocity, &other, 1, ratios, hinges, grad, NULL), CGRPO_INVALID_ARGUMENT,
                  "grad_hinges and grad_velocity");
    CHECK_REFUSED(cgrpo_norm_hinge(&velocity, &other, -5, ratios, hinges, NULL, NULL), CGRPO_INVALID_ARGUMENT,
                  "threads");
    v[5] = NAN;
    CHECK_REFUSED(cgrpo_norm_hinge(&velocity, &other, 1, ratios, hinges, NULL, NULL), CGRPO_NON_FINITE, "sample 1");
}

static void ids_of_forks_are_their_own(void) {
    static const uint64_t own[2] = {1, UINT64_MAX};
    uint64_t ids[6], plain[4], again[4];
    CHECK_OK(cgrpo_forked_ids(own, 2, 5, 3, ids));
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++) CHECK(ids[i] != ids[j]);
    CHECK_OK(cgrpo_forked_ids(NULL, 2, 5, 2, plain));
    CHECK_OK(cgrpo_forked_ids(own, 1, 5, 3, again));
    CHECK(plain[2] == ids[0] && plain[3] == ids[1] && again[2] == ids[2]);
    CHECK_REFUSED(cgrpo_forked_ids(own, 2, 5, 3, NULL), CGRPO_INVALID_ARGUMENT, "ids");
    CHECK_REFUSED(cgrpo_forked_ids(own, 0, 5, 3, ids), CGRPO_INVALID_ARGUMENT, "batch");
    CHECK_REFUSED(cgrpo_forked_ids(own, 2, -1, 3, ids), CGRPO_INVALID_ARGUMENT, "step");
    CHECK_REFUSED(cgrpo_forked_ids(own, 2, 5, 0, ids), CGRPO_INVALID_ARGUMENT, "branches");
}

int main(void) {
    RUN(gains_are_differences_and_turning_points_gain_the_rest);
    RUN(advantages_of_steps_are_those_of_each_column_and_may_be_in_place);
    RUN(a_node_has_the_mean_of_its_samples_or_of_its_children);
    RUN(groups_that_say_nothing_are_counted_and_masked);
    RUN(win_rates_count_ties_one_half);
    RUN(importance_weights_are_bounded_ratios);
    RUN(rejection_bounds_the_divergence_of_a_weight);
    RUN(weights_even_out_the_gradients_of_the_steps);
    RUN(a_hinge_of_norms_is_zero_up_to_the_reference);
    RUN(ids_of_forks_are_their_own);
    return finish("credit");
}
