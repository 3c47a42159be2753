/*
 * Chunk-GRPO in one file, in C++17. The model is the exact velocity field of Gaussian data plus a bias that we train;
 * the reward is how close a sample comes to a target. It prints what examples/c/first.c prints.
 *
 *     make lib && cmake -S examples/cpp -B build/cpp -DCMAKE_PREFIX_PATH="$PWD/build" && cmake --build build/cpp
 *     build/cpp/first
 */
#include <chunkgrpo.hpp>
#include <cstdio>

namespace cg = chunkgrpo;

constexpr std::int64_t Group = 12, B = 4 * Group, T = 17, S = T - 1, D = 2;

int main() try {
    const double target[D] = {2, -1};
    double bias[D] = {0, 0}; // the weights of our model
    std::vector<float> velocities(B * S * D), gradient(B * S * D);
    const cg::Tensor v(velocities, {B, S, D}), dv(gradient, {B, S, D});

    cg::ScheduleOptions spacing;
    spacing.shift = 3;
    const cg::Sampler sampler(cg::schedule_make(T, spacing)); // the defaults: Flow-SDE with eta 0.7
    cg::AdvantageOptions grouping;
    grouping.group_size = Group;

    // Optimal for x0 ~ N(0, 1); the bias moves it.
    auto velocity = [&](std::int64_t step, double sigma, const cg::ConstTensor &latents, const cg::Tensor &out) {
        for (std::int64_t i = 0; i < B; i++)
            for (std::size_t j = 0; j < D; j++) {
                double x = latents.row<float>(i)[j];
                double value = x * (2 * sigma - 1) / ((1 - sigma) * (1 - sigma) + sigma * sigma) + bias[j];
                out.row<float>(i)[j] = static_cast<float>(value);
                if (step < S) velocities[static_cast<std::size_t>((i * S + step) * D) + j] = static_cast<float>(value);
            }
    };

    for (std::uint64_t iteration = 0; iteration <= 100; iteration++) {
        cg::Trajectory<float> trajectory(sampler, {B, D});
        cg::normal(iteration, CGRPO_INITIAL_NOISE, trajectory.at(0));
        const cg::Noise noise(iteration);
        sampler.rollout(trajectory, T, &noise, velocity);

        double mean = 0;
        cg::Numbers rewards(B);
        for (std::int64_t i = 0; i < B; i++) {
            const auto image = trajectory.image(i);
            for (std::size_t j = 0; j < D; j++)
                rewards[static_cast<std::size_t>(i)] -= (image[j] - target[j]) * (image[j] - target[j]);
            mean += rewards[static_cast<std::size_t>(i)] / B;
        }
        // We train on the policy that sampled, so new and old log-probabilities are the same.
        const cg::ChunkLoss out = cg::chunk_loss(trajectory.log_probs, trajectory.log_probs,
                                                 cg::advantages(rewards, grouping), B, {2, 3, 4, 7});
        sampler.trajectory_log_probs_vjp(0, trajectory.latents(), v, out.grad_log_probs, dv);

        if (iteration % 20 == 0)
            std::printf("iteration %3d   mean reward %7.3f   bias %6.3f %6.3f\n", static_cast<int>(iteration), mean,
                        bias[0], bias[1]);
        // d loss / d bias is the sum of d loss / d velocity; yours goes on through your model.
        for (std::size_t i = 0; i < gradient.size(); i++) bias[i % D] -= 0.5 * static_cast<double>(gradient[i]);
    }
} catch (const cg::Error &error) {
    std::fprintf(stderr, "%s: %s\n", error.name(), error.what());
    return 1;
}
