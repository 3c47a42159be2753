/*
 * Children of fork whose threads make their first calls at the same moment, whatever the parent did before: none hangs.
 *
 *     forks [CHILDREN]       in all, over all forms
 */
#include "faults.h"

static cgrpo_status train(int32_t threads) {
    cgrpo_trainer *trainer;
    cgrpo_trainer_options options = tiny_options(1, threads);
    options.latent_size = 8, options.width = 24, options.embedding_size = 8, options.group_size = 64;
    options.condition_size = 2;
    cgrpo_status status = cgrpo_trainer_create(&options, &trainer);
    if (status != CGRPO_OK) return status;
    status = tiny_iterate(trainer);
    cgrpo_trainer_destroy(trainer);
    return status;
}

static cgrpo_status sample_and_score(int32_t threads) {
    enum { B = 8, D = 65536 };
    double log_prob[B], loss;
    int64_t size = 1;
    array *x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1), *next = array_new(CGRPO_TYPE_F32, B, D, 0);
    cgrpo_sampler *sampler = sampler_new(5, CGRPO_DYNAMICS_FLOW_SDE, 0.7, threads);
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    cgrpo_status status = cgrpo_step(sampler, 1, &x->tensor, &x->tensor, NULL, &noise, &next->tensor, log_prob, NULL);
    if (status == CGRPO_OK)
        status = cgrpo_chunk_loss(log_prob, log_prob, log_prob, B, 1, &size, 1, NULL, &loss, NULL, NULL, NULL);
    array_free(x), array_free(next);
    cgrpo_sampler_destroy(sampler);
    return status;
}

enum { HOSTS = 4 };
static pthread_barrier_t start;
static void *host(void *index) {
    pthread_barrier_wait(&start);
    return (void *)(long)(*(int *)index % 2 ? train(1) : sample_and_score(1));
}

static int host_threads(void) {
    pthread_t threads[HOSTS];
    int indices[HOSTS], wrong = 0;
    pthread_barrier_init(&start, NULL, HOSTS);
    for (int i = 0; i < HOSTS; i++) indices[i] = i, pthread_create(&threads[i], NULL, host, &indices[i]);
    for (int i = 0; i < HOSTS; i++) {
        void *status;
        pthread_join(threads[i], &status);
        wrong |= status != NULL;
    }
    return wrong;
}

/* What the child does */
static int own_threads(void) { return (int)train(2); }
static int refusals(void) {
    double sigma;
    return cgrpo_schedule_make(0, NULL, &sigma) == CGRPO_OK || train(2) != CGRPO_OK;
}
static int (*const children[])(void) = {own_threads, host_threads, refusals};
static const char *const child_names[] = {"trains with two threads", "calls from four threads",
                                          "is refused, then trains"};

/* What the parent did */
static int keep_going;
static void *busy(void *kind) {
    while (__atomic_load_n(&keep_going, __ATOMIC_RELAXED)) *(int *)kind ? train(2) : sample_and_score(2);
    return NULL;
}
static void nothing(void) {}
static void a_few_calls(void) {
    double sigmas[5];
    cgrpo_sampler *sampler;
    cgrpo_schedule_make(4, NULL, sigmas), cgrpo_schedule_make(0, NULL, sigmas);
    if (cgrpo_sampler_create(sigmas, 5, NULL, &sampler) == CGRPO_OK) cgrpo_sampler_destroy(sampler);
}
static void trained(void) { train(2); }
static void first_calls(void) { /* another thread is in its first calls when the fork comes */
    static int kind = 1;
    pthread_t thread;
    keep_going = 1;
    pthread_create(&thread, NULL, busy, &kind);
    usleep((useconds_t)(getpid() % 50) * 100);
}
static void busy_threads(void) { /* four threads are anywhere in their first calls or later ones */
    static int kinds[HOSTS] = {1, 0, 1, 0};
    pthread_t thread;
    keep_going = 1;
    for (int i = 0; i < HOSTS; i++)
        if (pthread_create(&thread, NULL, busy, &kinds[i]) == 0) pthread_detach(thread);
    usleep((useconds_t)(getpid() % 100) * 1000);
}
static void (*const parents[])(void) = {nothing, a_few_calls, trained, first_calls, busy_threads};
static const char *const parent_names[] = {"did nothing", "made a few calls", "trained with two threads",
                                           "is in its first calls", "is busy in four threads"};

/* A parent of its own for each fork, so that each child is cold: outcome 0, or 3 hung, 4 ended, 5 another status. */
typedef struct form {
    int parent, child;
} form;

static int run_child(void *of) { return children[((form *)of)->child](); }

static int parent(void *of) {
    parents[((form *)of)->parent]();
    int outcome = in_child(run_child, of, 10);
    _exit(outcome == HUNG ? 3 : outcome == ENDED ? 4 : outcome ? 5 : 0);
}

int main(int argc, char **argv) {
    enum { PARENTS = 5, CHILDREN = 3 };
    long count = argument_or(argc, argv, 1, 240), each = (count + PARENTS * CHILDREN - 1) / (PARENTS * CHILDREN);
    long hung = 0, ended = 0, other = 0;
    for (form of = {0, 0}; of.parent < PARENTS; of.parent++)
        for (of.child = 0; of.child < CHILDREN; of.child++) {
            long hung_before = hung, wrong_before = ended + other;
            for (long i = 0; i < each; i++) {
                int outcome = in_child(parent, &of, 30);
                hung += outcome == 3 || outcome == HUNG, ended += outcome == 4 || outcome == ENDED;
                other += outcome == 5;
            }
            if (hung > hung_before || ended + other > wrong_before)
                printf("the parent %s, the child %s: %ld children, %ld hung, %ld went wrong\n", parent_names[of.parent],
                       child_names[of.child], each, hung - hung_before, ended + other - wrong_before);
        }
    printf("forks: %ld cold children with threads: %ld hung, %ld ended, %ld with another status\n",
           each * PARENTS * CHILDREN, hung, ended, other);
    return hung + ended + other > 0;
}
