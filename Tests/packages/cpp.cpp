// chunkgrpo.hpp against the functions of chunkgrpo.h that it calls: numbers, errors, exceptions and lifetimes.
#include <chunkgrpo.hpp>
#include <chunkgrpo.hpp> // twice is harmless

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#if __cplusplus >= 202002L
#include <span>
#endif

namespace cg = chunkgrpo;

static int passed, failed;

#define CHECK(...)                  \
    ((__VA_ARGS__) ? (void)passed++ \
                   : (void)(failed++, std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #__VA_ARGS__)))

template <class F> static void refuses(F call, cgrpo_status status, const char *words, int line) {
    try {
        call();
    } catch (const cg::Error &error) {
        bool right = error.status() == status && std::strstr(error.what(), words);
        if (!right) std::printf("%s:%d: %s: %s\n", __FILE__, line, error.name(), error.what());
        right ? passed++ : failed++;
        return;
    }
    failed++, std::printf("%s:%d: was not refused\n", __FILE__, line);
}
#define REFUSED(call, status, words) refuses([&] { call; }, status, words, __LINE__)

constexpr std::int64_t B = 4, T = 5, S = 4, D = 3;
static const cg::Numbers sigmas = cg::schedule_make(T);

static cg::Sampler example() { return cg::Sampler(sigmas); }

struct Other { // an exception that is not the library's
    int number;
};

static void options_have_the_defaults_of_c() {
    cg::ChunkLossOptions own;
    cgrpo_chunk_loss_options c;
    cgrpo_chunk_loss_options_init(&c, sizeof c);
    CHECK(own.struct_size == sizeof c && own.clip_low == c.clip_low && own.surrogate == c.surrogate);
    CHECK(cg::ChunkStats().struct_size == sizeof(cgrpo_chunk_stats) &&
          cg::Recipe().struct_size == sizeof(cgrpo_recipe));
    CHECK(cg::version() == CGRPO_VERSION && cg::abi_version() == CGRPO_ABI_VERSION);
}

static void an_error_has_status_and_sentence() {
    REFUSED(cg::schedule_make(0), CGRPO_INVALID_ARGUMENT, "steps");
    REFUSED(cg::schedule_make(-5), CGRPO_INVALID_ARGUMENT, "steps");
    REFUSED(cg::Sampler({1, 2}), CGRPO_INVALID_ARGUMENT, "sigma");
    REFUSED(cg::recipe_named("none such"), CGRPO_INVALID_ARGUMENT, "none such");
    REFUSED(cg::cuda_status(1), CGRPO_NON_FINITE, "sample");
    REFUSED(cg::Trainer::load("/nowhere"), CGRPO_IO_ERROR, "nowhere");
    REFUSED(cg::advantages({1, std::nan(""), 3}), CGRPO_NON_FINITE, "1");
    REFUSED(cg::set_thread_limit(0), CGRPO_INVALID_ARGUMENT, "limit");
}

static void spans_of_the_wrong_size_are_refused() {
    const cg::Sampler sampler = example();
    std::vector<float> x(B * D, 1.0f), v(B * D, 0.5f), next(B * D);
    const cg::Tensor xs(x, {B, D}), vs(v, {B, D}), out(next, {B, D});
    cg::Numbers three(3);
    const cg::Noise noise(7);
    REFUSED(sampler.step(0, xs, vs, &noise, out, three), CGRPO_INVALID_ARGUMENT, "log_prob has 3 elements");
    REFUSED(cg::chunk_loss(three, three, three, B, {2, 2}), CGRPO_INVALID_ARGUMENT, "new_log_probs has 3");
    REFUSED(cg::chunk_weights(three, B, {2, 2}), CGRPO_INVALID_ARGUMENT, "relative_l1 has 3");
    REFUSED(cg::Tensor(x, {B + 1, D}), CGRPO_INVALID_ARGUMENT, "needs 15 elements, and the array has 12");
    REFUSED(cg::Tensor(x, {B, D}, {D + 1, 1}), CGRPO_INVALID_ARGUMENT, "needs 15 elements"); // 3 x 4 + 2 x 1 + 1
    REFUSED(cg::Tensor(x, {}), CGRPO_INVALID_ARGUMENT, "0 sizes");
    REFUSED(cg::Tensor(x, {1, 1, 1, 1, 1, 1, 1, 1, 1}), CGRPO_INVALID_ARGUMENT, "9 sizes");
    REFUSED(cg::Tensor(x, {B, D}, {D}), CGRPO_INVALID_ARGUMENT, "strides");
    REFUSED(xs.row<float>(B), CGRPO_INVALID_ARGUMENT, "row 4");
    REFUSED(xs.row<double>(0), CGRPO_WRONG_TYPE, "row<T>");
    REFUSED(cg::Tensor(x, {2, 2, D}, {2 * D, 0, 1}).row<float>(0), CGRPO_INVALID_ARGUMENT, "strides[1] = 0");
    CHECK(cg::Tensor(x, {2, 1, D}, {2 * D, 0, 1}).row<float>(1).data() == x.data() + 2 * D); // a size of 1 has no next
    cg::Trajectory<float> trajectory(sampler, {B, D}, true);
    trajectory.log_probs.pop_back();
    REFUSED(sampler.rollout(trajectory, T, &noise, [](auto &&...) {}), CGRPO_INVALID_ARGUMENT, "log_probs has 15");
    trajectory.log_probs.resize(B * S), trajectory.relative_l1.resize(3);
    REFUSED(sampler.rollout(trajectory, T, &noise, [](auto &&...) {}), CGRPO_INVALID_ARGUMENT, "relative_l1 has 3");
    REFUSED(cg::chunk_weights({}, std::int64_t(1) << 62, {2, 2}), CGRPO_INVALID_ARGUMENT, "no array has so many");
}

static void spans_take_what_holds_elements() {
    double array[3] = {1, 2, 3};
    std::array<double, 3> standard{{1, 2, 3}};
    const cg::Numbers vector{1, 2, 3};
    cg::Numbers expected(3);
    cg::check(cgrpo_advantages(array, 3, nullptr, expected.data()));
    CHECK(cg::advantages(array) == expected);
    CHECK(cg::advantages(standard) == expected);
    CHECK(cg::advantages(vector) == expected);
    CHECK(cg::advantages({1, 2, 3}) == expected);
    CHECK(cg::advantages({array, 3}) == expected);
#if __cplusplus >= 202002L
    CHECK(cg::advantages(std::span<const double>(array)) == expected);
#endif
    float data[B][D] = {};
    CHECK(cg::Tensor(&data[0][0], {B, D}).elements() == D);
    float flat[B * D] = {};
    CHECK(cg::Tensor(flat, {B, D}).batch() == B);
    const std::vector<float> constant(B * D);
    CHECK(cg::ConstTensor(constant, {B, D}).row<float>(3).size() == D);
    static_assert(!std::is_constructible_v<cg::Tensor, const std::vector<float> &, cg::Span<const std::int64_t>>,
                  "what is const is not written");
    static_assert(!std::is_convertible_v<const cg::Numbers &, cg::Span<double>>, "nor by a span");
    static_assert(!std::is_copy_constructible_v<cg::Sampler> && std::is_nothrow_move_constructible_v<cg::Sampler>);
}

static void steps_are_those_of_c() {
    cg::Sampler made = example();
    const cg::Sampler sampler(std::move(made)); // the handle moves
    std::vector<double> x(B * D), v(B * D, 0.25), next(B * D), expected(B * D), gradient(B * D), same(B * D);
    cg::normal(3, CGRPO_INITIAL_NOISE, cg::Tensor(x, {B, D}));
    const cg::Tensor xs(x, {B, D}), vs(v, {B, D});
    cg::Numbers log_prob(B), c_log_prob(B), l1(B), c_l1(B);
    const std::uint64_t ids[] = {9, 8, 7, 6};
    const cg::Noise noise(5, ids);
    sampler.step(2, xs, vs, &noise, cg::Tensor(next, {B, D}), log_prob, l1);

    const std::int64_t shape[] = {B, D};
    cgrpo_tensor cx{}, cv{}, cn{};
    cx.data = x.data(), cv.data = v.data(), cn.data = expected.data();
    for (cgrpo_tensor *t : {&cx, &cv, &cn}) t->shape = shape, t->ndim = 2, t->type = CGRPO_TYPE_F64;
    cg::check(cgrpo_step(sampler.get(), 2, &cx, &cv, nullptr, &noise, &cn, c_log_prob.data(), c_l1.data()));
    CHECK(next == expected && log_prob == c_log_prob && l1 == c_l1);
    CHECK(sampler.log_prob(2, xs, vs, cg::ConstTensor(next, {B, D})) == c_log_prob);

    const cg::Numbers ones(B, 1.0);
    sampler.log_prob_vjp(2, xs, vs, cg::ConstTensor(next, {B, D}), ones, cg::Tensor(gradient, {B, D}));
    cgrpo_tensor cg_{cn};
    cg_.data = same.data();
    cg::check(cgrpo_log_prob_vjp(sampler.get(), 2, &cx, &cv, nullptr, &cn, ones.data(), &cg_, nullptr, nullptr));
    CHECK(gradient == same);
    CHECK(sampler.log_prob_residual(2, xs, vs, cg::ConstTensor(next, {B, D}), cg::Tensor(same, {B, D})) == c_log_prob);
    CHECK(std::abs(same[4] - (next[4] - sampler.coefficients(2).a * x[4] - sampler.coefficients(2).b * v[4])) < 1e-12);
    sampler.residual_vjp(2, cg::ConstTensor(same, {B, D}), ones, cg::Tensor(same, {B, D}));
    CHECK(gradient == same);
    CHECK(
        sampler.trajectory_residuals(2, cg::ConstTensor(x, {1, 2, B * D / 2}), cg::ConstTensor(v, {1, 1, B * D / 2}),
                                     cg::Tensor(same, {1, 1, B * D / 2})) ==
        sampler.trajectory_log_probs(2, cg::ConstTensor(x, {1, 2, B * D / 2}), cg::ConstTensor(v, {1, 1, B * D / 2})));
    sampler.trajectory_log_probs_vjp(2, cg::ConstTensor(x, {1, 2, B * D / 2}), cg::ConstTensor(v, {1, 1, B * D / 2}),
                                     cg::Numbers(1, 1.0), cg::Tensor(expected, {1, 1, B * D / 2}));
    sampler.trajectory_residuals_vjp(2, cg::ConstTensor(same, {1, 1, B * D / 2}), cg::Numbers(1, 1.0),
                                     cg::Tensor(same, {1, 1, B * D / 2}));
    CHECK(std::equal(same.begin(), same.begin() + B * D / 2, expected.begin()));
    // d log_prob / dv = b (x' - m) / (D s^2), m = a x + b v
    const cg::Coefficients k = sampler.coefficients(2);
    CHECK(std::abs(gradient[4] - k.b * (next[4] - k.a * x[4] - k.b * v[4]) / (D * k.s * k.s)) < 1e-12);
    CHECK(sampler.steps() == T && sampler.sigmas()[0] == 1 && sampler.options().eta == 0.7);

    cg::Numbers divergence(B);
    sampler.divergence_from_velocity(2, CGRPO_DIVERGENCE_VELOCITY, vs, xs, divergence);
    CHECK(std::abs(divergence[0] -
                   ((v[0] - x[0]) * (v[0] - x[0]) + (v[1] - x[1]) * (v[1] - x[1]) + (v[2] - x[2]) * (v[2] - x[2])) /
                       3) < 1e-12);
    sampler.predicted_image(2, xs, vs, cg::Tensor(same, {B, D}));
    CHECK(std::abs(same[5] - (x[5] - sampler.sigmas()[2] * v[5])) < 1e-12);
}

static void a_copied_tensor_has_its_own_shape() {
    std::vector<float> x(B * D, 2.0f);
    cg::Tensor *first = new cg::Tensor(x, {B, D}, {D, 1});
    cg::Tensor copy(*first), assigned(x, {1});
    assigned = *first;
    delete first;
    CHECK(copy.get()->shape[1] == D && copy.get()->strides[0] == D && assigned.get()->shape[0] == B);
    CHECK(copy.get()->shape != assigned.get()->shape);
    const cg::Cuda cuda;
    CHECK(copy.on(cuda).get()->device == CGRPO_DEVICE_CUDA && copy.on(cuda).get()->cuda == &cuda);
    cg::Part part;
    CHECK(copy.with(part).get()->part == &part && copy.get()->part == nullptr);
}

static void a_rollout_calls_the_model() {
    const cg::Sampler sampler = example();
    cg::Trajectory<float> whole(sampler, {B, D}, true), parts(sampler, {B, D}, true);
    cg::normal(1, CGRPO_INITIAL_NOISE, whole.at(0));
    cg::normal(1, CGRPO_INITIAL_NOISE, parts.at(0));
    int calls = 0;
    auto model = [&](std::int64_t, double, const cg::ConstTensor &x, const cg::Tensor &v) {
        calls++;
        for (std::int64_t i = 0; i < x.batch(); i++)
            for (std::size_t j = 0; j < D; j++) v.row<float>(i)[j] = 0.5f * x.row<float>(i)[j];
    };
    const cg::Noise noise(1);
    sampler.rollout(whole, T, &noise, model);
    CHECK(calls == T && whole.position == T && whole.log_probs.size() == B * S);
    sampler.rollout(parts, 2, &noise, model);
    sampler.rollout(parts, T, &noise, model);
    CHECK(parts.log_probs == whole.log_probs && parts.relative_l1 == whole.relative_l1);
    CHECK(std::equal(whole.image(2).begin(), whole.image(2).end(), parts.image(2).begin()));

    std::vector<float> v(B * S * D);
    for (std::int64_t i = 0; i < B; i++)
        for (std::int64_t k = 0; k < S; k++)
            for (std::int64_t j = 0; j < D; j++)
                v[static_cast<std::size_t>((i * S + k) * D + j)] =
                    0.5f * whole.at(k).row<float>(i)[static_cast<std::size_t>(j)];
    CHECK(sampler.trajectory_log_probs(0, whole.latents(), cg::ConstTensor(v, {B, S, D})) == whole.log_probs);
}

static void an_exception_leaves_the_call_and_not_the_library() {
    const cg::Sampler sampler = example();
    cg::Trajectory<double> trajectory(sampler, {B, D});
    cg::normal(1, CGRPO_INITIAL_NOISE, trajectory.at(0));
    const cg::Noise noise(1);
    auto model = [](std::int64_t step, double, const cg::ConstTensor &x, const cg::Tensor &v) {
        if (step == 1) throw Other{17};
        std::memset(v.row<double>(0).data(), 0, sizeof(double) * static_cast<std::size_t>(x.elements()));
        for (std::int64_t i = 1; i < B; i++) std::fill(v.row<double>(i).begin(), v.row<double>(i).end(), 0.0);
    };
    try {
        sampler.rollout(trajectory, T, &noise, model);
        CHECK(false);
    } catch (const Other &other) {
        CHECK(other.number == 17 && trajectory.position == 0);
    }
    sampler.rollout(trajectory, 1, &noise, model); // and the handle is as it was
    CHECK(trajectory.position == 1);

    // A tensor that the header cannot hold is refused in the callback, and that must not cross the library either.
    cg::Trajectory<double> flat(sampler, {B, D});
    const std::int64_t shape[] = {B, T + 1, 1, 1, 1, 1, 1, 1, 1, D};
    cgrpo_trajectory deep{};
    cgrpo_trajectory_init(&deep, sizeof deep);
    deep.latents = *flat.latents().get();
    deep.latents.shape = shape, deep.latents.ndim = 10;
    deep.log_probs = flat.log_probs.data();
    REFUSED(sampler.rollout(deep, T, &noise, model), CGRPO_INVALID_ARGUMENT, "a tensor has 9 sizes");
    CHECK(deep.position == 0 &&
          cg::last_error() == "the velocity callback returned 1 at step 0"); // it went by the library
}

static void plans_and_losses_are_those_of_c() {
    CHECK(cg::plan_fixed(10, 4) == cg::Steps{4, 4, 2});
    CHECK(cg::plan_describe({2, 3, 4, 7}) == "4 chunks over 16 steps: 0-1 | 2-4 | 5-8 | 9-15");
    CHECK(cg::plan_adaptive({4, 3, 2, 1, 2, 3, 4, 5}, 1, 8).size() == 2);
    cg::OptimalPlan optimal = cg::plan_optimal({1, 1, 1, 9, 9, 9}, 1, 6);
    CHECK(optimal.sizes == cg::Steps{3, 3} && std::abs(optimal.explained - 1) < 1e-12 &&
          std::abs(optimal.curve[5] - 9) < 1e-7);
    CHECK(cg::plan_carry({2, 2}, sigmas, cg::schedule_make(9)).size() == 2);
    CHECK(cg::gcpo_weights({2, 3, 4, 7}).size() == 4);
    CHECK(cg::chunk_select(B, 4) == cg::Flags(B * 4, 1));
    CHECK(cg::best_of_n({1, 5, 3, 4}, 2) == cg::Flags{1, 1, 0, 0});
    CHECK(cg::win_rates({1, 2, 3}) == cg::Numbers{0, 0.5, 1});

    // One chunk of one step, ratio e^0.1 clipped at 1.00005, A = 1: the loss is -1.00005, and no gradient comes.
    cg::ChunkLoss clipped = cg::chunk_loss({0.1}, {0.0}, {1.0}, 1, {1});
    CHECK(std::abs(clipped.loss + 1.00005) < 1e-12 && clipped.grad_log_probs[0] == 0);
    CHECK(std::abs(clipped.ratios[0] - std::exp(0.1)) < 1e-12 && clipped.stats.clip_fraction_high == 1);
    cg::ChunkStats total;
    cg::chunk_stats_merge(total, clipped.stats);
    CHECK(total.selected == 1 && total.ratio_max == clipped.stats.ratio_max);
    CHECK(cg::importance_weights({0.5}, {0.0}, 1, {1})[0] == std::exp(0.5));
    CHECK(cg::step_gains({1, 2, 4}, 1, 2, CGRPO_GAIN_STEP) == cg::Numbers{1, 2});
    CHECK(cg::step_advantages({1, 3}, 2, 1).size() == 2);
    CHECK(cg::tree_advantages({1, 3}, {0, 1}, 1)[0] == cg::advantages({1, 3})[0]);
    CHECK(cg::zero_std_groups({1, 1}).zero_std == 1);
    CHECK(cg::forked_ids({}, 2, 1, 3).size() == 6);
    CHECK(cg::timesteps({1.0, 0.5, 0.0}) == cg::Numbers{1000, 500});
    CHECK(cg::schedule_flash(10, 3, 4, 0.5).size() > 5);
    CHECK(std::abs(cg::flux_mu(16.0 * 16 * 256) - 0.5) < 1e-12);
    CHECK(cg::cuda_workspace(2, 1024) > 0);
    CHECK(cg::recipe_named("gcpo").steps == 17);
    CHECK(cg::recipe_describe("gcpo").find("gcpo") != std::string::npos);
    cg::WindowOptions window;
    window.end = 8;
    CHECK(cg::window_steps(window, 0) == cg::Steps{0, 1, 2, 3});

    cg::History history(4, 1);
    history.update({1, 1, 2}, {1, 2, 5});
    CHECK(history.rewards() == std::pair<cg::Steps, cg::Numbers>({1, 1, 2}, {1, 2, 5}));
    CHECK(cg::diversity(cg::ConstTensor(cg::Numbers{0, 3}, {2, 1}), 2) == cg::Numbers{3, 3});
}

static void the_forward_process_is_that_of_c() {
    cg::Numbers clean{1, 2}, noised(2), velocity{0, 0}, distance(1), normals(2);
    const cg::Noise noise(4);
    cg::forward_noised(cg::ConstTensor(clean, {1, 2}), {0.25}, noise, 0, cg::Tensor(noised, {1, 2}));
    double e0 = (noised[0] - 0.75 * 1) / 0.25, e1 = (noised[1] - 0.75 * 2) / 0.25;
    cg::forward_distance(cg::ConstTensor(clean, {1, 2}), cg::ConstTensor(velocity, {1, 2}), noise, 0, distance);
    CHECK(std::abs(distance[0] - ((e0 - 1) * (e0 - 1) + (e1 - 2) * (e1 - 2)) / 2) < 1e-9);
    cg::NFTOptions plain;
    plain.weighting = CGRPO_NFT_WEIGHTING_VELOCITY;
    CHECK(std::abs(cg::nft_loss({2}, {4}, {0}, 1, plain).loss - 15) < 1e-12); // 5 (2 / 2 + 4 / 2)
    CHECK(cg::matching_log_probs({2}, {0.5}, CGRPO_MATCHING_WEIGHTING_TIME).log_probs[0] == -1);
    CHECK(std::abs(cg::dgpo_loss({1, 1}, {1, 1}, {1, -1}, 1).loss) < 1e-12);
    CHECK(cg::crd_loss({1, 2}, {1, 2}, {1, -1}, 1).grad_distance.size() == 2);
    CHECK(std::abs(cg::dpo_loss({1}, {1}, {1}, {1}, 1, 1).loss - std::log(2.0)) < 1e-12);
    CHECK(cg::preference_pairs({1, 3, 2}, 0) == std::pair<cg::Steps, cg::Steps>({1}, {0}));
    CHECK(cg::times(2, 3, 0).size() == 6);
    cg::ForwardMethod nft = cg::forward_method_named("nft");
    CHECK(nft.objective == CGRPO_FORWARD_OBJECTIVE_NFT && nft.end_time_step == 9 && nft.nft.kl == 1e-4);
    CHECK(cg::forward_method_describe("nft").find("DiffusionNFT") != std::string::npos);
    cg::Numbers hinges(1), ratios(1);
    cg::norm_hinge(cg::ConstTensor(cg::Numbers{2, 0}, {1, 2}), cg::ConstTensor(cg::Numbers{1, 0}, {1, 2}), ratios,
                   hinges);
    CHECK(ratios[0] == 2 && hinges[0] == 1.5);
}

static void the_trainer_trains_and_reports(const std::string &directory) {
    cg::TrainerOptions options;
    options.latent_size = 2, options.condition_size = 1, options.width = 16, options.blocks = 1;
    options.embedding_size = 8, options.steps = 3, options.group_size = 4, options.threads = 1;
    options.chunk_fraction = 1;
    cg::Trainer trainer(options);
    std::vector<float> images(16), conditions(8, 1.0f), prompts(2, 1.0f), drawn(4);
    for (std::size_t i = 0; i < images.size(); i++) images[i] = static_cast<float>(i % 2);
    cg::PretrainOptions pretraining;
    pretraining.steps = 4, pretraining.batch_size = 8;
    int told = 0;
    trainer.pretrain(cg::ConstTensor(images, {8, 2}), cg::ConstTensor(conditions, {8, 1}), pretraining,
                     [&](std::int64_t, std::int64_t, double) { told++; });
    CHECK(told > 0);
    auto reward = [](const cg::ConstTensor &x, cg::Span<const std::int64_t>, cg::Span<double> rewards) {
        for (std::size_t i = 0; i < rewards.size(); i++) rewards[i] = x.row<float>(static_cast<std::int64_t>(i))[0];
    };
    const cg::ConstTensor asked(prompts, {2, 1});
    CHECK(trainer.iterate(asked, reward).iteration == 1 && trainer.iterations() == 1);
    auto fails = [](const cg::ConstTensor &, cg::Span<const std::int64_t>, cg::Span<double>) { throw Other{3}; };
    try {
        trainer.iterate(asked, fails);
        CHECK(false);
    } catch (const Other &other) {
        CHECK(other.number == 3 && trainer.iterations() == 1);
    }
    trainer.save(directory);
    cg::Trainer loaded = cg::Trainer::load(directory);
    CHECK(loaded.iterations() == 1 && loaded.parameter_count() == trainer.parameter_count());
    CHECK(loaded.options().width == 16);
    std::vector<float> same(4);
    trainer.sample(asked, cg::Tensor(drawn, {2, 2}), 5);
    loaded.sample(asked, cg::Tensor(same, {2, 2}), 5);
    CHECK(drawn == same);
    loaded.velocity(cg::ConstTensor(drawn, {2, 2}), 0.5, asked, cg::Tensor(same, {2, 2}));
}

int main(int, char **arguments) {
    try {
        options_have_the_defaults_of_c();
        an_error_has_status_and_sentence();
        spans_of_the_wrong_size_are_refused();
        spans_take_what_holds_elements();
        steps_are_those_of_c();
        a_copied_tensor_has_its_own_shape();
        a_rollout_calls_the_model();
        an_exception_leaves_the_call_and_not_the_library();
        plans_and_losses_are_those_of_c();
        the_forward_process_is_that_of_c();
        the_trainer_trains_and_reports(arguments[1]);
    } catch (const std::exception &error) {
        failed++, std::printf("a call failed: %s\n", error.what());
    }
    std::printf("chunkgrpo.hpp: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
