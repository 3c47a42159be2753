/* The host's process: its floating-point mode and its cancellation are its own, and the environment makes the library
 * neither print nor take signals. Tests/faults has forks and cancelled calls. */
#define _GNU_SOURCE
#include "arrays.h"

#include <fenv.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

enum { D = 3 * 16 * 1024 * 4, B = 2 };

static int reward(void *user, const cgrpo_tensor *images, const int64_t *prompts, double *rewards) {
    (void)user, (void)prompts;
    for (int64_t i = 0; i < images->shape[0]; i++) rewards[i] = ((float *)images->data)[i * images->shape[1]];
    return 0;
}

static cgrpo_status train(int32_t threads) {
    static float numbers[6] = {1, 0, 0, 0, 1, 0};
    static int64_t shape[2] = {2, 3};
    cgrpo_tensor conditions;
    cgrpo_trainer_options options;
    cgrpo_trainer *trainer;
    memset(&conditions, 0, sizeof conditions);
    conditions.data = numbers, conditions.shape = shape, conditions.ndim = 2, conditions.type = CGRPO_TYPE_F32;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = 8, options.condition_size = 3, options.width = 24, options.blocks = 1;
    options.embedding_size = 8, options.steps = 5, options.group_size = 64, options.threads = threads;
    options.chunk_fraction = 1;
    cgrpo_status status = cgrpo_trainer_create(&options, &trainer);
    if (status != CGRPO_OK) return status;
    status = cgrpo_trainer_iterate(trainer, &conditions, reward, NULL, NULL);
    cgrpo_trainer_destroy(trainer);
    return status;
}

/* How many of `count` children do not end well, each within some seconds. */
static int bad_children(int count, int (*child)(void)) {
    int bad = 0, status = 0;
    for (int i = 0; i < count; i++) {
        pid_t process = fork();
        if (process == 0) {
            alarm(20);
            _exit(child() ? 0 : 1);
        }
        CHECK(waitpid(process, &status, 0) == process);
        bad += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    return bad;
}

/* MARK: cancellation */

static cgrpo_status step(int32_t threads, const array *x, array *next, double *log_prob) {
    cgrpo_sampler *sampler;
    cgrpo_noise noise;
    cgrpo_sampler_options options;
    double sigmas[18];
    shifted_schedule(17, 3, sigmas);
    cgrpo_sampler_options_init(&options, sizeof options);
    options.threads = threads;
    cgrpo_status status = cgrpo_sampler_create(sigmas, 18, &options, &sampler);
    if (status != CGRPO_OK) return status;
    cgrpo_noise_init(&noise, sizeof noise);
    status = cgrpo_step(sampler, 5, &x->tensor, &x->tensor, NULL, &noise, &next->tensor, log_prob, NULL);
    cgrpo_sampler_destroy(sampler);
    return status;
}

static array *x;

static void a_call_leaves_cancellation_as_it_was(void) {
    int state = -1;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    cgrpo_set_thread_limit(256);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
    CHECK(state == PTHREAD_CANCEL_DISABLE);
    cgrpo_set_thread_limit(256);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
    CHECK(state == PTHREAD_CANCEL_ENABLE);
}

/* MARK: floating-point mode */

#if defined(__SSE__)
enum { FLUSH = 0x8040, DEFAULT = 0x1F80 };
#define GET_MODE() (_mm_getcsr() & ~63u)
#define SET_MODE(mode) _mm_setcsr(mode)
#elif defined(__aarch64__)
enum { FLUSH = 1 << 24, DEFAULT = 0 };
static unsigned GET_MODE(void) {
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}
static void SET_MODE(unsigned long mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#endif

static void results_do_not_depend_on_the_callers_mode(void) {
    array *tiny = array_new(CGRPO_TYPE_F32, B, D, 0);
    array *expected = array_new(CGRPO_TYPE_F32, B, D, 0), *next = array_new(CGRPO_TYPE_F32, B, D, 0);
    double expected_log_prob[B], log_prob[B];
    const unsigned modes[] = {DEFAULT, DEFAULT | FLUSH, DEFAULT | 0x6000};
    float *numbers = tiny->tensor.data;
    for (int64_t i = 0; i < tiny->count; i++) numbers[i] = float_of_bits((uint32_t)(i * 97 % 0x7FFFFF));
    CHECK_OK(step(1, tiny, expected, expected_log_prob));
    for (int m = 0; m < 3; m++)
        for (int32_t threads = 1; threads <= 3; threads++)
            for (int i = 0; i < 5; i++) {
                SET_MODE(modes[m]);
                cgrpo_status status = step(threads, tiny, next, log_prob);
                unsigned after = GET_MODE();
                SET_MODE(DEFAULT);
                CHECK_OK(status);
                CHECK(after == modes[m]);
                CHECK_SAME_BITS(next->tensor.data, expected->tensor.data, B * D * sizeof(float));
                CHECK_SAME_BITS(log_prob, expected_log_prob, sizeof log_prob);
            }
}

/* A pool that is first started by such a caller. */
static int starts_the_pool_with_flushing(void) {
    SET_MODE(DEFAULT | FLUSH);
    step(3, x, array_new(CGRPO_TYPE_F32, B, D, 0), NULL);
    SET_MODE(DEFAULT);
    check_wrong = 0;
    results_do_not_depend_on_the_callers_mode();
    return check_wrong == 0;
}

static void the_pools_threads_begin_in_the_default_mode(void) {
    CHECK(bad_children(1, starts_the_pool_with_flushing) == 0);
}

static unsigned seen;

static int velocity(void *user, int64_t index, double sigma, const cgrpo_tensor *latents, const cgrpo_tensor *result) {
    (void)user, (void)index, (void)sigma;
    seen = GET_MODE();
    memcpy(result->data, latents->data, (size_t)(latents->shape[0] * latents->shape[1]) * sizeof(float));
    cgrpo_set_thread_limit(256); /* a call within a callback */
    if (GET_MODE() != seen) seen = 1;
    SET_MODE(DEFAULT | 0x4000);
    return 0;
}

static void a_callback_runs_in_the_hosts_mode(void) {
    enum { STEPS = 2, N = 64 };
    static float latents[B * (STEPS + 1) * N];
    static int64_t shape[3] = {B, STEPS + 1, N};
    double sigmas[STEPS + 1];
    cgrpo_sampler *sampler;
    cgrpo_trajectory trajectory;
    cgrpo_noise noise;
    shifted_schedule(STEPS, 3, sigmas);
    CHECK_OK(cgrpo_sampler_create(sigmas, STEPS + 1, NULL, &sampler));
    cgrpo_trajectory_init(&trajectory, sizeof trajectory);
    cgrpo_noise_init(&noise, sizeof noise);
    trajectory.latents.data = latents, trajectory.latents.shape = shape, trajectory.latents.ndim = 3;
    trajectory.latents.type = CGRPO_TYPE_F32;
    SET_MODE(DEFAULT | FLUSH);
    cgrpo_status status = cgrpo_rollout(sampler, &trajectory, 1, &noise, velocity, NULL);
    unsigned after = GET_MODE();
    SET_MODE(DEFAULT);
    CHECK_OK(status);
    CHECK(seen == (DEFAULT | FLUSH));
    CHECK(after == (DEFAULT | 0x4000)); /* the callback's choice stays */
    cgrpo_sampler_destroy(sampler);
}

/* MARK: environment and limits */

static const char *self;

/* What this program prints as `process quiet` with this setting; it fails where the library took a signal. */
static void is_quiet(const char *setting) {
    char text[256];
    int output[2], status = -1;
    CHECK(pipe(output) == 0);
    pid_t process = fork();
    if (process == 0) {
        char *arguments[] = {(char *)self, (char *)"quiet", NULL};
        dup2(output[1], 1), dup2(output[1], 2), close(output[0]);
        putenv((char *)setting);
        execv(self, arguments);
        _exit(9);
    }
    close(output[1]);
    ssize_t count = read(output[0], text, sizeof text - 1);
    text[count > 0 ? count : 0] = '\0';
    close(output[0]);
    CHECK(waitpid(process, &status, 0) == process);
    if (!CHECK(count == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0))
        printf("    with %s: status %d: %s\n", setting, status, text);
}

static int quiet(void) {
    int taken = 0;
    struct sigaction before[32], after; /* nohup and the like leave some ignored */
    for (int i = 1; i < 32; i++) sigaction(i, NULL, &before[i]);
    if (train(2) != CGRPO_OK) return 1;
    for (int i = 1; i < 32; i++) taken += sigaction(i, NULL, &after) == 0 && after.sa_handler != before[i].sa_handler;
    return taken;
}

static void no_variable_of_the_swift_runtime_is_read(void) {
    is_quiet("UNRELATED=1");
    is_quiet("SWIFT_DEBUG_HELP=YES");
    is_quiet("SWIFT_DEBUG_X=1");
    is_quiet("SWIFT_DEBUG_ENABLE_MALLOC_SCRIBBLE=maybe");
    is_quiet("SWIFT_BACKTRACE=bogus=1");
    is_quiet("SWIFT_BACKTRACE=enable=yes,swift-backtrace=/bin/true");
}

static void a_small_stack_limit_is_enough(void) {
    int status = -1;
    pid_t process = fork();
    if (process == 0) {
        struct rlimit limit = {64 << 10, 64 << 10};
        char *arguments[] = {(char *)self, (char *)"quiet", NULL};
        setrlimit(RLIMIT_STACK, &limit);
        execv(self, arguments);
        _exit(9);
    }
    CHECK(waitpid(process, &status, 0) == process);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "quiet") == 0) return quiet();
    self = argv[0];
    x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1);
    RUN(the_pools_threads_begin_in_the_default_mode);
    RUN(a_call_leaves_cancellation_as_it_was);
    RUN(results_do_not_depend_on_the_callers_mode);
    RUN(a_callback_runs_in_the_hosts_mode);
    RUN(no_variable_of_the_swift_runtime_is_read);
    RUN(a_small_stack_limit_is_enough);
    return finish("process");
}
