/* Plans, weights, selection, advantages and the chunk objective: against the formulas of the header, computed here. */
#include "arrays.h"

enum { S = 16, B = 6, K = 4 };
static const int64_t sizes[K] = {2, 3, 4, 7};

static int64_t total(const int64_t *numbers, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += numbers[i];
    return sum;
}

static void a_fixed_plan_ends_with_the_remainder(void) {
    int64_t plan[S], count = 0;
    CHECK_OK(cgrpo_plan_fixed(16, 5, plan, S, &count));
    CHECK(count == 4 && plan[0] == 5 && plan[1] == 5 && plan[2] == 5 && plan[3] == 1);
    CHECK_OK(cgrpo_plan_fixed(16, 4, plan, 4, &count));
    CHECK(count == 4 && plan[3] == 4);
    CHECK_OK(cgrpo_plan_fixed(16, 1, plan, S, &count));
    CHECK(count == 16 && total(plan, count) == 16);
    CHECK_OK(cgrpo_plan_fixed(16, 16, plan, 1, &count));
    CHECK(count == 1 && plan[0] == 16);
}

static void a_plan_explains_itself_in_one_line_that_may_be_cut(void) {
    static const int64_t plan[] = {2, 3, 1, 10};
    static const char line[] = "4 chunks over 16 steps: 0-1 | 2-4 | 5 | 6-15";
    char text[64] = "", cut[9] = "";
    size_t length = 0;
    CHECK_OK(cgrpo_plan_describe(plan, 4, NULL, 0, &length));
    CHECK(length == strlen(line));
    CHECK_OK(cgrpo_plan_describe(plan, 4, text, sizeof text, &length));
    CHECK(strcmp(text, line) == 0);
    CHECK_OK(cgrpo_plan_describe(plan, 4, cut, sizeof cut, &length));
    CHECK(strcmp(cut, "4 chunks") == 0 && length == strlen(line));
    CHECK_REFUSED(cgrpo_plan_describe(plan, 4, NULL, 5, &length), CGRPO_INVALID_ARGUMENT, "text");
}
static void a_recipe_fills_the_options_that_its_source_sets(void) {
    cgrpo_recipe recipe;
    recipe.struct_size = sizeof recipe;
    CHECK_OK(cgrpo_recipe_named("gcpo", &recipe));
    CHECK(recipe.steps == 17 && recipe.schedule.shift == 3 && recipe.sampler.eta == 0.7 && !recipe.has_window);
    CHECK(recipe.sampler.struct_size == sizeof recipe.sampler && recipe.loss.struct_size == sizeof recipe.loss);
    CHECK(recipe.chunk_count == 4 && recipe.chunk_sizes[3] == 7 && recipe.chunk_fraction == 0.5);
    CHECK(recipe.loss.clip_low == 5e-5 && recipe.advantages.group_size == 12 && recipe.truncated_timesteps == 1);
    CHECK_OK(cgrpo_recipe_named("mixgrpo_flash", &recipe));
    CHECK(recipe.has_window && recipe.window.size == 4 && recipe.window.end == 23 && recipe.flash_ratio == 0.4);
    CHECK(recipe.sampler.after == CGRPO_DYNAMICS_DPM_ODE);
    CHECK_REFUSED(cgrpo_recipe_named("ppo", &recipe), CGRPO_INVALID_ARGUMENT, "flow_factory");
    recipe.struct_size = 8;
    CHECK_REFUSED(cgrpo_recipe_named("gcpo", &recipe), CGRPO_INVALID_ARGUMENT, "struct_size");
}
static void a_plan_that_does_not_fit_is_refused_and_not_written(void) {
    int64_t plan[3] = {-1, -1, -1}, count = -1;
    CHECK_REFUSED(cgrpo_plan_fixed(16, 5, plan, 3, &count), CGRPO_INVALID_ARGUMENT, "capacity");
    CHECK(plan[0] == -1 && plan[2] == -1 && count == -1);
}

static void an_adaptive_plan_follows_the_curve_within_its_bounds(void) {
    static const double falls_then_rises[2 * S] = {9, 8, 7, 6, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
                                                   7, 6, 5, 4, 3, 4, 5, 6, 7, 8,  9,  10, 11, 12, 13, 14};
    int64_t plan[S], count = 0;
    double random[B * S];
    cgrpo_adaptive_options options;
    cgrpo_adaptive_options_init(&options, sizeof options);
    options.max_size = 0;
    CHECK_OK(cgrpo_plan_adaptive(falls_then_rises, 2, S, &options, plan, S, &count));
    CHECK(count == 2 && total(plan, count) == S && (plan[0] == 4 || plan[0] == 5)); /* the turn belongs to either */
    for (int64_t i = 0; i < B * S; i++) random[i] = 1 + scattered(77, (uint64_t)i);
    for (options.max_size = 3; options.max_size < 8; options.max_size++) {
        CHECK_OK(cgrpo_plan_adaptive(random, B, S, &options, plan, S, &count));
        CHECK(total(plan, count) == S);
        for (int64_t j = 0; j < count; j++) CHECK(plan[j] >= 1 && plan[j] <= options.max_size);
    }
}

static void weights_are_means_over_chunks(void) {
    double curve[B * S], weights[B * K];
    for (int64_t i = 0; i < B * S; i++) curve[i] = 1 + scattered(8, (uint64_t)i);
    CHECK_OK(cgrpo_chunk_weights(curve, B, S, sizes, K, weights));
    for (int64_t row = 0; row < B; row++)
        for (int64_t j = 0, step = 0; j < K; step += sizes[j], j++) {
            double sum = 0;
            for (int64_t k = step; k < step + sizes[j]; k++) sum += curve[row * S + k];
            CHECK_NEAR(weights[row * K + j], sum / (double)sizes[j] + 1e-8, 1e-14);
        }
}

static void every_sample_trains_its_fraction(void) {
    enum { N = 4000 };
    static uint8_t selection[N * K], again[N * K];
    static uint64_t ids[N];
    static double weights[N * K];
    int64_t count[K] = {0, 0, 0, 0};
    cgrpo_select_options options;
    cgrpo_select_options_init(&options, sizeof options);
    CHECK_OK(cgrpo_chunk_select(N, K, NULL, selection));
    for (int64_t i = 0; i < N * K; i++) CHECK(selection[i] == 1);
    options.fraction = 0.5;
    options.seed = 3;
    CHECK_OK(cgrpo_chunk_select(N, K, &options, selection));
    for (int64_t row = 0; row < N; row++) {
        int chosen = 0;
        for (int64_t j = 0; j < K; j++) chosen += selection[row * K + j], count[j] += selection[row * K + j];
        CHECK(chosen == 2);
    }
    for (int64_t j = 0; j < K; j++) CHECK_NEAR((double)count[j] / N, 0.5, 5 * 0.5 / sqrt(N));
    /* The same for a batch in two parts, by their ids. */
    for (int64_t i = 0; i < N; i++) ids[i] = (uint64_t)i;
    options.sample_ids = ids;
    CHECK_OK(cgrpo_chunk_select(1000, K, &options, again));
    options.sample_ids = ids + 1000;
    CHECK_OK(cgrpo_chunk_select(N - 1000, K, &options, again + 1000 * K));
    CHECK_SAME_BITS(selection, again, sizeof selection);
    options.sample_ids = NULL;
    /* One chunk a sample, by weight: 1 : 2 : 0 : 5. */
    for (int64_t i = 0; i < N; i++) weights[i * K] = 1, weights[i * K + 1] = 2, weights[i * K + 3] = 5;
    options.weights = weights;
    options.fraction = 0.25;
    CHECK_OK(cgrpo_chunk_select(N, K, &options, selection));
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < N * K; i++) count[i % K] += selection[i];
    for (int64_t j = 0; j < K; j++) {
        double p = weights[j] / 8;
        CHECK_NEAR((double)count[j] / N, p, 5 * sqrt(p * (1 - p) / N));
    }
    /* Softmax of the same weights. */
    options.weighting = CGRPO_WEIGHTING_SOFTMAX;
    CHECK_OK(cgrpo_chunk_select(N, K, &options, selection));
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < N * K; i++) count[i % K] += selection[i];
    for (int64_t j = 0; j < K; j++) {
        double p = exp(weights[j]) / (exp(1) + exp(2) + exp(0) + exp(5));
        CHECK_NEAR((double)count[j] / N, p, 5 * sqrt(p * (1 - p) / N));
    }
}

static void a_fixed_selection_is_the_same_for_all(void) {
    static const int64_t fixed[] = {3, 1};
    uint8_t selection[B * K];
    cgrpo_select_options options;
    cgrpo_select_options_init(&options, sizeof options);
    options.fixed = fixed;
    options.fixed_count = 2;
    CHECK_OK(cgrpo_chunk_select(B, K, &options, selection));
    for (int64_t i = 0; i < B * K; i++) CHECK(selection[i] == (i % K == 1 || i % K == 3));
}

static void advantages_are_normalised_within_groups(void) {
    static const double rewards[] = {1, 2, 4, /**/ 5, 5, 5, /**/ 0, 0, 1000};
    double advantages[9];
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_size = 3;
    options.clamp = 1;
    CHECK_OK(cgrpo_advantages(rewards, 9, &options, advantages));
    for (int64_t g = 0; g < 9; g += 3) {
        double mean = (rewards[g] + rewards[g + 1] + rewards[g + 2]) / 3, squares = 0;
        for (int64_t i = g; i < g + 3; i++) squares += pow(rewards[i] - mean, 2);
        for (int64_t i = g; i < g + 3; i++) {
            double expected = (rewards[i] - mean) / (sqrt(squares / 2) + 1e-8);
            CHECK_NEAR(advantages[i], expected > 1 ? 1 : expected < -1 ? -1 : expected, 1e-13);
        }
    }
    for (int64_t i = 3; i < 6; i++) CHECK(advantages[i] == 0);
    options.group_size = 1;
    CHECK_OK(cgrpo_advantages(rewards, 9, &options, advantages));
    for (int64_t i = 0; i < 9; i++) CHECK(advantages[i] == 0);
    memcpy(advantages, rewards, sizeof advantages);
    CHECK_OK(cgrpo_advantages(advantages, 9, NULL, advantages)); /* in place; one group by default */
    CHECK(advantages[8] > 2 && advantages[0] < 0);
}

/* Groups of 9, 8 … 2 samples, none of which keeps two rewards: the sentence is the same in every process. */
static void an_error_names_the_first_group_that_is_wrong(void) {
    double rewards[44], advantages[44];
    int64_t ids[44], count = 0;
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    for (int64_t size = 9; size >= 2; size--)
        for (int64_t i = 0; i < size; i++) rewards[count] = (double)count, ids[count++] = 100 - size;
    options.group_ids = ids, options.trim = 0.9;
    CHECK_REFUSED(cgrpo_advantages(rewards, count, &options, advantages), CGRPO_INVALID_ARGUMENT, "1 of 9");
}

/* A batch off the policy, with every case of the clip in it. */
typedef struct batch {
    double new_log_probs[B * S], old_log_probs[B * S], advantages[B];
    uint8_t selection[B * K];
    cgrpo_chunk_loss_options options;
} batch;

static batch *batch_new(void) {
    batch *b = (batch *)calloc(1, sizeof *b);
    for (int64_t i = 0; i < B * S; i++) {
        b->old_log_probs[i] = -1.5 + 0.2 * scattered(1, (uint64_t)i);
        b->new_log_probs[i] = b->old_log_probs[i] + 0.6 * scattered(2, (uint64_t)i);
    }
    for (int64_t i = 0; i < B; i++) b->advantages[i] = i % 2 ? 1.5 : -0.75;
    for (int64_t i = 0; i < B * K; i++) b->selection[i] = (uint8_t)(i % 5 ? i + 1 : 0); /* non-zero = train */
    cgrpo_chunk_loss_options_init(&b->options, sizeof b->options);
    b->options.clip_low = 0.05;
    b->options.clip_high = 0.1;
    b->options.kl = 0.04;
    b->options.selection = b->selection;
    return b;
}

static double loss_of(const batch *b) {
    double loss = NAN;
    CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, b->advantages, B, S, sizes, K, &b->options, &loss,
                              NULL, NULL, NULL));
    return loss;
}

static void a_history_can_be_saved_and_made_again(void) {
    static const int64_t who[7] = {5, -1, 5, 5, 9, -1, 5};
    static const double rewards[7] = {1, 2, 4, 3, 7, 6, 8};
    cgrpo_history *history = NULL, *again = NULL;
    CHECK_OK(cgrpo_history_create(3, 2, &history));
    CHECK_OK(cgrpo_history_create(3, 2, &again));
    double advantages[7], other[7], kept[8];
    int64_t prompts[8], count = -1;
    CHECK_OK(cgrpo_history_rewards(history, NULL, NULL, 0, &count));
    CHECK(count == 0);
    CHECK_OK(cgrpo_history_update(history, who, rewards, 7, advantages));
    CHECK_OK(cgrpo_history_rewards(history, NULL, NULL, 0, &count));
    CHECK(count == 6); /* of prompt 5 the latest three */
    CHECK_REFUSED(cgrpo_history_rewards(history, prompts, kept, 5, &count), CGRPO_INVALID_ARGUMENT, "capacity");
    CHECK_REFUSED(cgrpo_history_rewards(history, NULL, kept, 8, &count), CGRPO_INVALID_ARGUMENT, "prompts");
    CHECK_OK(cgrpo_history_rewards(history, prompts, kept, 8, &count));
    double of_five[3];
    int found = 0;
    for (int i = 0; i < 6; i++) {
        if (prompts[i] == 5 && found < 3) of_five[found++] = kept[i];
        if (prompts[i] == 9) CHECK(kept[i] == 7);
    }
    CHECK(found == 3 && of_five[0] == 4 && of_five[1] == 3 && of_five[2] == 8);
    CHECK_OK(cgrpo_history_update(again, prompts, kept, count, other));
    CHECK_OK(cgrpo_history_update(history, who, rewards, 7, advantages));
    CHECK_OK(cgrpo_history_update(again, who, rewards, 7, other));
    for (int i = 0; i < 7; i++) CHECK(advantages[i] == other[i]);
    cgrpo_history_destroy(history);
    cgrpo_history_destroy(again);
}

static void loss_ratios_and_statistics_are_their_formulas(void) {
    batch *b = batch_new();
    double loss, ratios[B * K], sum = 0, kl = 0, first = 0, second = 0, low = 0, high = 0, least = INFINITY, most = 0;
    int64_t n = 0;
    cgrpo_chunk_stats stats;
    stats.struct_size = sizeof stats;
    CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, b->advantages, B, S, sizes, K, &b->options, &loss,
                              NULL, ratios, &stats));
    for (int64_t row = 0; row < B; row++)
        for (int64_t j = 0, step = 0; j < K; step += sizes[j], j++) {
            double l_new = 0, l_old = 0, a = b->advantages[row], rho, clipped, delta;
            for (int64_t k = row * S + step; k < row * S + step + sizes[j]; k++)
                l_new += b->new_log_probs[k] / (double)sizes[j], l_old += b->old_log_probs[k] / (double)sizes[j];
            delta = l_old - l_new;
            rho = exp(-delta);
            CHECK_NEAR(ratios[row * K + j], rho, 1e-14);
            if (b->selection[row * K + j] == 0) continue;
            clipped = fmin(fmax(rho, 1 - b->options.clip_low), 1 + b->options.clip_high);
            n++;
            sum += fmax(-a * rho, -a * clipped) + b->options.kl * (exp(delta) - 1 - delta);
            kl += exp(delta) - 1 - delta;
            first += rho, second += rho * rho;
            least = fmin(least, rho), most = fmax(most, rho);
            low += a < 0 && rho < 1 - b->options.clip_low;
            high += a > 0 && rho > 1 + b->options.clip_high;
        }
    CHECK_NEAR(loss, sum / (double)n, 1e-14);
    CHECK(stats.struct_size == sizeof stats && stats.selected == n);
    CHECK_NEAR(stats.ratio_mean, first / (double)n, 1e-14);
    CHECK_NEAR(stats.ratio_std, sqrt(second / (double)n - pow(first / (double)n, 2)), 1e-8);
    CHECK_NEAR(stats.ratio_min, least, 1e-14);
    CHECK_NEAR(stats.ratio_max, most, 1e-14);
    CHECK(low > 0 && high > 0);
    CHECK_NEAR(stats.clip_fraction_low, low / (double)n, 1e-14);
    CHECK_NEAR(stats.clip_fraction_high, high / (double)n, 1e-14);
    CHECK_NEAR(stats.approximate_kl, kl / (double)n, 1e-14);
    CHECK_NEAR(stats.effective_sample_size, first * first / ((double)n * second), 1e-13);
}

/* Of each sample's loss, merged in any grouping: those of all samples. */
static void merged_statistics_are_those_of_all_chunks(void) {
    batch *b = batch_new();
    double loss;
    cgrpo_chunk_stats all, total, rest, own;
    all.struct_size = own.struct_size = sizeof all;
    memset(&total, 0, sizeof total), memset(&rest, 0, sizeof rest);
    total.struct_size = rest.struct_size = sizeof total;
    CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, b->advantages, B, S, sizes, K, &b->options, &loss,
                              NULL, NULL, &all));
    for (int64_t row = 0; row < B; row++) {
        cgrpo_chunk_loss_options options = b->options;
        options.selection = b->selection + row * K;
        CHECK_OK(cgrpo_chunk_loss(b->new_log_probs + row * S, b->old_log_probs + row * S, b->advantages + row, 1, S,
                                  sizes, K, &options, &loss, NULL, NULL, &own));
        CHECK_OK(cgrpo_chunk_stats_merge(row % 3 ? &rest : &total, &own));
    }
    CHECK_OK(cgrpo_chunk_stats_merge(&total, &rest));
    CHECK(total.struct_size == sizeof total && total.selected == all.selected);
    CHECK(total.ratio_min == all.ratio_min && total.ratio_max == all.ratio_max);
    CHECK(total.clip_fraction_low == all.clip_fraction_low && total.clip_fraction_high == all.clip_fraction_high);
    CHECK(total.log_ratio_max == all.log_ratio_max);
    CHECK_NEAR(all.log_ratio_max, fmax(-log(all.ratio_min), log(all.ratio_max)), 1e-14);
    CHECK_NEAR(total.ratio_mean, all.ratio_mean, 1e-14);
    CHECK_NEAR(total.ratio_std, all.ratio_std, 1e-14);
    CHECK_NEAR(total.approximate_kl, all.approximate_kl, 1e-15);
    CHECK_NEAR(total.effective_sample_size, all.effective_sample_size, 1e-14);
    memset(&rest, 0, sizeof rest), rest.struct_size = sizeof rest, own = total;
    CHECK_OK(cgrpo_chunk_stats_merge(&total, &rest));
    CHECK(memcmp(&own, &total, sizeof own) == 0);
    total.selected = INT64_MAX, own = total;
    CHECK(cgrpo_chunk_stats_merge(&total, &all) == CGRPO_INVALID_ARGUMENT && memcmp(&own, &total, sizeof own) == 0);
}

static void loss_gradient_agrees_with_finite_differences(void) {
    batch *b = batch_new();
    const double h = 1e-6;
    double loss, grad[B * S];
    CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, b->advantages, B, S, sizes, K, &b->options, &loss,
                              grad, NULL, NULL));
    CHECK_NEAR(loss_of(b), loss, 0);
    for (int64_t i = 0; i < B * S; i++) {
        double middle = b->new_log_probs[i], up, down;
        b->new_log_probs[i] = middle + h;
        up = loss_of(b);
        b->new_log_probs[i] = middle - h;
        down = loss_of(b);
        b->new_log_probs[i] = middle;
        CHECK_NEAR(grad[i], (up - down) / (2 * h), 1e-8);
    }
}

static void advantages_of_steps_are_those_of_their_sample_where_they_are_equal(void) {
    batch *b = batch_new();
    static double wide[B * S];
    double loss, grad[B * S], other[B * S];
    CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, b->advantages, B, S, sizes, K, &b->options, &loss,
                              grad, NULL, NULL));
    CHECK(b->options.advantage_level == CGRPO_ADVANTAGE_LEVEL_SAMPLE);
    for (int32_t level = CGRPO_ADVANTAGE_LEVEL_CHUNK; level <= CGRPO_ADVANTAGE_LEVEL_STEP; level++) {
        int64_t row = level == CGRPO_ADVANTAGE_LEVEL_CHUNK ? K : S;
        double again = 0;
        for (int64_t i = 0; i < B * row; i++) wide[i] = b->advantages[i / row];
        b->options.advantage_level = level;
        CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, wide, B, S, sizes, K, &b->options, &again, other,
                                  NULL, NULL));
        CHECK(memcmp(&again, &loss, 8) == 0 && memcmp(other, grad, sizeof grad) == 0);
        wide[0] = -wide[0]; /* of a chunk that is not selected */
        CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, wide, B, S, sizes, K, &b->options, &again, NULL,
                                  NULL, NULL));
        CHECK(again == loss);
        wide[row - 1] = -3 * wide[row - 1]; /* of one that is */
        CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, wide, B, S, sizes, K, &b->options, &again, NULL,
                                  NULL, NULL));
        CHECK(again != loss);
    }
}

static void step_level_grpo_is_chunks_of_one(void) {
    batch *b = batch_new();
    int64_t ones[S], count;
    double loss, ratios[B * S];
    CHECK_OK(cgrpo_plan_fixed(S, 1, ones, S, &count));
    b->options.selection = NULL;
    CHECK_OK(cgrpo_chunk_loss(b->new_log_probs, b->old_log_probs, b->advantages, B, S, ones, count, &b->options, &loss,
                              NULL, ratios, NULL));
    for (int64_t i = 0; i < B * S; i++) CHECK_NEAR(ratios[i], exp(b->new_log_probs[i] - b->old_log_probs[i]), 1e-14);
}

static void on_policy_the_ratio_is_exactly_one(void) {
    batch *b = batch_new();
    double loss, grad[B * S], ratios[B * K], mean = 0;
    cgrpo_chunk_stats stats;
    stats.struct_size = sizeof stats;
    b->options.selection = NULL;
    CHECK_OK(cgrpo_chunk_loss(b->old_log_probs, b->old_log_probs, b->advantages, B, S, sizes, K, &b->options, &loss,
                              grad, ratios, &stats));
    for (int64_t i = 0; i < B * K; i++) CHECK(ratios[i] == 1);
    for (int64_t i = 0; i < B; i++) mean += b->advantages[i] / B;
    CHECK_NEAR(loss, -mean, 1e-15);
    CHECK(stats.effective_sample_size == 1 && stats.approximate_kl == 0 && stats.ratio_std == 0);
    for (int64_t row = 0; row < B; row++) CHECK_NEAR(grad[row * S + 15], -b->advantages[row] / (B * K) / 7, 1e-15);
}

int main(void) {
    RUN(a_fixed_plan_ends_with_the_remainder);
    RUN(a_plan_that_does_not_fit_is_refused_and_not_written);
    RUN(a_plan_explains_itself_in_one_line_that_may_be_cut);
    RUN(a_recipe_fills_the_options_that_its_source_sets);
    RUN(an_adaptive_plan_follows_the_curve_within_its_bounds);
    RUN(weights_are_means_over_chunks);
    RUN(every_sample_trains_its_fraction);
    RUN(a_fixed_selection_is_the_same_for_all);
    RUN(advantages_are_normalised_within_groups);
    RUN(a_history_can_be_saved_and_made_again);
    RUN(an_error_names_the_first_group_that_is_wrong);
    RUN(loss_ratios_and_statistics_are_their_formulas);
    RUN(merged_statistics_are_those_of_all_chunks);
    RUN(loss_gradient_agrees_with_finite_differences);
    RUN(advantages_of_steps_are_those_of_their_sample_where_they_are_equal);
    RUN(step_level_grpo_is_chunks_of_one);
    RUN(on_policy_the_ratio_is_exactly_one);
    return finish("objective");
}
