/*
 * Many threads call one sampler, which takes three threads itself, while another changes the thread limit; and one
 * const trainer, that two more save, beside threads that train others: the same bits as alone. It does not fork, so
 * that the thread sanitizer can watch.
 *
 *     callers FOLDER [ROUNDS]
 */
#include "faults.h"

enum { B = 2, D = 3 * 16 * 1024 * 4 };
static char folder[300];
static long rounds;
static long wrong, calls;
static cgrpo_sampler *sampler;
static cgrpo_trainer *shared;
static array *x, *expected;
static double expected_log_prob[B];
static float expected_images[6];

static void count(int is_right) {
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (!is_right) __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
}

static cgrpo_status step(array *next, double *log_prob) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    return cgrpo_step(sampler, 3, &x->tensor, &x->tensor, NULL, &noise, &next->tensor, log_prob, NULL);
}

static cgrpo_status sample(float *images) {
    static const int64_t shape[2] = {2, 3};
    cgrpo_tensor conditions = tiny_conditions(), out = tensor_of(images, shape, 2, CGRPO_TYPE_F32);
    return cgrpo_trainer_sample(shared, &conditions, 1, 0.7, 5, &out);
}

static void *steps(void *unused) {
    array *next = array_new(CGRPO_TYPE_F32, B, D, 0);
    double log_prob[B];
    for (long i = 0; i < rounds; i++)
        count(step(next, log_prob) == CGRPO_OK && same_bits(next, expected) &&
              memcmp(log_prob, expected_log_prob, sizeof log_prob) == 0);
    array_free(next);
    return unused;
}

static void *samples(void *unused) {
    float images[6];
    for (long i = 0; i < rounds; i++)
        count(sample(images) == CGRPO_OK && memcmp(images, expected_images, sizeof images) == 0);
    return unused;
}

static void *saves(void *unused) {
    for (long i = 0; i < 1 + rounds / 10; i++) count(cgrpo_trainer_save(shared, folder) == CGRPO_OK);
    return unused;
}

static void *trains(void *unused) {
    for (long i = 0; i < 1 + rounds / 10; i++) {
        cgrpo_trainer_options options = tiny_options(1, 2);
        cgrpo_trainer *own = NULL;
        options.group_size = 64;
        count(cgrpo_trainer_create(&options, &own) == CGRPO_OK && tiny_iterate(own) == CGRPO_OK);
        cgrpo_trainer_destroy(own);
    }
    return unused;
}

static void *refusals(void *unused) {
    for (long i = 0; i < rounds; i++) {
        double sigma;
        count(cgrpo_schedule_make(0, NULL, &sigma) == CGRPO_INVALID_ARGUMENT && strstr(cgrpo_last_error(), "steps"));
    }
    return unused;
}

static void *limits(void *unused) {
    for (long i = 0; i < rounds; i++) count(cgrpo_set_thread_limit(1 + (int32_t)(i % 4)) == CGRPO_OK), usleep(50);
    return unused;
}

int main(int argc, char **argv) {
    void *(*const bodies[])(void *) = {steps, steps, samples, samples, saves, saves, trains, refusals, limits};
    enum { THREADS = sizeof bodies / sizeof *bodies };
    pthread_t threads[THREADS];
    rounds = argument_or(argc, argv, 2, 200);
    snprintf(folder, sizeof folder, "%s/checkpoint.callers.%d", argc > 1 ? argv[1] : ".", (int)getpid());
    sampler = sampler_new(17, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 3);
    shared = tiny_trainer(1, 1);
    x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), expected = array_new(CGRPO_TYPE_F32, B, D, 0);
    if (step(expected, expected_log_prob) != CGRPO_OK || sample(expected_images) != CGRPO_OK) return 2;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, bodies[i], NULL) != 0) return 2;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    cgrpo_trainer_destroy(shared);
    cgrpo_sampler_destroy(sampler);
    array_free(x), array_free(expected);
    remove_folder(folder);
    printf("callers: %d threads, %ld calls, %ld wrong\n", THREADS, calls, wrong);
    return wrong != 0;
}
