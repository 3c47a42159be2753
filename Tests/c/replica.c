/* Data-parallel training of the embedded policy: ranks are forked processes, and their sums go over sockets by way of
 * rank 0. What they end with is held against one trainer that has all prompts. Working folder: the first argument. */
#define _DEFAULT_SOURCE
#include "check.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { D = 6, C = 3, N = 40, MOST_RANKS = 5, MOST_PROMPTS = 24, ITERATIONS = 3 };
static const int64_t chunk_sizes[2] = {1, 3};
static char folder[512];

/* ------------------------------------------------------------------------------------------------------------------
 * Ranks: what MPI would be */

typedef struct rank {
    int number, count;
    int to[MOST_RANKS]; /* of rank 0: sockets to the others; of the others: to[0] */
    int sums, dies_in_sum, breaks_bits;
    double patience; /* seconds to wait for another rank */
} rank;

static int sends(int socket, const void *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = send(socket, (const char *)bytes + done, size - done, MSG_NOSIGNAL);
        if (n <= 0) return 0;
        done += (size_t)n;
    }
    return 1;
}

/* Not where the other end is gone, or sends nothing in time. */
static int receives(const rank *at, int socket, void *bytes, size_t size) {
    struct timeval limit = {(time_t)at->patience, (suseconds_t)(fmod(at->patience, 1) * 1e6)};
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    for (size_t done = 0; done < size;) {
        ssize_t n = recv(socket, (char *)bytes + done, size - done, 0);
        if (n <= 0) return 0;
        done += (size_t)n;
    }
    return 1;
}

static int all_reduce(void *user, void *values, cgrpo_type type, int64_t count) {
    rank *at = (rank *)user;
    const size_t size = (size_t)count * (type == CGRPO_TYPE_F64 ? sizeof(double) : sizeof(float));
    int failed = 0;
    at->sums++;
    if (at->sums == at->dies_in_sum) raise(SIGKILL);
    if (at->number != 0) {
        failed = !sends(at->to[0], values, size) || !receives(at, at->to[0], values, size);
    } else {
        void *other = malloc(size);
        for (int r = 1; r < at->count && !failed; r++) {
            failed = !receives(at, at->to[r], other, size);
            for (int64_t i = 0; i < count && !failed; i++) {
                if (type == CGRPO_TYPE_F64) ((double *)values)[i] += ((double *)other)[i];
                else ((float *)values)[i] += ((float *)other)[i];
            }
        }
        for (int r = 1; r < at->count && !failed; r++) failed = !sends(at->to[r], values, size);
        free(other);
    }
    /* As some networks' sums do. */
    if (at->breaks_bits && at->number == 1 && type == CGRPO_TYPE_F32 && count > 1)
        for (int64_t i = 0; i < count; i++) ((float *)values)[i] *= 1.0000002f;
    return failed ? 9 : 0;
}

/* ------------------------------------------------------------------------------------------------------------------
 * A run */

typedef enum fault {
    NOTHING,
    REWARD_STOPS,   /* of rank 1, in the second iteration */
    REWARD_IS_NAN,  /* of the last rank */
    NO_CONDITIONS,  /* on rank 1 */
    PROGRESS_STOPS, /* of rank 1 */
    KILLED,         /* rank 1, in the reward of the second iteration */
    KILLED_IN_SUM,  /* rank 1, within an all-reduce of the second iteration */
    ASLEEP,         /* rank 1 */
    OTHER_SEED,     /* on rank 1 */
    OTHER_IMAGES,   /* on rank 1, to pretrain */
    OTHER_CALL,     /* on rank 1: pretrain for iterate */
    OTHER_COUNT,    /* rank 1 says one rank more */
    OTHER_BITS      /* of the sums on rank 1 */
} fault;

typedef struct run {
    int ranks, prompts, updates, group_size;
    double reference_kl, reference_last_step;
    int weighted, share_noise, pretrains;
    int resumes; /* from the checkpoint in `folder` instead of pretraining, for so many iterations */
    fault fault;
} run;

static const run plain = {1, 6, 2, 4, 0, 0, 0, 1, 20, 0, NOTHING};

/* In memory that parent and children share. */
typedef struct outcome {
    cgrpo_status status; /* the first that is not CGRPO_OK */
    char message[512];
    cgrpo_status later; /* of a call after that */
    char later_message[512];
    double seconds; /* of the call that failed */
    cgrpo_iteration_report first, report;
    int64_t iterations, sums;
    size_t size; /* bytes of the checkpoint */
    unsigned char checkpoint[200000];
} outcome;
static outcome *outcomes;

typedef struct rewarding {
    const run *of;
    const rank *at;
    int iteration;
} rewarding;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A function of the image and of the prompt's number among all. */
static int reward(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards) {
    const rewarding *w = (const rewarding *)user;
    const float *x = (const float *)images->data;
    if (w->iteration == 1 && w->at->number == 1) {
        if (w->of->fault == REWARD_STOPS) return 5;
        if (w->of->fault == KILLED) raise(SIGKILL);
        if (w->of->fault == ASLEEP) sleep(30);
    }
    for (int64_t i = 0; i < images->shape[0]; i++) {
        const int64_t n = prompt[i] * w->at->count + w->at->number;
        rewards[i] = x[i * D] - 0.1 * (double)n * x[i * D + 1];
    }
    if (w->of->fault == REWARD_IS_NAN && w->iteration == 1 && w->at->number == w->at->count - 1) rewards[2] = NAN;
    return 0;
}

static int progress(void *user, int64_t done, int64_t total, double loss) {
    const rewarding *w = (const rewarding *)user;
    (void)total, (void)loss;
    return w->of->fault == PROGRESS_STOPS && w->at->number == 1 && done == 4 ? 3 : 0;
}

static cgrpo_tensor matrix(float *data, int64_t *shape) {
    cgrpo_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = data, tensor.shape = shape, tensor.ndim = 2, tensor.type = CGRPO_TYPE_F32;
    tensor.device = CGRPO_DEVICE_CPU;
    return tensor;
}

static cgrpo_status trainer_of(const run *of, const rank *at, cgrpo_trainer **trainer) {
    cgrpo_trainer_options options;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = D, options.condition_size = C;
    options.width = 16, options.blocks = 1, options.embedding_size = 8, options.steps = 5;
    options.chunk_sizes = chunk_sizes, options.chunk_count = 2;
    options.group_size = of->group_size, options.updates_per_rollout = of->updates;
    options.weighted_selection = of->weighted, options.share_noise = of->share_noise;
    options.reference_kl = of->reference_kl, options.reference_last_step = of->reference_last_step;
    options.threads = 1 + at->number % 2; /* may differ */
    options.seed = of->fault == OTHER_SEED && at->number == 1 ? 8 : 7;
    if (of->resumes) return cgrpo_trainer_load(folder, trainer);
    return cgrpo_trainer_create(&options, trainer);
}

static cgrpo_status pretrain(cgrpo_trainer *trainer, const run *of, const rank *at) {
    static float images[N * D], conditions[N * C];
    int64_t images_shape[2] = {N, D}, conditions_shape[2] = {N, C};
    rewarding w = {of, at, 0};
    cgrpo_tensor x = matrix(images, images_shape), c = matrix(conditions, conditions_shape);
    cgrpo_pretrain_options options;
    memset(conditions, 0, sizeof conditions);
    for (int i = 0; i < N; i++) {
        conditions[i * C + i % C] = 1;
        for (int j = 0; j < D; j++) images[i * D + j] = (float)(i % C - 1) + 0.3f * (float)sin(1 + i * D + j);
    }
    if (of->fault == OTHER_IMAGES && at->number == 1) images[5] += 1;
    cgrpo_pretrain_options_init(&options, sizeof options);
    options.steps = of->pretrains, options.batch_size = 16;
    return cgrpo_trainer_pretrain(trainer, &x, &c, &options, progress, &w);
}

static cgrpo_status iterate(cgrpo_trainer *trainer, const run *of, const rank *at, int iteration, outcome *out) {
    static float conditions[MOST_PROMPTS * C];
    int64_t shape[2] = {0, C};
    rewarding w = {of, at, iteration};
    cgrpo_tensor own;
    cgrpo_iteration_report report;
    cgrpo_status status;
    memset(conditions, 0, sizeof conditions);
    for (int n = at->number; n < of->prompts; n += at->count) conditions[shape[0]++ * C + n % C] = 1;
    own = matrix(conditions, shape);
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    if (of->fault == OTHER_CALL && at->number == 1 && iteration == 1) return pretrain(trainer, of, at);
    status = cgrpo_trainer_iterate(
        trainer, of->fault == NO_CONDITIONS && at->number == 1 && iteration == 1 ? NULL : &own, reward, &w, &report);
    if (status == CGRPO_OK) out->report = report;
    if (status == CGRPO_OK && iteration == 0) out->first = report;
    return status;
}

/* The bytes of the file that `trainer` saves. */
static void keep_checkpoint(const cgrpo_trainer *trainer, const rank *at, outcome *out) {
    char path[700];
    FILE *file;
    snprintf(path, sizeof path, "%s/of-rank-%d", folder, at->number);
    if (cgrpo_trainer_save(trainer, path) != CGRPO_OK) return;
    snprintf(path, sizeof path, "%s/of-rank-%d/model.safetensors", folder, at->number);
    file = fopen(path, "rb");
    if (file == NULL) return;
    out->size = fread(out->checkpoint, 1, sizeof out->checkpoint, file);
    fclose(file);
}

/* Keeps the first error; the iteration that failed is done again where all ranks are well. */
static int went_well(cgrpo_status status, outcome *out, double start) {
    if (status == CGRPO_OK) return 1;
    out->status = status;
    out->seconds = now() - start;
    snprintf(out->message, sizeof out->message, "%s", cgrpo_last_error());
    return 0;
}

static void be_rank(const run *of, rank *at, outcome *out) {
    cgrpo_trainer *trainer = NULL;
    const int said = at->count + (of->fault == OTHER_COUNT && at->number == 1);
    const int can_go_on = of->fault == REWARD_STOPS || of->fault == REWARD_IS_NAN || of->fault == NO_CONDITIONS;
    run again = *of;
    if (!went_well(trainer_of(of, at, &trainer), out, now())) return;
    if (at->count > 1 && !went_well(cgrpo_trainer_set_replica(trainer, at->number, said, all_reduce, at), out, now()))
        return;
    if (!of->resumes && of->pretrains && !went_well(pretrain(trainer, of, at), out, now())) {
        if (of->fault != PROGRESS_STOPS) return;
        again.fault = NOTHING;
        out->later = pretrain(trainer, &again, at);
    }
    for (int i = of->resumes; i < ITERATIONS; i++) {
        const double start = now();
        at->dies_in_sum = of->fault == KILLED_IN_SUM && at->number == 1 && i == 1 ? at->sums + 4 : 0;
        if (!went_well(iterate(trainer, of, at, i, out), out, start)) {
            again.fault = NOTHING;
            out->later = iterate(trainer, &again, at, i, out); /* once more */
            snprintf(out->later_message, sizeof out->later_message, "%s", cgrpo_last_error());
            if (!can_go_on) break;
        }
        if (at->number == 0 && i == 0 && of->ranks == 3) cgrpo_trainer_save(trainer, folder);
    }
    cgrpo_trainer_info(trainer, NULL, NULL, &out->iterations);
    out->sums = at->sums;
    keep_checkpoint(trainer, at, out);
    cgrpo_trainer_destroy(trainer);
}

/* Runs all ranks, and returns their outcomes. */
static void start(const run *of) {
    int pairs[MOST_RANKS][2];
    pid_t pids[MOST_RANKS];
    memset(outcomes, 0, MOST_RANKS * sizeof *outcomes);
    fflush(stdout);
    for (int r = 1; r < of->ranks; r++) CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[r]) == 0);
    for (int r = 0; r < of->ranks; r++) {
        if ((pids[r] = fork()) != 0) continue;
        rank at = {r, of->ranks, {0}, 0, 0, of->fault == OTHER_BITS, of->fault == ASLEEP ? 2 : 20};
        alarm(60);
        for (int other = 1; other < of->ranks; other++) { /* only its own ends, so that a death is seen */
            if (r == 0) at.to[other] = pairs[other][0], close(pairs[other][1]);
            else if (other == r) at.to[0] = pairs[other][1], close(pairs[other][0]);
            else close(pairs[other][0]), close(pairs[other][1]);
        }
        be_rank(of, &at, &outcomes[r]);
        _exit(0);
    }
    for (int r = 1; r < of->ranks; r++) close(pairs[r][0]), close(pairs[r][1]);
    for (int r = 0; r < of->ranks; r++) {
        int status = 0;
        const int may_die = (of->fault == KILLED || of->fault == KILLED_IN_SUM) && r == 1;
        if (of->fault == ASLEEP && r == 1) kill(pids[r], SIGKILL);
        CHECK(waitpid(pids[r], &status, 0) == pids[r]);
        CHECK(may_die || of->fault == ASLEEP || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Comparisons */

/* The largest difference of two checkpoints' numbers, relative to the largest number of either. */
static double distance(const outcome *a, const outcome *b) {
    uint64_t head_a, head_b;
    double furthest = 0, largest = 1e-30;
    if (a->size < 8 || a->size >= sizeof a->checkpoint || b->size < 8) return INFINITY;
    memcpy(&head_a, a->checkpoint, 8), memcpy(&head_b, b->checkpoint, 8);
    if (a->size - head_a != b->size - head_b) return INFINITY;
    for (size_t at = 8; at + head_a + 4 <= a->size; at += 4) {
        float x, y;
        memcpy(&x, a->checkpoint + head_a + at, 4), memcpy(&y, b->checkpoint + head_b + at, 4);
        furthest = fmax(furthest, fabs((double)x - (double)y));
        largest = fmax(largest, fmax(fabs((double)x), fabs((double)y)));
    }
    return furthest / largest;
}

static double report_distance(const cgrpo_iteration_report *a, const cgrpo_iteration_report *b) {
    double furthest = 0;
    const double pairs[][2] = {
        {a->reward_mean, b->reward_mean},
        {a->reward_std, b->reward_std},
        {a->loss, b->loss},
        {a->grad_norm, b->grad_norm},
        {a->reference_divergence, b->reference_divergence},
        {a->last_step_divergence, b->last_step_divergence},
        {a->stats.ratio_mean, b->stats.ratio_mean},
        {a->stats.ratio_std, b->stats.ratio_std},
        {a->stats.ratio_min, b->stats.ratio_min},
        {a->stats.ratio_max, b->stats.ratio_max},
        {a->stats.clip_fraction_low, b->stats.clip_fraction_low},
        {a->stats.clip_fraction_high, b->stats.clip_fraction_high},
        {a->stats.effective_sample_size, b->stats.effective_sample_size},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        furthest = fmax(furthest, fabs(pairs[i][0] - pairs[i][1]) / fmax(1, fabs(pairs[i][0])));
    return a->iteration == b->iteration && a->stats.selected == b->stats.selected ? furthest : INFINITY;
}

static outcome *alone; /* the outcome of one trainer */

static void run_alone(run of) {
    of.ranks = 1, of.fault = NOTHING;
    start(&of);
    CHECK(outcomes[0].status == CGRPO_OK);
    *alone = outcomes[0];
}

/* All ranks have the same bits, and one trainer's up to `tolerance`. */
static void ends_like_one(const run *of, double tolerance) {
    for (int r = 0; r < of->ranks; r++) {
        CHECK(outcomes[r].size == outcomes[0].size);
        CHECK(memcmp(&outcomes[r].report.loss, &outcomes[0].report.loss, 8) == 0);
        CHECK(distance(&outcomes[r], &outcomes[0]) == 0);
    }
    if (!CHECK(distance(&outcomes[0], alone) <= tolerance)) printf("  distance %g\n", distance(&outcomes[0], alone));
    if (!CHECK(report_distance(&outcomes[0].report, &alone->report) <= fmax(tolerance, 1e-12)))
        printf("  of the reports %g\n", report_distance(&outcomes[0].report, &alone->report));
    CHECK(outcomes[0].iterations == ITERATIONS);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Tests */

static void ranks_end_like_one_trainer(void) {
    static const int prompts[] = {6, 5, 24}; /* five on four ranks: in each optimiser step some have none */
    for (size_t i = 0; i < 3; i++) {
        run of = plain;
        of.prompts = prompts[i];
        run_alone(of);
        for (of.ranks = 1; of.ranks <= 4; of.ranks++) {
            start(&of);
            for (int r = 0; r < of.ranks; r++) {
                CHECK(outcomes[r].status == CGRPO_OK);
                if (outcomes[r].status) printf("  %s\n", outcomes[r].message);
            }
            ends_like_one(&of, of.ranks == 1 ? 0 : 1e-6);
        }
    }
}

static void options_of_the_whole_reach_every_rank(void) {
    run of = plain;
    of.reference_kl = 0.2, of.reference_last_step = 0.5, of.weighted = 1, of.share_noise = 0, of.updates = 1;
    run_alone(of);
    for (of.ranks = 2; of.ranks <= 3; of.ranks++) {
        start(&of);
        ends_like_one(&of, 1e-6);
        CHECK(outcomes[0].report.reference_divergence > 0 && outcomes[0].report.last_step_divergence > 0);
    }
}

/* The first iteration has the parameters that all began with. */
static void samples_and_rewards_have_the_bits_of_one_trainer(void) {
    run of = plain;
    of.pretrains = 0, of.prompts = 7, of.share_noise = 0, of.weighted = 1;
    run_alone(of);
    for (of.ranks = 2; of.ranks <= 4; of.ranks++) {
        start(&of);
        for (int r = 0; r < of.ranks; r++) {
            CHECK(outcomes[r].first.reward_mean == alone->first.reward_mean);
            CHECK(outcomes[r].first.reward_std == alone->first.reward_std);
        }
    }
}

static void an_error_of_one_rank_is_an_error_of_all(void) {
    static const struct {
        fault fault;
        int rank;
        cgrpo_status status;
        const char *words;
    } faults[] = {
        {REWARD_STOPS, 1, CGRPO_CALLBACK_FAILED, "the reward callback returned 5"},
        {REWARD_IS_NAN, 2, CGRPO_NON_FINITE, "the reward of image 2, of prompt 0, is nan"},
        {NO_CONDITIONS, 1, CGRPO_INVALID_ARGUMENT, "conditions is null"},
        {PROGRESS_STOPS, 1, CGRPO_CALLBACK_FAILED, "the progress callback returned 3 after 4 of 20 steps"},
    };
    run_alone(plain);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        run of = plain;
        char elsewhere[512];
        of.ranks = 3, of.fault = faults[i].fault;
        snprintf(elsewhere, sizeof elsewhere, "rank %d failed: %s", faults[i].rank, faults[i].words);
        start(&of);
        for (int r = 0; r < of.ranks; r++) {
            CHECK(outcomes[r].status == faults[i].status);
            if (!CHECK(strcmp(outcomes[r].message, r == faults[i].rank ? faults[i].words : elsewhere) == 0))
                printf("  %d: %s\n", r, outcomes[r].message);
            CHECK(outcomes[r].later == CGRPO_OK);
        }
        ends_like_one(&of, 1e-6); /* the call that failed changed nothing on any */
    }
}

static void ranks_that_differ_are_refused_on_all(void) {
    static const struct {
        fault fault;
        const char *words;
    } faults[] = {
        {OTHER_SEED, "rank 1 has other options than rank 0"},
        {OTHER_IMAGES, "rank 1 has other images or conditions than rank 0"},
        {OTHER_CALL, "all ranks must make the same calls in the same order"},
        {OTHER_COUNT, "all ranks must say ranks = "},
        {OTHER_BITS, "rank 1 has other parameters after the training than rank 0"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        run of = plain;
        of.ranks = 2, of.fault = faults[i].fault;
        start(&of);
        for (int r = 0; r < of.ranks; r++) {
            CHECK(outcomes[r].status == CGRPO_INVALID_ARGUMENT);
            if (!CHECK(strstr(outcomes[r].message, faults[i].words) != NULL))
                printf("  %d: %s\n", r, outcomes[r].message);
        }
    }
}

/* What is left can go on from the checkpoint, on another number of ranks. */
static void where_a_rank_is_gone_the_others_end_and_resume(void) {
    static const fault faults[] = {KILLED, KILLED_IN_SUM, ASLEEP};
    run_alone(plain);
    for (size_t i = 0; i < 3; i++) {
        run of = plain;
        of.ranks = 3, of.fault = faults[i];
        start(&of);
        for (int r = 0; r < of.ranks; r += 2) {
            CHECK(outcomes[r].status == CGRPO_CALLBACK_FAILED && outcomes[r].seconds < 10);
            CHECK(strstr(outcomes[r].message, "the all-reduce callback returned 9: a rank may be gone") != NULL);
            CHECK(outcomes[r].iterations == 1);
            CHECK(outcomes[r].later == CGRPO_INVALID_ARGUMENT &&
                  strstr(outcomes[r].later_message, "set the replica again on all ranks") != NULL);
        }
        of.ranks = 2, of.resumes = 1, of.fault = NOTHING;
        start(&of);
        ends_like_one(&of, 1e-6);
    }
}

static int doubles(void *user, void *values, cgrpo_type type, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        if (type == CGRPO_TYPE_F64) ((double *)values)[i] *= 2;
        else ((float *)values)[i] *= 2;
    }
    ++*(int *)user;
    return 0;
}

typedef struct garbling {
    int sums, at;
    double value;
} garbling;

static int garbles(void *user, void *values, cgrpo_type type, int64_t count) {
    garbling *g = (garbling *)user;
    if (++g->sums != g->at) return 0;
    for (int64_t i = 0; i < count; i++) {
        if (type == CGRPO_TYPE_F64) ((double *)values)[i] = g->value;
        else ((float *)values)[i] = (float)g->value;
    }
    return 0;
}

/* What ranks at different places make of each other's bits may be anything. */
static void sums_that_are_garbage_are_errors(void) {
    const double garbage[] = {NAN, 1e300};
    rank one = {0, 1, {0}, 0, 0, 0, 1};
    for (int fails = 0; fails <= 1; fails++) {
        run of = plain;
        const int sums = fails ? 3 : 4 + 3 * of.updates; /* of an iteration: a reward that fails adds its sentence */
        for (int i = 0; i < 2 * sums; i++) {
            garbling g = {0, 3 + i / 2 + 1, garbage[i % 2]}; /* set_replica makes three */
            cgrpo_trainer *trainer = NULL;
            int64_t iterations = -1;
            of.fault = fails ? REWARD_IS_NAN : NOTHING;
            CHECK_OK(trainer_of(&of, &one, &trainer));
            CHECK_OK(cgrpo_trainer_set_replica(trainer, 0, 1, garbles, &g));
            CHECK(iterate(trainer, &of, &one, 1, outcomes) != CGRPO_OK);
            CHECK(g.sums >= g.at);
            CHECK_OK(cgrpo_trainer_info(trainer, NULL, NULL, &iterations));
            CHECK(iterations == 0);
            cgrpo_trainer_destroy(trainer);
        }
    }
}

static void the_number_of_sums_is_that_of_the_header(void) {
    run of = plain;
    int64_t few;
    of.ranks = 2, of.resumes = ITERATIONS - 1;
    start(&of); /* from the checkpoint of an earlier test: one iteration less than below */
    few = outcomes[0].sums;
    of.resumes = ITERATIONS - 2;
    start(&of);
    CHECK(outcomes[0].sums - few == 4 + 3 * of.updates);
}

static void a_replica_is_set_and_taken_away(void) {
    rank one = {0, 1, {0}, 0, 0, 0, 1};
    run of = plain;
    cgrpo_trainer *trainer;
    int calls = 0;
    CHECK_OK(trainer_of(&of, &one, &trainer));
    CHECK_REFUSED(cgrpo_trainer_set_replica(NULL, 0, 1, NULL, NULL), CGRPO_INVALID_ARGUMENT, "trainer");
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, 0, 0, NULL, NULL), CGRPO_INVALID_ARGUMENT, "ranks");
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, 0, 70000, doubles, &calls), CGRPO_INVALID_ARGUMENT, "ranks");
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, 2, 2, doubles, &calls), CGRPO_INVALID_ARGUMENT, "rank");
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, -1, 2, doubles, &calls), CGRPO_INVALID_ARGUMENT, "rank");
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, 0, 2, NULL, &calls), CGRPO_INVALID_ARGUMENT, "all_reduce");
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, 0, 3, doubles, &calls), CGRPO_INVALID_ARGUMENT,
                  "all_reduce makes 2.0 of a 1 of each of 3 ranks");
    /* Both of two ranks say that they are rank 0. */
    CHECK_REFUSED(cgrpo_trainer_set_replica(trainer, 0, 2, doubles, &calls), CGRPO_INVALID_ARGUMENT,
                  "each rank of 2 must have a number of its own");
    calls = 0;
    CHECK_OK(iterate(trainer, &of, &one, 0, outcomes)); /* none of them was taken */
    CHECK(calls == 0);
    CHECK_OK(cgrpo_trainer_set_replica(trainer, 0, 1, all_reduce, &one));
    one.sums = 0;
    CHECK_OK(iterate(trainer, &of, &one, 0, outcomes));
    CHECK(one.sums > 0);
    one.sums = 0;
    CHECK_OK(cgrpo_trainer_set_replica(trainer, 0, 1, NULL, NULL));
    CHECK_OK(iterate(trainer, &of, &one, 0, outcomes));
    CHECK(one.sums == 0);
    cgrpo_trainer_destroy(trainer);
}

int main(int argc, char **argv) {
    snprintf(folder, sizeof folder, "%s/checkpoint.XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(folder) == NULL) return perror(folder), 1;
    outcomes =
        (outcome *)mmap(NULL, MOST_RANKS * sizeof *outcomes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    alone = (outcome *)malloc(sizeof *alone);
    if (outcomes == MAP_FAILED || alone == NULL) return 1;
    RUN(ranks_end_like_one_trainer);
    RUN(options_of_the_whole_reach_every_rank);
    RUN(samples_and_rewards_have_the_bits_of_one_trainer);
    RUN(an_error_of_one_rank_is_an_error_of_all);
    RUN(ranks_that_differ_are_refused_on_all);
    RUN(where_a_rank_is_gone_the_others_end_and_resume);
    RUN(the_number_of_sums_is_that_of_the_header);
    RUN(a_replica_is_set_and_taken_away);
    RUN(sums_that_are_garbage_are_errors);
    free(alone);
    return finish("replica");
}
