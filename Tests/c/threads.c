/* Threads: any host may fork, call from many threads at once, or want none of ours; and the calls of a training step
 * take no memory from the heap. */
#define _GNU_SOURCE
#include "arrays.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { B = 4, D = 3 * 16 * 1024 * 4, k = 5 };

/* Every allocation of this program goes through here. */
static long allocations;
void *malloc(size_t size) {
    static void *(*real)(size_t);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "malloc");
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return real(size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    static int (*real)(void **, size_t, size_t);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "posix_memalign");
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return real(memory, alignment, size);
}

static array *x, *v;
static double expected[B];

typedef struct work {
    cgrpo_sampler *sampler;
    array *next;
    double log_prob[B];
    cgrpo_status status;
} work;

static cgrpo_status step(work *w) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = 7;
    return w->status =
               cgrpo_step(w->sampler, k, &x->tensor, &v->tensor, NULL, &noise, &w->next->tensor, w->log_prob, NULL);
}

static work *work_new(int32_t threads) {
    work *w = calloc(1, sizeof *w);
    w->sampler = sampler_new(17, CGRPO_DYNAMICS_FLOW_SDE, 0.7, threads);
    w->next = array_new(CGRPO_TYPE_F32, B, D, 0);
    return w;
}

static void work_free(work *w) {
    cgrpo_sampler_destroy(w->sampler);
    free(w->next->tensor.data);
    free(w);
}

static int right(const work *w) { return w->status == CGRPO_OK && memcmp(w->log_prob, expected, sizeof expected) == 0; }

static int threads_here(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (tasks != NULL && readdir(tasks) != NULL) count++;
    if (tasks != NULL) closedir(tasks);
    return count - 2; /* without . and ..; OpenBLAS may have some of its own */
}

static void a_limit_of_one_starts_no_thread(void) {
    int before = threads_here();
    work *w = work_new(8);
    CHECK_OK(cgrpo_set_thread_limit(1));
    CHECK_OK(step(w));
    memcpy(expected, w->log_prob, sizeof expected); /* one thread: what all others are held against */
    CHECK(threads_here() == before);
    work_free(w);
}

static void the_pool_grows_to_what_is_asked_for_and_no_further(void) {
    int before = threads_here();
    work *w = work_new(3);
    CHECK_OK(cgrpo_set_thread_limit(256));
    for (int i = 0; i < 5; i++) CHECK_OK(step(w));
    CHECK(right(w));
    CHECK(threads_here() == before + 2);
    CHECK_OK(cgrpo_set_thread_limit(2));
    work *more = work_new(16);
    CHECK_OK(step(more));
    CHECK(right(more));
    CHECK(threads_here() == before + 2);
    CHECK_OK(cgrpo_set_thread_limit(256));
    work_free(w);
    work_free(more);
}

static void a_wrong_limit_is_refused(void) {
    CHECK_REFUSED(cgrpo_set_thread_limit(0), CGRPO_INVALID_ARGUMENT, "limit");
    CHECK_REFUSED(cgrpo_set_thread_limit(257), CGRPO_INVALID_ARGUMENT, "limit");
    CHECK_REFUSED(cgrpo_set_thread_limit(-1), CGRPO_INVALID_ARGUMENT, "limit");
}

static void a_forked_child_and_its_parent_go_on(void) {
    work *w = work_new(3);
    CHECK_OK(step(w));
    for (int generation = 0; generation < 3; generation++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20); /* a pool that waits for threads of the parent would wait for ever */
            int good = threads_here() == 1;
            for (int i = 0; i < 3; i++) good = good && step(w) == CGRPO_OK && right(w);
            _exit(good && threads_here() == 3 ? 0 : 1);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK_OK(step(w));
        CHECK(right(w));
    }
    work_free(w);
}

static void *many_steps(void *argument) {
    work *w = argument;
    for (int i = 0; i < 20; i++) {
        if (step(w) != CGRPO_OK || !right(w)) {
            w->status = CGRPO_INVALID_ARGUMENT;
            return NULL;
        }
    }
    return NULL;
}

static void many_callers_at_once_get_the_same_bits(void) {
    enum { CALLERS = 6 };
    pthread_t callers[CALLERS];
    work *works[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        works[i] = work_new(1 + i % 3);
        CHECK(pthread_create(&callers[i], NULL, many_steps, works[i]) == 0);
    }
    /* A fork while others hold the pool: the child's is free. */
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        work *w = work_new(3);
        _exit(step(w) == CGRPO_OK && right(w) ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(callers[i], NULL);
        CHECK(right(works[i]));
        work_free(works[i]);
    }
}

static void the_pools_threads_take_no_signals(void) {
    work *w = work_new(3);
    CHECK_OK(step(w));
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks != NULL && (task = readdir(tasks)) != NULL;) {
        char path[300], line[256];
        unsigned long long blocked = 0;
        if (task->d_name[0] == '.' || atoi(task->d_name) == getpid()) continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        FILE *status = fopen(path, "r");
        while (status != NULL && fgets(line, sizeof line, status) != NULL)
            if (sscanf(line, "SigBlk: %llx", &blocked) == 1) break;
        if (status != NULL) fclose(status);
        CHECK(blocked >> 1 & 1); /* SIGINT */
    }
    if (tasks != NULL) closedir(tasks);
    work_free(w);
}

static double processor_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void the_pool_sleeps_soon_after_a_call(void) {
    work *w = work_new(3);
    CHECK_OK(step(w));
    double before = processor_seconds();
    usleep(300000);
    CHECK(processor_seconds() - before < 0.1); /* two threads that stayed awake would take most of 0.6 */
    work_free(w);
}

static void a_steady_state_allocates_nothing(void) {
    const cgrpo_type types[] = {CGRPO_TYPE_F32, CGRPO_TYPE_BF16};
    for (int32_t threads = 1; threads <= 2; threads++)
        for (int t = 0; t < 2; t++) {
            cgrpo_sampler *sampler = sampler_new(17, CGRPO_DYNAMICS_FLOW_SDE, 0.7, threads);
            array *from = array_filled(types[t], 2, 300001, 0, 1), *velocity = array_filled(types[t], 2, 300001, 0, 2);
            array *next = array_new(types[t], 2, 300001, 0), *gradient = array_new(types[t], 2, 300001, 0);
            array *given = array_filled(types[t], 2, 300001, 0, 3);
            double log_prob[2], change[2], grad[2] = {1, 2};
            cgrpo_noise library, own;
            cgrpo_noise_init(&library, sizeof library);
            cgrpo_noise_init(&own, sizeof own);
            own.given = &given->tensor;
            long before = 0;
            for (int i = 0; i < 3; i++) {
                if (i == 1) before = allocations;
                CHECK_OK(cgrpo_step(sampler, k, &from->tensor, &velocity->tensor, NULL, &library, &next->tensor,
                                    log_prob, change));
                CHECK_OK(cgrpo_step(sampler, k, &from->tensor, &velocity->tensor, NULL, &own, &next->tensor, log_prob,
                                    change));
                CHECK_OK(cgrpo_log_prob(sampler, k, &from->tensor, &velocity->tensor, NULL, &next->tensor, log_prob));
                CHECK_OK(cgrpo_log_prob_vjp(sampler, k, &from->tensor, &velocity->tensor, NULL, &next->tensor, grad,
                                            &gradient->tensor, NULL, log_prob));
                CHECK_OK(cgrpo_normal(1, NULL, 2, threads, &gradient->tensor));
            }
            if (!CHECK(allocations == before)) printf("    %ld of them\n", allocations - before);
            cgrpo_sampler_destroy(sampler);
        }
}

int main(void) {
    x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), v = array_filled(CGRPO_TYPE_F32, B, D, 0, 2);
    RUN(a_limit_of_one_starts_no_thread);
    RUN(the_pool_grows_to_what_is_asked_for_and_no_further);
    RUN(a_wrong_limit_is_refused);
    RUN(a_forked_child_and_its_parent_go_on);
    RUN(many_callers_at_once_get_the_same_bits);
    RUN(the_pools_threads_take_no_signals);
    RUN(the_pool_sleeps_soon_after_a_call);
    RUN(a_steady_state_allocates_nothing);
    return finish("threads");
}
