/* A call of every function that can fail, on inputs of which each takes at least 1 KB, and a digest of what it wrote.
 */
// long: a case for each function
#ifndef CALLS_H
#define CALLS_H

#include "faults.h"

/* T steps, S of them trained */
enum { B = 16, T = 257, S = T - 1, D = 64, K = 128, WIDTH = 16, P = 16, G = 8, TRAINER_STEPS = 129 };

static uint64_t digest;
static int looking; /* while a call's result is looked at by another call */
static void wrote(const void *data, size_t bytes) { digest = digest_bytes(digest, data, bytes); }

static int64_t sizes[K], ids[B * G], window[S / 2], row_shape[2] = {B, D}, trajectory_shape[3] = {B, T + 1, D},
                                                    steps_shape[3] = {B, S, D};
static uint64_t sample_ids[B * G];
static uint8_t flags[B * S], selection[B * K];
static float x[B * D], v[B * D], u[B * D], next[B * D], written[2][B * D], latents[B * (T + 1) * D],
    velocities[B * S * D];
static double sigmas[T + 1], grad[B * S], old[B * S], curve[B * S], rewards[B * G], results[B * S], more[B * S],
    weights[B * K];
static cgrpo_sampler *sampler, *second_order;
static cgrpo_history *history;
static cgrpo_trainer *trainer;
static char checkpoint[300];

/* Of the trainer: conditions (P, 8), images (P, 32) */
static float conditions[P * 8], images[P * 32], drawn[P * 32];
static const int64_t conditions_shape[2] = {P, 8}, images_shape[2] = {P, 32};

static cgrpo_tensor row(float *data) { return tensor_of(data, row_shape, 2, CGRPO_TYPE_F32); }
static cgrpo_tensor of_conditions(void) { return tensor_of(conditions, conditions_shape, 2, CGRPO_TYPE_F32); }
static cgrpo_tensor of_images(float *data) { return tensor_of(data, images_shape, 2, CGRPO_TYPE_F32); }

static cgrpo_noise noise_of_ids(void) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = 3, noise.sample_ids = sample_ids;
    return noise;
}

static int scaled_velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *at, const cgrpo_tensor *out) {
    (void)user, (void)step;
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < D; j++)
            ((float *)out->data)[i * (out->strides ? out->strides[0] : D) + j] =
                (float)sigma * ((float *)at->data)[i * (at->strides ? at->strides[0] : D) + j];
    return 0;
}

static cgrpo_status schedule_make(void) {
    cgrpo_schedule_options options;
    cgrpo_schedule_options_init(&options, sizeof options);
    options.shift = 3, options.spacing = CGRPO_SCHEDULE_SPACING_KARRAS;
    cgrpo_status status = cgrpo_schedule_make(T, &options, results);
    wrote(results, (T + 1) * 8);
    return status;
}

static cgrpo_status schedule_flash(void) {
    int64_t count = 0;
    cgrpo_status status = cgrpo_schedule_flash(T, 3, 140, 0.9, results, T + 1, &count);
    wrote(results, (size_t)count * 8);
    return status;
}

static cgrpo_status timesteps(void) {
    cgrpo_status status = cgrpo_timesteps(sigmas, T + 1, 1000, 1, results);
    wrote(results, T * 8);
    return status;
}

static cgrpo_status flux_mu(void) { return cgrpo_flux_mu(1048576, 0.5, 1.15, results); }

static cgrpo_status sampler_create(void) {
    cgrpo_sampler *made = NULL;
    cgrpo_sampler_options options;
    cgrpo_sampler_options_init(&options, sizeof options);
    options.etas = curve, options.window = window, options.window_count = S / 2;
    cgrpo_status status = cgrpo_sampler_create(sigmas, T + 1, &options, &made);
    for (int64_t k = 0; k < T && made != NULL; k++) {
        double values[4];
        cgrpo_sampler_coefficients(made, k, values, values + 1, values + 2, values + 3);
        wrote(values, sizeof values);
    }
    cgrpo_sampler_destroy(made);
    return status;
}

static cgrpo_status sampler_info(void) {
    const double *of;
    int64_t count;
    cgrpo_sampler_options options;
    options.struct_size = sizeof options;
    return cgrpo_sampler_info(sampler, &options, &of, &count);
}

static cgrpo_status sampler_coefficients(void) {
    return cgrpo_sampler_coefficients(sampler, 3, results, results + 1, results + 2, results + 3);
}

static cgrpo_status normal(void) {
    cgrpo_tensor out = row(written[0]);
    cgrpo_status status = cgrpo_normal(1, sample_ids, 0, 1, &out);
    wrote(written[0], sizeof written[0]);
    return status;
}

static cgrpo_step_extras guided(const cgrpo_tensor *unconditional) {
    cgrpo_step_extras extras;
    cgrpo_step_extras_init(&extras, sizeof extras);
    extras.unconditional = unconditional, extras.guidance = 2;
    return extras;
}

/* A step and a guidance of its own for each sample. */
static int64_t own_steps[B];
static double own_guidances[B];
static cgrpo_step_extras mixed(const cgrpo_tensor *unconditional) {
    cgrpo_step_extras extras = guided(unconditional);
    for (int i = 0; i < B; i++) own_steps[i] = 7 * i % S, own_guidances[i] = 0.5 * i;
    extras.guidance = 1, extras.steps = own_steps, extras.guidances = own_guidances;
    return extras;
}

static cgrpo_status step(void) {
    cgrpo_tensor at = row(x), velocity = row(v), other = row(u), out = row(written[0]);
    cgrpo_step_extras extras = mixed(&other);
    cgrpo_noise noise = noise_of_ids();
    cgrpo_status status = cgrpo_step(sampler, 0, &at, &velocity, &extras, &noise, &out, results, more);
    wrote(written[0], sizeof written[0]), wrote(results, B * 8), wrote(more, B * 8);
    return status;
}

static cgrpo_status log_prob(void) {
    cgrpo_tensor at = row(x), velocity = row(v), other = row(u), to = row(next);
    cgrpo_step_extras extras = guided(&other);
    cgrpo_status status = cgrpo_log_prob(sampler, 3, &at, &velocity, &extras, &to, results);
    wrote(results, B * 8);
    return status;
}

static cgrpo_status log_prob_vjp(void) {
    cgrpo_tensor at = row(x), velocity = row(v), other = row(u), to = row(next), left = row(written[0]),
                 right = row(written[1]);
    cgrpo_step_extras extras = mixed(&other);
    cgrpo_status status = cgrpo_log_prob_vjp(sampler, 0, &at, &velocity, &extras, &to, grad, &left, &right, results);
    wrote(written, sizeof written), wrote(results, B * 8);
    return status;
}

static cgrpo_status log_prob_residual(void) {
    cgrpo_tensor at = row(x), velocity = row(v), other = row(u), to = row(next), out = row(written[0]);
    cgrpo_step_extras extras = mixed(&other);
    cgrpo_status status = cgrpo_log_prob_residual(sampler, 0, &at, &velocity, &extras, &to, &out, results);
    wrote(written[0], sizeof written[0]), wrote(results, B * 8);
    return status;
}

static cgrpo_status residual_vjp(void) {
    cgrpo_tensor kept = row(v), other = row(u), left = row(written[0]), right = row(written[1]);
    cgrpo_step_extras extras = mixed(&other);
    cgrpo_status status = cgrpo_residual_vjp(sampler, 0, &kept, &extras, grad, &left, &right);
    wrote(written, sizeof written);
    return status;
}

static cgrpo_status predicted_image(void) {
    cgrpo_tensor at = row(x), velocity = row(v), out = row(written[0]);
    cgrpo_status status = cgrpo_predicted_image(sampler, 3, &at, &velocity, NULL, &out);
    wrote(written[0], sizeof written[0]);
    return status;
}

static cgrpo_status window_steps(void) {
    int64_t steps[S / 2], count = 0;
    cgrpo_window_options options;
    cgrpo_window_options_init(&options, sizeof options);
    options.size = S / 2, options.end = S, options.strategy = CGRPO_WINDOW_STRATEGY_SUBSET;
    cgrpo_status status = cgrpo_window_steps(&options, 5, steps, S / 2, &count);
    wrote(steps, (size_t)count * 8);
    return status;
}

static cgrpo_status rollout_of(const cgrpo_sampler *with) {
    static float path[B * (T + 1) * D];
    cgrpo_trajectory trajectory;
    cgrpo_noise noise = noise_of_ids();
    memcpy(path, latents, sizeof path);
    cgrpo_trajectory_init(&trajectory, sizeof trajectory);
    trajectory.latents = tensor_of(path, trajectory_shape, 3, CGRPO_TYPE_F32);
    trajectory.log_probs = results, trajectory.relative_l1 = more;
    cgrpo_status status = cgrpo_rollout(with, &trajectory, T, &noise, scaled_velocity, NULL);
    wrote(path, sizeof path), wrote(&trajectory.position, 8);
    return status;
}
static cgrpo_status rollout(void) { return rollout_of(sampler); }
static cgrpo_status rollout_second_order(void) { return rollout_of(second_order); }

static cgrpo_status trajectory_log_probs(void) {
    cgrpo_tensor path = tensor_of(latents, trajectory_shape, 3, CGRPO_TYPE_F32),
                 along = tensor_of(velocities, steps_shape, 3, CGRPO_TYPE_F32);
    cgrpo_status status = cgrpo_trajectory_log_probs(sampler, 0, NULL, &path, &along, results);
    wrote(results, sizeof results);
    return status;
}

static cgrpo_status trajectory_log_probs_vjp(void) {
    static float out[B * S * D];
    cgrpo_tensor path = tensor_of(latents, trajectory_shape, 3, CGRPO_TYPE_F32),
                 along = tensor_of(velocities, steps_shape, 3, CGRPO_TYPE_F32),
                 gradient = tensor_of(out, steps_shape, 3, CGRPO_TYPE_F32);
    cgrpo_status status = cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, &path, &along, grad, &gradient);
    wrote(out, sizeof out);
    return status;
}

static cgrpo_status trajectory_residuals(void) {
    static float out[B * S * D];
    cgrpo_tensor path = tensor_of(latents, trajectory_shape, 3, CGRPO_TYPE_F32),
                 along = tensor_of(velocities, steps_shape, 3, CGRPO_TYPE_F32),
                 kept = tensor_of(out, steps_shape, 3, CGRPO_TYPE_F32);
    cgrpo_status status = cgrpo_trajectory_residuals(sampler, 0, NULL, &path, &along, &kept, results);
    wrote(out, sizeof out), wrote(results, sizeof results);
    return status;
}

static cgrpo_status trajectory_residuals_vjp(void) {
    static float out[B * S * D];
    cgrpo_tensor kept = tensor_of(velocities, steps_shape, 3, CGRPO_TYPE_F32),
                 gradient = tensor_of(out, steps_shape, 3, CGRPO_TYPE_F32);
    cgrpo_status status = cgrpo_trajectory_residuals_vjp(sampler, 0, NULL, &kept, grad, &gradient);
    wrote(out, sizeof out);
    return status;
}

static cgrpo_status relative_l1(void) {
    cgrpo_tensor path = tensor_of(latents, trajectory_shape, 3, CGRPO_TYPE_F32);
    cgrpo_status status = cgrpo_relative_l1(&path, 1, results);
    wrote(results, sizeof results);
    return status;
}

static int64_t plan[S], plan_count;
static cgrpo_status plan_written(cgrpo_status status) {
    wrote(plan, (size_t)plan_count * 8);
    return status;
}
static cgrpo_status plan_fixed(void) { return plan_written(cgrpo_plan_fixed(S, 2, plan, S, &plan_count)); }
static cgrpo_status plan_adaptive(void) {
    return plan_written(cgrpo_plan_adaptive(curve, B, S, NULL, plan, S, &plan_count));
}
static cgrpo_status plan_optimal(void) {
    return plan_written(cgrpo_plan_optimal(curve, B, S, NULL, plan, S, &plan_count, results, more));
}
static cgrpo_status plan_describe(void) {
    char text[4000];
    size_t length = 0;
    cgrpo_status status = cgrpo_plan_describe(sizes, K, text, sizeof text, &length);
    wrote(text, length);
    return status;
}
static cgrpo_status plan_carry(void) {
    plan_count = K;
    return plan_written(cgrpo_plan_carry(sizes, K, sigmas, T + 1, sigmas, T + 1, plan));
}

static cgrpo_status chunk_weights(void) {
    cgrpo_status status = cgrpo_chunk_weights(curve, B, S, sizes, K, results);
    wrote(results, B * K * 8);
    return status;
}

static cgrpo_status chunk_select(void) {
    cgrpo_select_options options;
    cgrpo_select_options_init(&options, sizeof options);
    options.fraction = 0.5, options.weights = weights, options.sample_ids = sample_ids;
    cgrpo_status status = cgrpo_chunk_select(B, K, &options, selection);
    wrote(selection, sizeof selection);
    return status;
}

static cgrpo_status advantages_by(cgrpo_mixing mixing, double trim) {
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_ids = ids, options.mixing = mixing, options.trim = trim;
    options.reward_count = mixing == CGRPO_MIXING_SUM ? 1 : 4;
    cgrpo_status status = cgrpo_advantages(old, B * G, &options, results);
    wrote(results, B * G * 8);
    return status;
}
static cgrpo_status advantages(void) { return advantages_by(CGRPO_MIXING_SUM, 0); }
static cgrpo_status advantages_trimmed(void) { return advantages_by(CGRPO_MIXING_SUM, 0.3); }
static cgrpo_status advantages_gdpo(void) { return advantages_by(CGRPO_MIXING_GDPO, 0); }

static cgrpo_status history_create(void) {
    cgrpo_history *made = NULL;
    cgrpo_status status = cgrpo_history_create(1000, 2, &made);
    cgrpo_history_destroy(made);
    return status;
}

static cgrpo_status history_update(void) {
    cgrpo_status status = cgrpo_history_update(history, ids, rewards, B * G, results);
    wrote(results, B * G * 8);
    return status;
}

static cgrpo_status history_rewards(void) {
    int64_t known = 0;
    CHECK_OK(cgrpo_history_rewards(history, NULL, NULL, 0, &known));
    wrote(&known, sizeof known);
    return CGRPO_OK;
}

static cgrpo_status diversity(void) {
    cgrpo_tensor features = row(x);
    cgrpo_status status = cgrpo_diversity(&features, 4, 2, results);
    wrote(results, B * 8);
    return status;
}

static cgrpo_status best_of_n(void) {
    static uint8_t chosen[B * S];
    cgrpo_status status = cgrpo_best_of_n(old, B * S, 100, chosen);
    wrote(chosen, sizeof chosen);
    return status;
}

static cgrpo_status loss_by(cgrpo_surrogate surrogate) {
    double loss = 0;
    static double gradient[B * S], ratios[B * K], bias[B * S];
    cgrpo_chunk_stats stats;
    cgrpo_chunk_loss_options options;
    stats.struct_size = sizeof stats;
    cgrpo_chunk_loss_options_init(&options, sizeof options);
    options.surrogate = surrogate, options.kl = 0.1, options.reference_log_probs = curve, options.mask = flags;
    options.weights = weights, options.weights_per_sample = 1;
    if (surrogate == CGRPO_SURROGATE_DIVERGENCE_MASK) options.divergence = curve;
    options.kl_weights = weights;
    if (surrogate != CGRPO_SURROGATE_CISPO && surrogate != CGRPO_SURROGATE_VESPO)
        options.ratio_bias = old, options.grad_ratio_bias = bias;
    cgrpo_status status =
        cgrpo_chunk_loss(old, curve, rewards, B, S, sizes, K, &options, &loss, gradient, ratios, &stats);
    wrote(&loss, 8), wrote(gradient, sizeof gradient), wrote(ratios, sizeof ratios);
    return status;
}
static cgrpo_status chunk_stats_merge(void) {
    cgrpo_chunk_stats total = {sizeof total, 3, 1, 0.1, 0.8, 1.2, 0.1, 0.2, 0.01, 0.99, 0.2}, other = total;
    cgrpo_status status = cgrpo_chunk_stats_merge(&total, &other);
    wrote(&total, sizeof total);
    return status;
}
static cgrpo_status chunk_loss_of_step_advantages(void) {
    double loss = 0;
    cgrpo_chunk_loss_options options;
    cgrpo_chunk_loss_options_init(&options, sizeof options);
    options.advantage_level = CGRPO_ADVANTAGE_LEVEL_STEP;
    cgrpo_status status = cgrpo_chunk_loss(old, curve, grad, B, S, sizes, K, &options, &loss, results, NULL, NULL);
    wrote(&loss, 8), wrote(results, sizeof results);
    return status;
}
static cgrpo_status chunk_loss(void) { return loss_by(CGRPO_SURROGATE_CLIPPED); }
static cgrpo_status chunk_loss_log_clipped(void) { return loss_by(CGRPO_SURROGATE_LOG_CLIPPED); }
static cgrpo_status chunk_loss_cispo(void) { return loss_by(CGRPO_SURROGATE_CISPO); }
static cgrpo_status chunk_loss_spo(void) { return loss_by(CGRPO_SURROGATE_SPO); }
static cgrpo_status chunk_loss_sapo(void) { return loss_by(CGRPO_SURROGATE_SAPO); }
static cgrpo_status chunk_loss_vespo(void) { return loss_by(CGRPO_SURROGATE_VESPO); }
static cgrpo_status chunk_loss_divergence(void) { return loss_by(CGRPO_SURROGATE_DIVERGENCE_MASK); }

static cgrpo_status divergence_from_velocity(void) {
    cgrpo_tensor velocity = row(v), other = row(u), out = row(written[0]);
    cgrpo_status status = cgrpo_divergence_from_velocity(sampler, 3, NULL, CGRPO_DIVERGENCE_GAUSSIAN, &velocity, &other,
                                                         results, grad, &out);
    wrote(results, B * 8), wrote(written[0], sizeof written[0]);
    return status;
}

static cgrpo_status divergence_from_sampled(void) {
    cgrpo_tensor at = row(x), velocity = row(v), to = row(next), out = row(written[0]);
    cgrpo_noise noise = noise_of_ids();
    cgrpo_status status = cgrpo_divergence_from_sampled(sampler, 0, mixed(NULL).steps, CGRPO_DIVERGENCE_GAUSSIAN, &at,
                                                        &velocity, &noise, &to, results, grad, &out);
    wrote(results, B * 8), wrote(written[0], sizeof written[0]);
    return status;
}

static cgrpo_status forward_noised(void) {
    cgrpo_tensor clean = row(x), out = row(written[0]);
    cgrpo_noise noise = noise_of_ids();
    cgrpo_status status = cgrpo_forward_noised(&clean, curve, &noise, 2, 1, &out);
    wrote(written[0], sizeof written[0]);
    return status;
}

static cgrpo_status forward_distance(void) {
    cgrpo_tensor clean = row(x), velocity = row(v), other = row(u), reference = row(next), out = row(written[0]);
    cgrpo_noise noise = noise_of_ids();
    cgrpo_forward_extras extras;
    cgrpo_forward_extras_init(&extras, sizeof extras);
    extras.old_velocity = &other, extras.reference_velocity = &reference, extras.nft_beta = 0.5;
    extras.positive_distance = more, extras.grad_negative_distance = grad;
    cgrpo_status status = cgrpo_forward_distance(&clean, &velocity, &noise, 2, 1, &extras, results, grad, &out);
    wrote(results, B * 8), wrote(more, B * 8), wrote(written[0], sizeof written[0]);
    return status;
}

static double losses[2][B * S];
static cgrpo_status nft_loss(void) {
    double loss = 0;
    cgrpo_nft_options options;
    cgrpo_nft_options_init(&options, sizeof options);
    options.weighting = CGRPO_NFT_WEIGHTING_VELOCITY;
    cgrpo_status status = cgrpo_nft_loss(curve, curve, rewards, B, S, &options, &loss, losses[0], losses[1], NULL);
    wrote(&loss, 8), wrote(losses, sizeof losses);
    return status;
}

static cgrpo_status matching_log_probs(void) {
    cgrpo_status status =
        cgrpo_matching_log_probs(curve, NULL, B * S, CGRPO_MATCHING_WEIGHTING_UNIFORM, 1, losses[0], losses[1]);
    wrote(losses, sizeof losses);
    return status;
}

static cgrpo_status dgpo_loss(void) {
    double loss = 0;
    cgrpo_dgpo_options options;
    cgrpo_dgpo_options_init(&options, sizeof options);
    options.group_ids = ids;
    cgrpo_status status = cgrpo_dgpo_loss(curve, curve, rewards, B * G, S / G, &options, &loss, losses[0], NULL);
    wrote(&loss, 8), wrote(losses[0], sizeof losses[0]);
    return status;
}

static cgrpo_status crd_loss(void) {
    double loss = 0;
    cgrpo_status status = cgrpo_crd_loss(curve, curve, rewards, B, S, NULL, &loss, losses[0], NULL);
    wrote(&loss, 8), wrote(losses[0], sizeof losses[0]);
    return status;
}

static cgrpo_status dpo_loss(void) {
    double loss = 0;
    cgrpo_status status = cgrpo_dpo_loss(curve, curve, curve, curve, B, S, NULL, &loss, losses[0], losses[1], NULL);
    wrote(&loss, 8), wrote(losses, sizeof losses);
    return status;
}

static cgrpo_status preference_pairs(void) {
    static int64_t chosen[B * G], rejected[B * G];
    int64_t count = 0;
    cgrpo_status status = cgrpo_preference_pairs(rewards, B * G, 0, ids, chosen, rejected, &count);
    wrote(&count, 8), wrote(chosen, (size_t)count * 8), wrote(rejected, (size_t)count * 8);
    return status;
}

static cgrpo_status times(void) {
    cgrpo_status status = cgrpo_times(B, S, 0, NULL, results);
    wrote(results, sizeof results);
    return status;
}

static cgrpo_status gcpo_weights(void) {
    cgrpo_status status = cgrpo_gcpo_weights(sizes, K, results);
    wrote(results, K * 8);
    return status;
}

static cgrpo_status tempflow_weights(void) {
    cgrpo_status status = cgrpo_tempflow_weights(sampler, sizes, K, results);
    wrote(results, K * 8);
    return status;
}

static cgrpo_status gradient_weights(void) {
    cgrpo_status status = cgrpo_gradient_weights(sampler, CGRPO_GRADIENT_WEIGHTING_SAGE, sizes, K, results);
    wrote(results, K * 8);
    return status;
}

static cgrpo_status importance_weights(void) {
    cgrpo_status status = cgrpo_importance_weights(old, curve, B, S, sizes, K, NULL, results);
    wrote(results, B * K * 8);
    return status;
}

static cgrpo_status step_gains(void) {
    cgrpo_status status = cgrpo_step_gains(old, B, S - 1, CGRPO_GAIN_TURNING_POINT, results);
    wrote(results, B * (S - 1) * 8);
    return status;
}

static cgrpo_status step_advantages(void) {
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_ids = ids;
    cgrpo_status status = cgrpo_step_advantages(old, B * G, S / G, &options, results);
    wrote(results, B * S * 8);
    return status;
}

static cgrpo_status tree_advantages(void) {
    static int64_t nodes[B * G * 2];
    for (int i = 0; i < B * G; i++) nodes[2 * i] = i / 8, nodes[2 * i + 1] = i;
    cgrpo_status status = cgrpo_tree_advantages(rewards, nodes, old, B * G, 2, NULL, results);
    wrote(results, B * G * 2 * 8);
    return status;
}

static cgrpo_status zero_std_groups(void) {
    int64_t counts[2] = {0, 0};
    static uint8_t mask[B * G];
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_ids = ids;
    cgrpo_status status = cgrpo_zero_std_groups(rewards, B * G, &options, mask, counts, counts + 1);
    wrote(mask, sizeof mask), wrote(counts, sizeof counts);
    return status;
}

static cgrpo_status win_rates(void) {
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_ids = ids;
    cgrpo_status status = cgrpo_win_rates(rewards, B * G, &options, results);
    wrote(results, B * G * 8);
    return status;
}

static cgrpo_status norm_hinge(void) {
    cgrpo_tensor velocity = row(v), other = row(u), out = row(written[0]);
    cgrpo_status status = cgrpo_norm_hinge(&velocity, &other, 1, results, more, grad, &out);
    wrote(results, B * 8), wrote(more, B * 8), wrote(written[0], sizeof written[0]);
    return status;
}

static cgrpo_status forked_ids(void) {
    static uint64_t made[B * G * 4];
    cgrpo_status status = cgrpo_forked_ids(sample_ids, B * G, 3, 4, made);
    wrote(made, sizeof made);
    return status;
}

static cgrpo_status recipe_named(void) {
    cgrpo_recipe recipe;
    recipe.struct_size = sizeof recipe;
    return cgrpo_recipe_named("mixgrpo", &recipe);
}

static cgrpo_status forward_method_named(void) {
    cgrpo_forward_method method;
    method.struct_size = sizeof method;
    return cgrpo_forward_method_named("crd", &method);
}

static cgrpo_status forward_method_describe(void) {
    char text[4000];
    size_t length = 0;
    cgrpo_status status = cgrpo_forward_method_describe("awm", text, sizeof text, &length);
    wrote(text, length < sizeof text ? length : sizeof text);
    return status;
}

static cgrpo_status recipe_describe(void) {
    char text[4000];
    size_t length = 0;
    cgrpo_status status = cgrpo_recipe_describe("mixgrpo", text, sizeof text, &length);
    wrote(text, length < sizeof text ? length : sizeof text);
    return status;
}

static cgrpo_status set_thread_limit(void) { return cgrpo_set_thread_limit(256); }

static cgrpo_trainer_options trainer_options(void) {
    static int64_t singles[TRAINER_STEPS - 1];
    cgrpo_trainer_options options;
    cgrpo_trainer_options_init(&options, sizeof options);
    for (int i = 0; i < TRAINER_STEPS - 1; i++) singles[i] = 1;
    options.latent_size = 32, options.condition_size = 8;
    options.width = WIDTH, options.blocks = 1, options.embedding_size = 8;
    options.steps = TRAINER_STEPS, options.chunk_sizes = singles, options.chunk_count = TRAINER_STEPS - 1;
    options.group_size = G, options.threads = 1, options.weighted_selection = 1, options.chunk_fraction = 0.1;
    return options;
}

static void wrote_images_of(const cgrpo_trainer *of) {
    cgrpo_tensor out = of_images(drawn), given = of_conditions();
    looking = 1;
    if (cgrpo_trainer_sample(of, &given, CGRPO_PARAMETERS_AVERAGED, 0, 1, &out) != CGRPO_OK) abort();
    looking = 0;
    wrote(drawn, sizeof drawn);
}

static cgrpo_status trainer_create(void) {
    cgrpo_trainer *made = NULL;
    cgrpo_trainer_options options = trainer_options();
    cgrpo_status status = cgrpo_trainer_create(&options, &made);
    if (status == CGRPO_OK) wrote_images_of(made);
    cgrpo_trainer_destroy(made);
    return status;
}

static cgrpo_status trainer_info(void) {
    cgrpo_trainer_options options;
    options.struct_size = sizeof options;
    return cgrpo_trainer_info(trainer, &options, NULL, NULL);
}

static cgrpo_status trainer_pretrain(void) {
    cgrpo_pretrain_options options;
    cgrpo_tensor of = of_images(images), given = of_conditions();
    cgrpo_pretrain_options_init(&options, sizeof options);
    options.steps = 2, options.batch_size = 256;
    cgrpo_status status = cgrpo_trainer_pretrain(trainer, &of, &given, &options, NULL, NULL);
    if (status == CGRPO_OK) wrote_images_of(trainer);
    return status;
}

static cgrpo_status trainer_iterate(void) {
    cgrpo_tensor given = of_conditions();
    cgrpo_status status = cgrpo_trainer_iterate(trainer, &given, first_element_reward, NULL, NULL);
    if (status == CGRPO_OK) wrote_images_of(trainer);
    return status;
}

static int sum_of_one(void *user, void *values, cgrpo_type type, int64_t count) {
    (void)user, (void)values, (void)type, (void)count;
    return 0;
}

/* And an iteration with the replica. */
static cgrpo_status trainer_set_replica(void) {
    cgrpo_status status = cgrpo_trainer_set_replica(trainer, 0, 1, sum_of_one, NULL);
    if (status != CGRPO_OK) return status;
    status = trainer_iterate();
    looking = 1;
    if (cgrpo_trainer_set_replica(trainer, 0, 1, NULL, NULL) != CGRPO_OK) abort();
    looking = 0;
    return status;
}

static cgrpo_status trainer_sample(void) {
    cgrpo_tensor out = of_images(drawn), given = of_conditions();
    cgrpo_status status = cgrpo_trainer_sample(trainer, &given, CGRPO_PARAMETERS_TRAINED, 0.7, 1, &out);
    wrote(drawn, sizeof drawn);
    return status;
}

static cgrpo_status trainer_velocity(void) {
    cgrpo_tensor out = of_images(drawn), given = of_conditions(), at = of_images(images);
    cgrpo_status status = cgrpo_trainer_velocity(trainer, CGRPO_PARAMETERS_TRAINED, &at, 0.5, &given, &out);
    wrote(drawn, sizeof drawn);
    return status;
}

static cgrpo_status trainer_save(void) { return cgrpo_trainer_save(trainer, checkpoint); }

static cgrpo_status trainer_load(void) {
    cgrpo_trainer *loaded = NULL;
    cgrpo_status status = cgrpo_trainer_load(checkpoint, &loaded);
    if (status == CGRPO_OK) wrote_images_of(loaded);
    cgrpo_trainer_destroy(loaded);
    return status;
}

static cgrpo_status cuda_workspace(void) {
    static size_t bytes;
    cgrpo_status status = cgrpo_cuda_workspace(B, 1000, 17, &bytes);
    wrote(&bytes, sizeof bytes);
    return status;
}

static cgrpo_status refusal(void) {
    cgrpo_status status = cgrpo_schedule_make(0, NULL, results);
    return status == CGRPO_INVALID_ARGUMENT ? CGRPO_OK : status == CGRPO_OK ? CGRPO_INVALID_ARGUMENT : status;
}

typedef struct call {
    const char *function, *note;
    cgrpo_status (*run)(void);
} call;

#define CALL(name) \
    { "cgrpo_" #name, "", name }
static const call calls[] = {
    CALL(set_thread_limit),
    CALL(cuda_workspace),
    CALL(schedule_make),
    {"cgrpo_schedule_make", "refused", refusal},
    CALL(schedule_flash),
    CALL(timesteps),
    CALL(flux_mu),
    CALL(sampler_create),
    CALL(sampler_info),
    CALL(sampler_coefficients),
    CALL(normal),
    CALL(step),
    CALL(log_prob),
    CALL(log_prob_vjp),
    CALL(log_prob_residual),
    CALL(residual_vjp),
    CALL(predicted_image),
    CALL(window_steps),
    CALL(rollout),
    {"cgrpo_rollout", "second order", rollout_second_order},
    CALL(trajectory_log_probs),
    CALL(trajectory_log_probs_vjp),
    CALL(trajectory_residuals),
    CALL(trajectory_residuals_vjp),
    CALL(relative_l1),
    CALL(plan_fixed),
    CALL(plan_adaptive),
    CALL(plan_optimal),
    CALL(plan_describe),
    CALL(plan_carry),
    CALL(chunk_weights),
    CALL(chunk_select),
    CALL(advantages),
    {"cgrpo_advantages", "trimmed", advantages_trimmed},
    {"cgrpo_advantages", "GDPO", advantages_gdpo},
    CALL(history_create),
    CALL(history_update),
    CALL(history_rewards),
    CALL(diversity),
    CALL(best_of_n),
    CALL(chunk_stats_merge),
    CALL(chunk_loss),
    {"cgrpo_chunk_loss", "an advantage per step", chunk_loss_of_step_advantages},
    {"cgrpo_chunk_loss", "log-clipped", chunk_loss_log_clipped},
    {"cgrpo_chunk_loss", "CISPO", chunk_loss_cispo},
    {"cgrpo_chunk_loss", "divergence mask", chunk_loss_divergence},
    {"cgrpo_chunk_loss", "SPO", chunk_loss_spo},
    {"cgrpo_chunk_loss", "SAPO", chunk_loss_sapo},
    {"cgrpo_chunk_loss", "VESPO", chunk_loss_vespo},
    CALL(divergence_from_velocity),
    CALL(divergence_from_sampled),
    CALL(forward_noised),
    CALL(forward_distance),
    CALL(nft_loss),
    CALL(matching_log_probs),
    CALL(dgpo_loss),
    CALL(crd_loss),
    CALL(dpo_loss),
    CALL(preference_pairs),
    CALL(times),
    CALL(gcpo_weights),
    CALL(tempflow_weights),
    CALL(gradient_weights),
    CALL(importance_weights),
    CALL(step_gains),
    CALL(step_advantages),
    CALL(tree_advantages),
    CALL(zero_std_groups),
    CALL(win_rates),
    CALL(forked_ids),
    CALL(norm_hinge),
    CALL(recipe_named),
    CALL(recipe_describe),
    CALL(forward_method_named),
    CALL(forward_method_describe),
    CALL(trainer_create),
    CALL(trainer_info),
    CALL(trainer_pretrain),
    CALL(trainer_iterate),
    CALL(trainer_set_replica),
    CALL(trainer_sample),
    CALL(trainer_velocity),
    CALL(trainer_save),
    CALL(trainer_load),
};
enum { CALL_COUNT = sizeof calls / sizeof *calls };

static void fill(float *values, int count, uint64_t seed) {
    for (int i = 0; i < count; i++) values[i] = (float)scattered(seed, (uint64_t)i);
}

static void calls_prepare(const char *folder) {
    cgrpo_sampler_options options;
    cgrpo_trainer_options of_trainer = trainer_options();
    float *arrays[] = {x, v, u, next};
    for (int k = 0; k < 4; k++) fill(arrays[k], B * D, (uint64_t)k);
    fill(latents, B * (T + 1) * D, 4), fill(velocities, B * S * D, 5), fill(conditions, P * 8, 6),
        fill(images, P * 32, 7);
    for (int i = 0; i < K; i++) sizes[i] = S / K;
    for (int i = 0; i < S / 2; i++) window[i] = 2 * i;
    for (int i = 0; i < B * G; i++)
        ids[i] = i % 16, sample_ids[i] = (uint64_t)i * 3, rewards[i] = scattered(8, (uint64_t)i);
    for (int i = 0; i < B * S; i++) {
        grad[i] = scattered(9, (uint64_t)i), old[i] = -scattered(10, (uint64_t)i) * 1e-3;
        curve[i] = 0.5 + 0.2 * scattered(11, (uint64_t)i), flags[i] = i % 9 != 0;
    }
    for (int i = 0; i < B * K; i++) weights[i] = 1 + scattered(12, (uint64_t)i) / 2;
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint.allocations.%d", folder, (int)getpid());
    cgrpo_sampler_options_init(&options, sizeof options);
    options.dynamics = CGRPO_DYNAMICS_DPM_SDE, options.last_step = CGRPO_LAST_STEP_ODE;
    int ready = shifted_schedule(T, 3, sigmas) == CGRPO_OK &&
                cgrpo_sampler_create(sigmas, T + 1, &options, &second_order) == CGRPO_OK &&
                cgrpo_sampler_create(sigmas, T + 1, NULL, &sampler) == CGRPO_OK &&
                cgrpo_history_create(1000, 2, &history) == CGRPO_OK &&
                cgrpo_trainer_create(&of_trainer, &trainer) == CGRPO_OK && trainer_save() == CGRPO_OK;
    if (!ready) fprintf(stderr, "not ready: %s\n", cgrpo_last_error()), exit(2);
}

#endif
