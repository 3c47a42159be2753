/* The objectives of the forward process: values by their formulas, gradients by finite differences. */
#include "arrays.h"

enum { B = 6, N = 4, S = B * N };
static double d[4][S], absolute[2][S], times[S], kl[S], gradient[3][S], loss;
static const double advantages[B] = {1.5, -0.4, 7, 0, -9, 0.3};
static const int64_t ids[B] = {3, 1, 3, 1, 3, 1};

static void fresh(void) {
    for (int i = 0; i < S; i++) {
        for (int k = 0; k < 4; k++) d[k][i] = 0.6 + 0.5 * scattered((uint64_t)k + 1, (uint64_t)i);
        for (int k = 0; k < 2; k++) absolute[k][i] = 0.7 + 0.3 * scattered((uint64_t)k + 7, (uint64_t)i);
        times[i] = 0.5 + 0.49 * scattered(9, (uint64_t)i), kl[i] = 0.1 + 0.05 * scattered(10, (uint64_t)i);
    }
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double clamped(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
static double goodness(double a, double clip) { return clamped(clamped(a, -clip, clip) / clip / 2 + 0.5, 0, 1); }

/* The gradient that a loss wrote for an argument of it, against central differences of another function of it. */
static void check_gradient(double *argument, const double *written, double (*value)(void)) {
    const double h = 1e-6;
    double exact[S];
    memcpy(exact, written, sizeof exact);
    for (int i = 0; i < S; i++) {
        const double at = argument[i];
        argument[i] = at + h;
        double above = value();
        argument[i] = at - h;
        CHECK_NEAR(exact[i] * S, (above - value()) / (2 * h) * S, 1e-6);
        argument[i] = at;
    }
}

/* ---- NFT ---- */

static cgrpo_nft_options nft;
static double fixed[2][S]; /* the absolute means that weights are taken from */

static double nft_value(void) {
    double sum = 0;
    for (int i = 0; i < S; i++) {
        double a = advantages[i / N], t = times[i], w[2];
        if (nft.mode == CGRPO_NFT_ADVANTAGES_POSITIVE_ONLY) a = a > 0 ? a : 0;
        if (nft.mode == CGRPO_NFT_ADVANTAGES_NEGATIVE_ONLY) a = a < 0 ? a : 0;
        if (nft.mode == CGRPO_NFT_ADVANTAGES_ONE_ONLY) a = a > 0;
        if (nft.mode == CGRPO_NFT_ADVANTAGES_BINARY) a = (a > 0) - (a < 0);
        double r = goodness(a, nft.advantage_clip);
        for (int side = 0; side < 2; side++)
            w[side] = nft.weighting == CGRPO_NFT_WEIGHTING_VELOCITY ? 1
                      : nft.weighting == CGRPO_NFT_WEIGHTING_IMAGE  ? t * t
                                                                    : t * t / fmax(t * fixed[side][i], nft.floor);
        sum += nft.advantage_clip / nft.beta * (r * w[0] * d[0][i] + (1 - r) * w[1] * d[1][i]) + nft.kl * kl[i];
    }
    return sum / S;
}

static void nft_is_its_formula(void) {
    for (int weighting = 1; weighting <= 3; weighting++)
        for (int mode = 1; mode <= 5; mode++) {
            cgrpo_forward_stats stats;
            stats.struct_size = sizeof stats;
            fresh();
            absolute[0][3] = 0; /* at the floor */
            memcpy(fixed, absolute, sizeof fixed);
            cgrpo_nft_options_init(&nft, sizeof nft);
            nft.beta = 0.3, nft.advantage_clip = 4, nft.floor = 0.05, nft.weighting = weighting, nft.mode = mode,
            nft.kl = 0.2;
            nft.times = times, nft.positive_absolute = absolute[0], nft.negative_absolute = absolute[1];
            nft.reference_divergence = kl, nft.grad_reference_divergence = gradient[2];
            CHECK_OK(cgrpo_nft_loss(d[0], d[1], advantages, B, N, &nft, &loss, gradient[0], gradient[1], &stats));
            CHECK_NEAR(loss, nft_value(), 1e-14);
            CHECK_NEAR(stats.policy_loss + 0.2 * stats.kl, loss, 1e-14);
            check_gradient(d[0], gradient[0], nft_value);
            check_gradient(d[1], gradient[1], nft_value);
            check_gradient(kl, gradient[2], nft_value);
        }
}

static void nft_with_half_of_the_weight_is_flow_matching(void) {
    /* A = 0 makes r = 1/2; with v = v_old all three distances are one number. */
    static const double zeros[B];
    double sum = 0;
    fresh();
    for (int i = 0; i < S; i++) sum += d[0][i];
    cgrpo_nft_options_init(&nft, sizeof nft);
    nft.weighting = CGRPO_NFT_WEIGHTING_VELOCITY;
    CHECK_OK(cgrpo_nft_loss(d[0], d[0], zeros, B, N, &nft, &loss, NULL, NULL, NULL));
    CHECK_NEAR(loss, 5 * sum / S, 1e-14);
}

/* ---- AWM, FPO ---- */

static cgrpo_matching_weighting weighting;
static double matching_at(int i) {
    const double e = 1e-10, p = 0.3, t = times[i], x = d[0][i];
    switch (weighting) {
        case CGRPO_MATCHING_WEIGHTING_UNIFORM: return -x;
        case CGRPO_MATCHING_WEIGHTING_TIME: return -t * x;
        case CGRPO_MATCHING_WEIGHTING_TIME_SQUARED: return -t * t * x;
        case CGRPO_MATCHING_WEIGHTING_HUBER: return -t * (sqrt(x + e) - 1e-5);
        default: return -t * (pow(x + e, p) - pow(e, p)) / p;
    }
}
static double matching_sum(void) {
    double sum = 0;
    for (int i = 0; i < S; i++) sum += matching_at(i);
    return sum;
}

static void matching_log_probabilities_are_their_formulas(void) {
    fresh();
    for (weighting = 1; weighting <= 5; weighting++) {
        CHECK_OK(cgrpo_matching_log_probs(d[0], times, S, weighting, 0.3, gradient[1], gradient[0]));
        for (int i = 0; i < S; i++) CHECK_NEAR(gradient[1][i], matching_at(i), 1e-14);
        check_gradient(d[0], gradient[0], matching_sum);
    }
}

static int64_t chunk;
static double awm_value(void) {
    double sum = 0;
    for (int i = 0; i < B; i++)
        for (int j = 0; j < N; j += (int)chunk) {
            double moved = 0;
            for (int k = 0; k < chunk; k++) moved += d[1][i * N + j + k] - d[0][i * N + j + k];
            double ratio = exp(moved / (double)chunk), a = advantages[i];
            sum += fmax(-a * ratio, -a * clamped(ratio, 0.8, 1.3));
        }
    return sum * (double)chunk / S;
}

/* AWM clips single times; a chunk of times has one ratio, exp of the mean of d_old - d. */
static void awm_is_the_chunk_loss_on_matching_log_probabilities(void) {
    for (chunk = 1; chunk <= N; chunk *= 2) {
        double old[S], new[S], slopes[S];
        int64_t sizes[N] = {chunk, chunk, chunk, chunk};
        cgrpo_chunk_loss_options options;
        fresh();
        cgrpo_chunk_loss_options_init(&options, sizeof options);
        options.clip_low = 0.2, options.clip_high = 0.3;
        CHECK_OK(cgrpo_matching_log_probs(d[0], NULL, S, CGRPO_MATCHING_WEIGHTING_UNIFORM, 1, new, slopes));
        CHECK_OK(cgrpo_matching_log_probs(d[1], NULL, S, CGRPO_MATCHING_WEIGHTING_UNIFORM, 1, old, NULL));
        CHECK_OK(
            cgrpo_chunk_loss(new, old, advantages, B, N, sizes, N / chunk, &options, &loss, gradient[0], NULL, NULL));
        CHECK_NEAR(loss, awm_value(), 1e-14);
        for (int i = 0; i < S; i++) gradient[0][i] *= slopes[i];
        check_gradient(d[0], gradient[0], awm_value);
    }
}

/* ---- DGPO ---- */

static cgrpo_dgpo_options dgpo;
static double frozen[S]; /* the distances that preferences and clips are taken from: they have no gradient */

static int dgpo_clips(int i) {
    double ratio = exp(d[2][i] - frozen[i]);
    return dgpo.old_distance != NULL &&
           (advantages[i / N] > 0 ? ratio > 1 + dgpo.clip_high : ratio < 1 - dgpo.clip_low);
}
static double dgpo_value(void) {
    double sum = 0;
    for (int i = 0; i < S; i++) {
        double s = 0, members = 0;
        for (int other = 0; other < B; other++) {
            int k = other * N + i % N;
            if (dgpo.group_ids != NULL && ids[other] != ids[i / N]) continue;
            if (dgpo.group_size != 0 && other / dgpo.group_size != i / N / dgpo.group_size) continue;
            s += advantages[other] * (frozen[k] - d[1][k]), members++;
        }
        sum += sigmoid(dgpo.beta * s / members) * advantages[i / N] *
               (dgpo.clip_distance && dgpo_clips(i) ? frozen[i] : d[0][i]);
        sum += dgpo.kl * kl[i];
    }
    return sum / S;
}

static void dgpo_is_its_formula(void) {
    for (int kind = 0; kind < 5; kind++) {
        cgrpo_forward_stats stats;
        double clipped = 0;
        stats.struct_size = sizeof stats;
        fresh();
        memcpy(frozen, d[0], sizeof frozen);
        cgrpo_dgpo_options_init(&dgpo, sizeof dgpo);
        dgpo.beta = 0.8, dgpo.kl = 0.1, dgpo.reference_divergence = kl;
        dgpo.grad_reference_divergence = gradient[2];
        if (kind == 1) dgpo.group_size = 3;
        if (kind == 2) dgpo.group_ids = ids;
        dgpo.clip_distance = kind != 4;
        if (kind >= 3) dgpo.old_distance = d[2], dgpo.clip_low = 0.1, dgpo.clip_high = 0.2;
        for (int i = 0; i < S; i++) clipped += dgpo_clips(i);
        CHECK((clipped > 0) == (kind >= 3) && clipped < S);
        CHECK_OK(cgrpo_dgpo_loss(d[0], d[1], advantages, B, N, &dgpo, &loss, gradient[0], &stats));
        CHECK_NEAR(loss, dgpo_value(), 1e-14);
        CHECK_NEAR(stats.clip_fraction, clipped / S, 1e-14);
        check_gradient(kl, gradient[2], dgpo_value);
        dgpo.clip_kl = kind >= 3;
        CHECK_OK(cgrpo_dgpo_loss(d[0], d[1], advantages, B, N, &dgpo, &loss, gradient[0], NULL));
        for (int i = 0; i < S; i++) CHECK(gradient[2][i] == (dgpo.clip_kl && dgpo_clips(i) ? 0 : 0.1 / S));
        check_gradient(d[0], gradient[0], dgpo_value);
    }
}

/* ---- CRD ---- */

static cgrpo_crd_options crd;

static double crd_reward(int i, const double *distance) {
    double w = crd.absolute == NULL ? 1 : fmax(crd.absolute[i], crd.floor);
    double w_old = crd.absolute == NULL ? 1 : fmax(crd.old_absolute[i], crd.floor);
    return -(distance[i] / w - d[1][i] / w_old);
}
static double crd_centre(int time, int second) { /* of the rewards, or with time < 0 of the advantages */
    double sum = 0, weights = 0;
    for (int i = 0; i < B; i++) {
        double a = goodness(advantages[i], crd.advantage_clip), T = crd.temperature;
        double w = isinf(T) ? 1 : T == 0 ? (second ? 1 : a > 0 ? exp(a) : 0) : exp((second ? -a : a) / T);
        sum += w * (time < 0 ? a : crd_reward(i * N + time, frozen)), weights += w;
    }
    return sum / weights;
}
static double crd_value(void) {
    double sum = 0;
    for (int i = 0; i < S; i++)
        for (int second = 0; second < 2; second++) {
            double a = goodness(advantages[i / N], crd.advantage_clip);
            double z = crd.beta * (crd_reward(i, d[0]) - crd_centre(i % N, second)), y = a - crd_centre(-1, second);
            double least = crd.kl_least == -1 ? crd.kl : crd.kl_least;
            sum += crd.advantage_clip / crd.beta / 2 *
                   (crd.regression == CGRPO_CRD_REGRESSION_MEAN_SQUARE
                        ? (z - y) * (z - y)
                        : -sigmoid(y) * log(sigmoid(z)) - (1 - sigmoid(y)) * log(1 - sigmoid(z)));
            sum += (least + a * (crd.kl - least)) * kl[i] / 2;
        }
    return sum / S;
}

static void crd_is_its_formula(void) {
    static const double temperatures[] = {(double)INFINITY, 0, 0.4};
    for (int regression = 1; regression <= 2; regression++)
        for (int kind = 0; kind < 6; kind++) {
            fresh();
            absolute[0][5] = 1e-7; /* below the floor */
            memcpy(frozen, d[0], sizeof frozen);
            cgrpo_crd_options_init(&crd, sizeof crd);
            crd.beta = 0.7, crd.advantage_clip = 4, crd.regression = regression, crd.kl = 0.1, crd.floor = 0.5;
            crd.temperature = temperatures[kind % 3];
            if (kind > 2) crd.absolute = absolute[0], crd.old_absolute = absolute[1], crd.kl_least = 0.01;
            crd.reference_divergence = kl, crd.grad_reference_divergence = gradient[2];
            CHECK_OK(cgrpo_crd_loss(d[0], d[1], advantages, B, N, &crd, &loss, gradient[0], NULL));
            CHECK_NEAR(loss, crd_value(), 1e-13);
            check_gradient(d[0], gradient[0], crd_value);
            check_gradient(kl, gradient[2], crd_value);
        }
}

/* ---- DPO ---- */

static cgrpo_dpo_options dpo;
static double dpo_value(void) {
    double sum = 0;
    for (int i = 0; i < S; i++) sum -= log(sigmoid(-0.5 * dpo.beta * ((d[0][i] - d[2][i]) - (d[1][i] - d[3][i]))));
    return sum / S;
}

static void dpo_is_its_formula(void) {
    cgrpo_forward_stats stats;
    double right = 0;
    stats.struct_size = sizeof stats;
    fresh();
    cgrpo_dpo_options_init(&dpo, sizeof dpo);
    dpo.beta = 3;
    CHECK_OK(cgrpo_dpo_loss(d[0], d[1], d[2], d[3], B, N, &dpo, &loss, gradient[0], gradient[1], &stats));
    CHECK_NEAR(loss, dpo_value(), 1e-14);
    for (int i = 0; i < S; i++) right += d[0][i] - d[2][i] < d[1][i] - d[3][i];
    CHECK_NEAR(stats.accuracy, right / S, 1e-14);
    check_gradient(d[0], gradient[0], dpo_value);
    check_gradient(d[1], gradient[1], dpo_value);
    dpo.beta = 1e6; /* far from 0 the loss is linear, and finite */
    CHECK_OK(cgrpo_dpo_loss(d[0], d[1], d[2], d[3], B, N, &dpo, &loss, NULL, NULL, NULL));
    CHECK(isfinite(loss) && loss > 1000);
    CHECK_OK(cgrpo_dpo_loss(d[0], d[0], d[2], d[2], B, N, NULL, &loss, NULL, NULL, NULL));
    CHECK_NEAR(loss, log(2), 1e-15);
}

static void pairs_are_the_best_and_the_worst_of_each_group(void) {
    static const double scores[] = {1, 5, 5, -2, 3, 3, 3, 3};
    static const int64_t groups[] = {9, 9, -4, 9, -4, 7, 7, -4};
    int64_t chosen[8], rejected[8], count = -1;
    CHECK_OK(cgrpo_preference_pairs(scores, 8, 0, NULL, chosen, rejected, &count));
    CHECK(count == 1 && chosen[0] == 1 && rejected[0] == 3);
    CHECK_OK(cgrpo_preference_pairs(scores, 8, 4, NULL, chosen, rejected, &count));
    CHECK(count == 1 && chosen[0] == 1 && rejected[0] == 3); /* the second group is all equal */
    CHECK_OK(cgrpo_preference_pairs(scores, 8, 0, groups, chosen, rejected, &count));
    CHECK(count == 2 && chosen[0] == 2 && rejected[0] == 4 && chosen[1] == 1 && rejected[1] == 3);
}

/* ---- Times ---- */

static int rising(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static void stratified_times_have_one_in_each_part(void) {
    enum { P = 3, M = 50 };
    double all[P * M], again[M];
    static const uint64_t sample_ids[P] = {4, 4, 6};
    cgrpo_time_options o;
    cgrpo_time_options_init(&o, sizeof o);
    o.seed = 8, o.sample_ids = sample_ids, o.low = 0.2, o.high = 0.9;
    CHECK_OK(cgrpo_times(P, M, 3, &o, all));
    CHECK_SAME_BITS(all, all + M, M * sizeof *all); /* one id, one set of times */
    CHECK(memcmp(all, all + 2 * M, M * sizeof *all) != 0);
    o.sample_ids = sample_ids + 2;
    CHECK_OK(cgrpo_times(1, M, 3, &o, again));
    CHECK_SAME_BITS(again, all + 2 * M, sizeof again); /* any split of the batch */
    CHECK_OK(cgrpo_times(1, M, 4, &o, again));
    CHECK(memcmp(again, all + 2 * M, sizeof again) != 0);
    int in_order = 1;
    for (int i = 1; i < M; i++) in_order &= all[i] > all[i - 1];
    CHECK(!in_order);
    qsort(all, M, sizeof *all, rising);
    for (int i = 0; i < M; i++) CHECK(all[i] > 0.2 + 0.7 * i / M && all[i] <= 0.2 + 0.7 * (i + 1) / M);
}

static void shift_and_logit_normal_are_their_formulas(void) {
    enum { M = 20000 };
    static double plain[M], other[M];
    double mean = 0, square = 0;
    cgrpo_time_options o;
    cgrpo_time_options_init(&o, sizeof o);
    CHECK_OK(cgrpo_times(1, M, 0, &o, plain));
    o.shift = 3;
    CHECK_OK(cgrpo_times(1, M, 0, &o, other));
    for (int i = 0; i < M; i++) CHECK_NEAR(other[i], 3 * plain[i] / (1 + 2 * plain[i]), 1e-15);
    o.shift = 1, o.distribution = CGRPO_TIME_DISTRIBUTION_LOGIT_NORMAL, o.mean = 0.3, o.std = 1.4, o.least = 0.01;
    CHECK_OK(cgrpo_times(1, M, 0, &o, other));
    for (int i = 0; i < M; i++) {
        double z = (log(other[i] / (1 - other[i])) - 0.3) / 1.4;
        /* Its cumulative function gives the uniform number back. */
        if (other[i] > 0.01) CHECK_NEAR(erfc(-z / sqrt(2)) / 2, plain[i], 1e-12);
        CHECK(other[i] >= 0.01 && other[i] <= 1);
        mean += z / M, square += z * z / M;
    }
    CHECK_NEAR(mean, 0, 0.01);
    CHECK_NEAR(square, 1, 0.02);
}

/* A method by its name, run as its fields say: its loss is the one of the fields of its objective. */
static void a_method_runs_by_what_its_name_fills(void) {
    static const char *const names[] = {"nft", "awm", "fpo", "dgpo", "crd", "dpo"};
    static const double sigmas[] = {1, 0.9, 0.8, 0.7, 0.65, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0};
    for (int i = 0; i < 6; i++) {
        cgrpo_forward_method m;
        double drawn[20];
        m.struct_size = sizeof m;
        CHECK_OK(cgrpo_forward_method_named(names[i], &m));
        CHECK(m.struct_size == sizeof m && m.times.struct_size == sizeof m.times);
        CHECK(m.nft.struct_size == sizeof m.nft && m.dgpo.struct_size == sizeof m.dgpo);
        CHECK(m.crd.struct_size == sizeof m.crd && m.dpo.struct_size == sizeof m.dpo);
        CHECK(m.chunk_loss.struct_size == sizeof m.chunk_loss);
        CHECK(m.draws >= 1 && m.draws <= 20 && m.draws % m.draws_per_chunk == 0 && m.end_time_step <= m.steps);
        CHECK((m.times.distribution == CGRPO_TIME_DISTRIBUTION_DISCRETE) == (m.end_time_step > 0));
        if (m.end_time_step > 0)
            m.times.values = sigmas + m.first_time_step, m.times.values_count = m.end_time_step - m.first_time_step;
        CHECK_OK(cgrpo_times(1, m.draws, 0, &m.times, drawn));
        for (int64_t k = 0; k < m.draws && m.end_time_step > 0; k++)
            CHECK(drawn[k] <= sigmas[m.first_time_step] && drawn[k] >= sigmas[m.end_time_step - 1]);
    }
}

static void the_numbers_of_a_method_are_those_of_its_loss(void) {
    cgrpo_forward_method m;
    double by_hand = 0;
    fresh();
    m.struct_size = sizeof m;
    CHECK_OK(cgrpo_forward_method_named("nft", &m));
    CHECK(m.objective == CGRPO_FORWARD_OBJECTIVE_NFT && m.nft.weighting == CGRPO_NFT_WEIGHTING_ADAPTIVE);
    m.nft.times = times, m.nft.positive_absolute = absolute[0], m.nft.negative_absolute = absolute[1];
    m.nft.reference_divergence = kl;
    CHECK_OK(cgrpo_nft_loss(d[0], d[1], advantages, B, N, &m.nft, &loss, NULL, NULL, NULL));
    for (int i = 0; i < S; i++) {
        double r = goodness(advantages[i / N], 5), t = times[i];
        by_hand += 5 * (r * t * d[0][i] / absolute[0][i] + (1 - r) * t * d[1][i] / absolute[1][i]) / S;
        by_hand += 1e-4 * kl[i] / S;
    }
    CHECK_NEAR(loss, by_hand, 1e-12);

    CHECK_OK(cgrpo_forward_method_named("dpo", &m));
    CHECK_OK(cgrpo_dpo_loss(d[0], d[1], d[2], d[3], B, N, &m.dpo, &loss, NULL, NULL, NULL));
    by_hand = 0;
    for (int i = 0; i < S; i++) by_hand -= log(sigmoid(-50 * ((d[0][i] - d[2][i]) - (d[1][i] - d[3][i])))) / S;
    CHECK_NEAR(loss, by_hand, 1e-10);
}

static void an_unknown_method_is_answered_with_those_there_are(void) {
    cgrpo_forward_method m;
    char text[2000];
    size_t length;
    m.struct_size = sizeof m;
    CHECK_REFUSED(cgrpo_forward_method_named("gcpo", &m), CGRPO_INVALID_ARGUMENT, "nft, awm, fpo");
    CHECK_REFUSED(cgrpo_forward_method_named(NULL, &m), CGRPO_INVALID_ARGUMENT, "name");
    CHECK_REFUSED(cgrpo_forward_method_named("nft", NULL), CGRPO_INVALID_ARGUMENT, "method");
    m.struct_size = 16;
    CHECK_REFUSED(cgrpo_forward_method_named("nft", &m), CGRPO_INVALID_ARGUMENT, "struct_size");
    CHECK_OK(cgrpo_forward_method_describe("fpo", text, sizeof text, &length));
    CHECK(length == strlen(text) && strstr(text, "akanazawa/fpo") && strstr(text, "one ratio for 8 draws"));
    CHECK_REFUSED(cgrpo_forward_method_describe("fpo", NULL, 5, &length), CGRPO_INVALID_ARGUMENT, "text");
}

static void discrete_times_are_those_given(void) {
    static const double values[] = {1, 0.8, 0.5, 0.1};
    double drawn[40];
    int counts[4] = {0};
    cgrpo_time_options o;
    cgrpo_time_options_init(&o, sizeof o);
    o.distribution = CGRPO_TIME_DISTRIBUTION_DISCRETE, o.values = values, o.values_count = 4;
    CHECK_OK(cgrpo_times(1, 40, 0, &o, drawn));
    for (int i = 0; i < 40; i++)
        for (int k = 0; k < 4; k++) counts[k] += drawn[i] == values[k];
    for (int k = 0; k < 4; k++) CHECK(counts[k] == 10);
    o.stratified = 0;
    CHECK_OK(cgrpo_times(1, 40, 0, &o, drawn));
    for (int i = 0; i < 40; i++) CHECK(drawn[i] == 1 || drawn[i] == 0.8 || drawn[i] == 0.5 || drawn[i] == 0.1);
}

int main(void) {
    RUN(nft_is_its_formula);
    RUN(nft_with_half_of_the_weight_is_flow_matching);
    RUN(matching_log_probabilities_are_their_formulas);
    RUN(awm_is_the_chunk_loss_on_matching_log_probabilities);
    RUN(dgpo_is_its_formula);
    RUN(crd_is_its_formula);
    RUN(dpo_is_its_formula);
    RUN(pairs_are_the_best_and_the_worst_of_each_group);
    RUN(stratified_times_have_one_in_each_part);
    RUN(shift_and_logit_normal_are_their_formulas);
    RUN(discrete_times_are_those_given);
    RUN(a_method_runs_by_what_its_name_fills);
    RUN(the_numbers_of_a_method_are_those_of_its_loss);
    RUN(an_unknown_method_is_answered_with_those_there_are);
    return finish("forward_objectives");
}
