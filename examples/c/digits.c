/*
 * A whole training run through the C ABI: a flow-matching model learns to draw the digit that it is asked for.
 *
 * Two classifiers are trained on disjoint halves of the digits: the first is the reward, the second judges. The flow
 * model is pretrained with 30 % of the prompts wrong, as captions from the web are, so that it often draws another
 * digit. Then Chunk-GRPO raises the reward, and the judge says whether the digits really became better.
 *
 *     make lib && make -C examples/c && build/examples/digits [SEED [ITERATIONS [PRETRAINING STEPS [CHECKPOINT]]]]
 *
 * It reads examples/data/digits.u8, or the file that DIGITS names.
 */
#define _POSIX_C_SOURCE 200809L
#include "classifier.h"

#include <chunkgrpo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { IMAGES = 1797, PROMPTS = 8, SAMPLES = 1000 };
#define WRONG_PROMPTS 0.3

static float images[IMAGES][PIXELS];
static int labels[IMAGES];
static classifier reward_model, judge;

/* ---- data ---- */

/* Records of 64 pixels, 0 ... 16, and a label. */
static int load(const char *path) {
    unsigned char record[PIXELS + 1];
    FILE *file = fopen(path, "rb");
    if (file == NULL) return perror(path), 0;
    for (int i = 0; i < IMAGES; i++) {
        if (fread(record, sizeof record, 1, file) != 1)
            return fprintf(stderr, "%s is too short\n", path), fclose(file), 0;
        for (int j = 0; j < PIXELS; j++) images[i][j] = (float)record[j] / 8 - 1;
        labels[i] = record[PIXELS];
    }
    fclose(file);
    return 1;
}

/* A dense f32 matrix as the library sees it. `shape` must live as long. */
static cgrpo_tensor matrix(float *data, int64_t rows, int64_t columns, int64_t shape[2]) {
    cgrpo_tensor tensor = {.ndim = 2, .type = CGRPO_TYPE_F32};
    shape[0] = rows, shape[1] = columns;
    tensor.data = data, tensor.shape = shape;
    return tensor;
}

/* The condition for a digit: one-hot. */
static void ask_for(float (*conditions)[DIGITS], int row, int digit) {
    for (int d = 0; d < DIGITS; d++) conditions[row][d] = d == digit;
}

/* ---- reward and judgement ---- */

/* Hit or miss. `user` are the digits that the prompts ask for. */
static int reward(void *user, const cgrpo_tensor *drawn, const int64_t *prompt, double *rewards) {
    const int *asked = user;
    for (int64_t i = 0; i < drawn->shape[0]; i++)
        rewards[i] = classifier_guess(&reward_model, (const float *)drawn->data + i * PIXELS) == asked[prompt[i]];
    return 0;
}

/* How often the model draws what it is asked for, and how varied that is: the deviation of a pixel over the images of a
 * digit that the judge reads as asked, the mean over pixels and digits. */
typedef struct quality {
    double by_reward_model, by_judge, spread;
} quality;

static double spread(float (*drawn)[PIXELS], const int *is_right) {
    double sum = 0;
    for (int digit = 0; digit < DIGITS; digit++)
        for (int j = 0; j < PIXELS; j++) {
            double n = 0, mean = 0, squares = 0;
            for (int i = digit; i < SAMPLES; i += DIGITS)
                if (is_right[i]) n++, mean += drawn[i][j], squares += (double)drawn[i][j] * drawn[i][j];
            if (n > 0) sum += sqrt(fmax(0, squares / n - mean / n * (mean / n))) / (DIGITS * PIXELS);
        }
    return sum;
}

/* The averaged model, by the ODE. */
static cgrpo_status measure(const cgrpo_trainer *trainer, quality *result) {
    static float drawn[SAMPLES][PIXELS], conditions[SAMPLES][DIGITS];
    int64_t drawn_shape[2], conditions_shape[2];
    cgrpo_tensor x = matrix(&drawn[0][0], SAMPLES, PIXELS, drawn_shape);
    cgrpo_tensor c = matrix(&conditions[0][0], SAMPLES, DIGITS, conditions_shape);
    cgrpo_status status;
    static int is_right[SAMPLES];
    int by_reward_model = 0, by_judge = 0;
    for (int i = 0; i < SAMPLES; i++) ask_for(conditions, i, i % DIGITS);
    status = cgrpo_trainer_sample(trainer, &c, CGRPO_PARAMETERS_AVERAGED, 0, 1000, &x);
    for (int i = 0; i < SAMPLES; i++) {
        by_reward_model += classifier_guess(&reward_model, drawn[i]) == i % DIGITS;
        by_judge += is_right[i] = classifier_guess(&judge, drawn[i]) == i % DIGITS;
    }
    result->spread = spread(drawn, is_right);
    result->by_reward_model = (double)by_reward_model / SAMPLES;
    result->by_judge = (double)by_judge / SAMPLES;
    return status;
}

/* Trains a classifier on the even (0) or the odd (1) images; returns its accuracy on the others. */
static double train_on_half(classifier *c, int half, uint64_t seed) {
    static float mine[IMAGES / 2][PIXELS];
    static int its_labels[IMAGES / 2];
    int right = 0, others = 0;
    for (int i = 0; i < IMAGES / 2; i++) {
        its_labels[i] = labels[2 * i + half];
        for (int j = 0; j < PIXELS; j++) mine[i][j] = images[2 * i + half][j];
    }
    classifier_train(c, (const float(*)[PIXELS])mine, its_labels, IMAGES / 2, seed);
    for (int i = 1 - half; i < IMAGES; i += 2) others++, right += classifier_guess(c, images[i]) == labels[i];
    return (double)right / others;
}

/* ---- training ---- */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Over one line in a terminal; ten lines in a file. */
static int is_shown(int64_t done, int64_t total) {
    return isatty(STDERR_FILENO) || done * 10 / total != (done - 1) * 10 / total;
}
static const char *line_end(int64_t done, int64_t total) {
    return done == total || !isatty(STDERR_FILENO) ? "\n" : "\r";
}

static int show_progress(void *user, int64_t done, int64_t total, double loss) {
    (void)user;
    if (is_shown(done, total))
        fprintf(stderr, "pretraining %5lld of %lld   loss %.4f%s", (long long)done, (long long)total, loss,
                line_end(done, total));
    return 0;
}

static cgrpo_status pretrain(cgrpo_trainer *trainer, int64_t steps, uint64_t seed) {
    static float conditions[IMAGES][DIGITS];
    int64_t images_shape[2], conditions_shape[2];
    cgrpo_tensor x = matrix(&images[0][0], IMAGES, PIXELS, images_shape);
    cgrpo_tensor c = matrix(&conditions[0][0], IMAGES, DIGITS, conditions_shape);
    cgrpo_pretrain_options options;
    cgrpo_pretrain_options_init(&options, sizeof options);
    options.steps = steps;
    for (int i = 0; i < IMAGES; i++) {
        int digit = labels[i];
        if (uniform(&seed) < WRONG_PROMPTS) digit = (digit + 1 + (int)(uniform(&seed) * (DIGITS - 1))) % DIGITS;
        ask_for(conditions, i, digit);
    }
    return cgrpo_trainer_pretrain(trainer, &x, &c, &options, show_progress, NULL);
}

static cgrpo_status post_train(cgrpo_trainer *trainer, int iterations) {
    static float conditions[PROMPTS][DIGITS];
    int64_t shape[2];
    cgrpo_tensor c = matrix(&conditions[0][0], PROMPTS, DIGITS, shape);
    cgrpo_iteration_report report;
    cgrpo_status status = CGRPO_OK;
    report.struct_size = sizeof report;
    for (int i = 0; i < iterations && status == CGRPO_OK; i++) {
        int asked[PROMPTS]; /* the digits take turns */
        for (int j = 0; j < PROMPTS; j++) {
            asked[j] = (i * PROMPTS + j) % DIGITS;
            ask_for(conditions, j, asked[j]);
        }
        status = cgrpo_trainer_iterate(trainer, &c, reward, asked, &report);
        if (status == CGRPO_OK && is_shown(i + 1, iterations))
            fprintf(stderr, "Chunk-GRPO %5lld of %d   reward %8.4f   ratio %.4f ... %.4f%s",
                    (long long)report.iteration, iterations, report.reward_mean, report.stats.ratio_min,
                    report.stats.ratio_max, line_end(i + 1, iterations));
    }
    return status;
}

static const char usage[] = "usage: digits [SEED [ITERATIONS [PRETRAINING_STEPS [FOLDER]]]]\n\n"
                            "Teaches a small flow-matching model to draw the digit that it is asked for.\n\n"
                            "  SEED               of everything that is drawn (0)\n"
                            "  ITERATIONS         of Chunk-GRPO (1200)\n"
                            "  PRETRAINING_STEPS  of flow matching (1000)\n"
                            "  FOLDER             for the checkpoint (build/digits-checkpoint)\n\n"
                            "DIGITS in the environment names the data (examples/data/digits.u8).\n";

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    int iterations = argc > 2 ? atoi(argv[2]) : 1200;
    int64_t pretraining_steps = argc > 3 ? atoll(argv[3]) : 1000;
    const char *folder = argc > 4 ? argv[4] : "build/digits-checkpoint", *data = getenv("DIGITS");
    cgrpo_trainer_options options;
    cgrpo_trainer *trainer = NULL;
    quality before = {0, 0, 0}, after = {0, 0, 0};
    double start, pretrained, trained, reward_model_accuracy, judge_accuracy;

    if (argc > 5 || (argc > 1 && (argv[1][0] < '0' || argv[1][0] > '9'))) {
        fputs(usage, stdout);
        return argc > 5 || strcmp(argv[1], "--help") != 0;
    }
    if (!load(data ? data : "examples/data/digits.u8")) return 1;
    reward_model_accuracy = train_on_half(&reward_model, 0, seed);
    judge_accuracy = train_on_half(&judge, 1, seed + 1);
    printf("on the half that it has not seen: reward model %.3f, judge %.3f\n", reward_model_accuracy, judge_accuracy);

    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = PIXELS;
    options.condition_size = DIGITS;
    options.seed = seed;
    /* Against collapse: close to the pretrained model, by the KL divergence of whole trajectories, all of whose steps
     * are trained. The average over more optimiser steps has less of their noise. */
    options.reference_kl = 0.35, options.reference_divergence = CGRPO_DIVERGENCE_GAUSSIAN;
    options.chunk_fraction = 1, options.ema_decay = 0.99;
    start = seconds();
    if (cgrpo_trainer_create(&options, &trainer) != CGRPO_OK ||
        pretrain(trainer, pretraining_steps, seed) != CGRPO_OK || measure(trainer, &before) != CGRPO_OK)
        goto failed;
    pretrained = seconds();
    if (post_train(trainer, iterations) != CGRPO_OK || measure(trainer, &after) != CGRPO_OK ||
        cgrpo_trainer_save(trainer, folder) != CGRPO_OK)
        goto failed;
    trained = seconds();

    printf("\n%-24s %13s %8s %8s %9s\n", "right, of 1", "reward model", "judge", "spread", "seconds");
    printf("%-24s %13.3f %8.3f %8.3f %9.1f\n", "after pretraining", before.by_reward_model, before.by_judge,
           before.spread, pretrained - start);
    printf("%-24s %13.3f %8.3f %8.3f %9.1f\n", "after Chunk-GRPO", after.by_reward_model, after.by_judge, after.spread,
           trained - pretrained);
    printf("\ncheckpoint: %s\n", folder);
    cgrpo_trainer_destroy(trainer);
    return 0;

failed:
    fprintf(stderr, "%s\n", cgrpo_last_error());
    cgrpo_trainer_destroy(trainer);
    return 1;
}
