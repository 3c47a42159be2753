/*
 * Chunk-GRPO in one file. The model is the exact velocity field of Gaussian data plus a bias that we train; the reward
 * is how close a sample comes to a target. Your model takes the place of `velocity`, your optimiser that of one line.
 *
 *     make lib && make -C examples/c && build/examples/first
 */
#include <chunkgrpo.h>
#include <stdio.h>

enum { GROUP = 12, B = 4 * GROUP, T = 17, S = T - 1, D = 2 };
#define TRY(call) \
    if ((call) != CGRPO_OK) return fprintf(stderr, "%s\n", cgrpo_last_error()), 1

static const double target[D] = {2, -1};
static double bias[D];            /* the weights of our model */
static float velocities[B][S][D]; /* what it said in the rollout */

/* Optimal for x0 ~ N(0, 1); the bias moves it. */
static int velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *latents, const cgrpo_tensor *out) {
    (void)user;
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < D; j++) {
            double x = ((const float *)latents->data)[i * latents->strides[0] + j];
            double v = x * (2 * sigma - 1) / ((1 - sigma) * (1 - sigma) + sigma * sigma) + bias[j];
            ((float *)out->data)[i * out->strides[0] + j] = (float)v;
            if (step < S) velocities[i][step][j] = (float)v; /* the last step is not trained */
        }
    return 0;
}

int main(void) {
    static float x[B][T + 1][D], gradient[B][S][D];
    static double sigmas[T + 1], log_probs[B * S], rewards[B], advantages[B], grads[B * S];
    const int64_t start_shape[] = {B, D}, start_strides[] = {(T + 1) * D, 1};
    const int64_t x_shape[] = {B, T + 1, D}, v_shape[] = {B, S, D}, chunks[] = {2, 3, 4, 7};
    const cgrpo_tensor start = {
        .data = x, .shape = start_shape, .strides = start_strides, .ndim = 2, .type = CGRPO_TYPE_F32};
    const cgrpo_tensor latents = {.data = x, .shape = x_shape, .ndim = 3, .type = CGRPO_TYPE_F32};
    const cgrpo_tensor v = {.data = velocities, .shape = v_shape, .ndim = 3, .type = CGRPO_TYPE_F32};
    const cgrpo_tensor dv = {.data = gradient, .shape = v_shape, .ndim = 3, .type = CGRPO_TYPE_F32};
    cgrpo_schedule_options spacing;
    cgrpo_sampler *sampler;
    cgrpo_noise noise;
    cgrpo_trajectory trajectory;
    cgrpo_advantage_options grouping;
    double loss;

    cgrpo_schedule_options_init(&spacing, sizeof spacing);
    spacing.shift = 3;
    TRY(cgrpo_schedule_make(T, &spacing, sigmas));
    TRY(cgrpo_sampler_create(sigmas, T + 1, NULL, &sampler)); /* null: the defaults, Flow-SDE with eta 0.7 */
    cgrpo_noise_init(&noise, sizeof noise);
    cgrpo_advantage_options_init(&grouping, sizeof grouping);
    grouping.group_size = GROUP;

    for (int iteration = 0; iteration <= 100; iteration++) {
        double mean = 0;
        noise.seed = (uint64_t)iteration;
        TRY(cgrpo_normal(noise.seed, NULL, CGRPO_INITIAL_NOISE, 1, &start)); /* into x[:, 0] */
        cgrpo_trajectory_init(&trajectory, sizeof trajectory);
        trajectory.latents = latents;
        trajectory.log_probs = log_probs;
        TRY(cgrpo_rollout(sampler, &trajectory, T, &noise, velocity, NULL));

        for (int i = 0; i < B; i++) {
            rewards[i] = 0;
            for (int j = 0; j < D; j++) rewards[i] -= (x[i][T][j] - target[j]) * (x[i][T][j] - target[j]);
            mean += rewards[i] / B;
        }
        TRY(cgrpo_advantages(rewards, B, &grouping, advantages));
        /* We train on the policy that sampled, so new and old log-probabilities are the same. */
        TRY(cgrpo_chunk_loss(log_probs, log_probs, advantages, B, S, chunks, 4, NULL, &loss, grads, NULL, NULL));
        TRY(cgrpo_trajectory_log_probs_vjp(sampler, 0, NULL, &latents, &v, grads, &dv));

        if (iteration % 20 == 0)
            printf("iteration %3d   mean reward %7.3f   bias %6.3f %6.3f\n", iteration, mean, bias[0], bias[1]);
        /* d loss / d bias is the sum of d loss / d velocity; yours goes on through your model. */
        for (int i = 0; i < B; i++)
            for (int k = 0; k < S; k++)
                for (int j = 0; j < D; j++) bias[j] -= 0.5 * gradient[i][k][j];
    }
    cgrpo_sampler_destroy(sampler);
    return 0;
}
