/*
 * Large but ordinary calls under a limit on the address space, as `ulimit -v` or a batch system sets it: done, or
 * refused with a status, but the process goes on. Each with several amounts of room beside the caller's own arrays.
 *
 *     address_space [all]    every setting, or every fourth
 */
#include "faults.h"

static double room; /* MB */

static void limit(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld", &pages) != 1) abort();
    fclose(file);
    struct rlimit limit;
    limit.rlim_cur = limit.rlim_max = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (rlim_t)(room * 1048576);
    if (setrlimit(RLIMIT_AS, &limit) != 0) abort();
}

static double *numbers(int64_t count, double first) {
    double *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = first + (double)(i % 7) / 70;
    return values;
}

static uint8_t *bytes(int64_t count) { return memset(malloc((size_t)count), 1, (size_t)count); }

static int64_t *integers(int64_t count, int64_t value, int64_t modulus) {
    int64_t *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = modulus > 0 ? i % modulus : value;
    return values;
}

static cgrpo_status chunk_loss(void) {
    enum { B = 16384, S = 256, K = 64 };
    int64_t *sizes = integers(K, S / K, 0);
    double *log_probs = numbers(B * S, -1), *old = numbers(B * S, -1), *advantages = numbers(B, 0),
           *gradient = numbers(B * S, 0), loss;
    limit();
    return cgrpo_chunk_loss(log_probs, old, advantages, B, S, sizes, K, NULL, &loss, gradient, NULL, NULL);
}

static cgrpo_status advantages(void) {
    int64_t count = 8 << 20;
    double *rewards = numbers(count, 0), *out = numbers(count, 0);
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_size = 16;
    limit();
    return cgrpo_advantages(rewards, count, &options, out);
}

static cgrpo_status advantages_by_id(void) {
    int64_t count = 2 << 20, *ids = integers(count, 0, 1000);
    double *rewards = numbers(count * 4, 0), *out = numbers(count, 0);
    cgrpo_advantage_options options;
    cgrpo_advantage_options_init(&options, sizeof options);
    options.group_ids = ids, options.reward_count = 4, options.mixing = CGRPO_MIXING_GDPO;
    limit();
    return cgrpo_advantages(rewards, count, &options, out);
}

static cgrpo_status chunk_select(void) {
    int64_t batch = 1 << 20, chunks = 64;
    uint8_t *selection = bytes(batch * chunks);
    limit();
    return cgrpo_chunk_select(batch, chunks, NULL, selection);
}

static cgrpo_status plan_optimal(void) {
    int64_t steps = 2000, *sizes = integers(steps, 0, 0), count;
    double *curve = numbers(steps, 1);
    cgrpo_optimal_options options;
    cgrpo_optimal_options_init(&options, sizeof options);
    options.max_size = 4;
    limit();
    return cgrpo_plan_optimal(curve, 1, steps, &options, sizes, steps, &count, NULL, NULL);
}

static cgrpo_status plan_adaptive(void) {
    int64_t batch = 8, steps = 500000, *sizes = integers(steps, 0, 0), count;
    double *curve = numbers(batch * steps, 1);
    limit();
    return cgrpo_plan_adaptive(curve, batch, steps, NULL, sizes, steps, &count);
}

static cgrpo_status best_of_n(void) {
    int64_t count = 8 << 20;
    double *scores = numbers(count, 0);
    uint8_t *chosen = bytes(count);
    limit();
    return cgrpo_best_of_n(scores, count, count / 2, chosen);
}

static cgrpo_status history_update(void) {
    int64_t count = 4 << 20, *prompts = integers(count, 0, 1000);
    double *rewards = numbers(count, 0), *out = numbers(count, 0);
    cgrpo_history *history;
    if (cgrpo_history_create(1 << 20, 2, &history) != CGRPO_OK) abort();
    limit();
    return cgrpo_history_update(history, prompts, rewards, count, out);
}

static cgrpo_status chunk_weights(void) {
    int64_t batch = 65536, steps = 64, chunks = 16, *sizes = integers(chunks, 4, 0);
    double *curve = numbers(batch * steps, 1), *weights = numbers(batch * chunks, 0);
    limit();
    return cgrpo_chunk_weights(curve, batch, steps, sizes, chunks, weights);
}

static cgrpo_status schedule_make(void) {
    double *sigmas = numbers(1000001, 0);
    limit();
    return cgrpo_schedule_make(1000000, NULL, sigmas);
}

static cgrpo_status sampler_create(void) {
    int64_t steps = 1000000;
    double *sigmas = numbers(steps + 1, 0);
    cgrpo_sampler *sampler = NULL;
    for (int64_t i = 0; i <= steps; i++) sigmas[i] = 1 - (double)i / (double)steps;
    limit();
    return cgrpo_sampler_create(sigmas, steps + 1, NULL, &sampler);
}

static int zero_velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *at, const cgrpo_tensor *out) {
    (void)user, (void)step, (void)sigma, (void)at;
    for (int64_t i = 0; i < out->shape[0]; i++)
        memset((float *)out->data + i * (out->strides ? out->strides[0] : out->shape[1]), 0, (size_t)out->shape[1] * 4);
    return 0;
}

static cgrpo_status rollout(void) {
    static const int64_t shape[3] = {8, 5, 1 << 20};
    size_t size = (size_t)8 * 5 * (1 << 20) * 4;
    cgrpo_trajectory trajectory;
    cgrpo_noise noise;
    cgrpo_sampler *sampler = sampler_new(4, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    cgrpo_trajectory_init(&trajectory, sizeof trajectory);
    cgrpo_noise_init(&noise, sizeof noise);
    trajectory.latents = tensor_of(memset(malloc(size), 0, size), shape, 3, CGRPO_TYPE_F32);
    limit();
    return cgrpo_rollout(sampler, &trajectory, 4, &noise, zero_velocity, NULL);
}

static cgrpo_status trainer_create(void) {
    cgrpo_trainer *trainer;
    cgrpo_trainer_options options = tiny_options(1, 1);
    options.latent_size = 4096, options.width = 1024;
    limit();
    return cgrpo_trainer_create(&options, &trainer);
}

/* A trainer that was made under the limit too: where OpenBLAS cannot have its memory, a call says so and returns. */
static cgrpo_status iterate_512(int limit_first, int32_t threads) {
    enum { P = 512, C = 8 };
    static float values[P * C];
    static const int64_t shape[2] = {P, C};
    cgrpo_trainer *trainer;
    cgrpo_trainer_options options = tiny_options(1, threads);
    cgrpo_tensor conditions = tensor_of(values, shape, 2, CGRPO_TYPE_F32);
    options.latent_size = options.width = 64, options.condition_size = C, options.group_size = 12;
    for (int i = 0; i < P * C; i++) values[i] = (float)scattered(1, (uint64_t)i);
    if (limit_first) limit();
    cgrpo_status status = cgrpo_trainer_create(&options, &trainer);
    if (status != CGRPO_OK) return status;
    if (!limit_first) limit();
    return cgrpo_trainer_iterate(trainer, &conditions, first_element_reward, NULL, NULL);
}
static cgrpo_status iterate(void) { return iterate_512(0, 1); }
static cgrpo_status iterate_two_threads(void) { return iterate_512(0, 2); }
static cgrpo_status create_and_iterate(void) { return iterate_512(1, 1); }

/* One lane: OpenBLAS takes its products with all of its threads, and ends the process where it lacks memory for that.
 */
static cgrpo_status velocity(int64_t batch, int64_t size) {
    const int64_t shape[2] = {batch, size}, conditions_shape[2] = {batch, 2};
    float *x = calloc((size_t)(batch * size), sizeof *x), *values = calloc((size_t)(batch * 2), sizeof *values);
    cgrpo_trainer *trainer;
    cgrpo_trainer_options options = tiny_options(1, 0);
    cgrpo_tensor latents = tensor_of(x, shape, 2, CGRPO_TYPE_F32),
                 conditions = tensor_of(values, conditions_shape, 2, CGRPO_TYPE_F32);
    options.latent_size = size, options.width = 500;
    cgrpo_status status = cgrpo_trainer_create(&options, &trainer);
    if (status != CGRPO_OK) return status;
    limit();
    return cgrpo_trainer_velocity(trainer, CGRPO_PARAMETERS_TRAINED, &latents, 0.5, &conditions, &latents);
}
static cgrpo_status velocity_in_place(void) { return velocity(400, 500); }
static cgrpo_status velocity_of_few(void) { return velocity(40, 500); }

static const struct {
    const char *name;
    cgrpo_status (*run)(void);
} cases[] = {
    {"chunk_loss, 16,384 x 256", chunk_loss},
    {"advantages, 8 M", advantages},
    {"advantages, 2 M x 4, by id", advantages_by_id},
    {"chunk_select, 1 M x 64", chunk_select},
    {"plan_optimal, 2,000", plan_optimal},
    {"plan_adaptive, 8 x 500,000", plan_adaptive},
    {"best_of_n, 8 M", best_of_n},
    {"history_update, 4 M", history_update},
    {"chunk_weights, 65,536 x 64", chunk_weights},
    {"schedule_make, 1 M", schedule_make},
    {"sampler_create, 1 M", sampler_create},
    {"rollout, 8 x 1 M", rollout},
    {"trainer_create, 4,096", trainer_create},
    {"trainer_iterate, 6,144 samples", iterate},
    {"trainer_iterate, 2 threads", iterate_two_threads},
    {"trainer_create, then iterate", create_and_iterate},
    {"trainer_velocity in place, 400 x 500", velocity_in_place},
    {"trainer_velocity in place, 40 x 500", velocity_of_few},
};
static const double rooms[] = {0.5, 2, 8, 16, 32, 64, 128, 256, 512};
enum { CASES = sizeof cases / sizeof *cases, ROOMS = sizeof rooms / sizeof *rooms };

static int run(void *index) { return cases[*(int *)index].run(); }

int main(int argc, char **argv) {
    int all = argc > 1 && strcmp(argv[1], "all") == 0;
    /* OpenBLAS reads how many threads it has when it is loaded. */
    const char *threads = getenv("OPENBLAS_NUM_THREADS");
    if (threads == NULL || strcmp(threads, "2") != 0) {
        setenv("OPENBLAS_NUM_THREADS", "2", 1);
        execv("/proc/self/exe", argv);
        abort();
    }
    int settings = 0, done = 0, told = 0, other = 0, ended = 0, hung = 0;
    for (int c = 0; c < CASES; c++) {
        int bad = 0;
        for (int i = 0; i < ROOMS; i += all ? 1 : 4) {
            room = rooms[i];
            int outcome = in_child(run, &c, 60);
            settings++, done += outcome == CGRPO_OK, told += outcome == CGRPO_OUT_OF_MEMORY;
            ended += outcome == ENDED, hung += outcome == HUNG;
            if (outcome == CGRPO_OK || outcome == CGRPO_OUT_OF_MEMORY) continue;
            if (outcome != ENDED && outcome != HUNG) other++, printf("status %d: ", outcome);
            printf("%s%s%g MB%s", bad ? "" : cases[c].name, bad ? "" : ", with room for ", room,
                   outcome == HUNG ? " (hung), " : ", "),
                bad++;
        }
        if (bad) printf("%d of the settings are wrong\n", bad);
    }
    printf("address space: %d settings: %d done, %d told, %d another status, %d ended the process, %d hung\n", settings,
           done, told, other, ended, hung);
    return other + ended + hung > 0;
}
