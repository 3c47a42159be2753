/*
 * A thread that is cancelled while it is in a call does no harm: the next call of another thread returns, with the same
 * bits.
 *
 *     cancellations [COUNT]
 */
#include "faults.h"

enum { B = 4, D = 98304 };
static cgrpo_sampler *sampler;
static array *x;

static cgrpo_status step(array *next) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    return cgrpo_step(sampler, 3, &x->tensor, &x->tensor, NULL, &noise, &next->tensor, NULL, NULL);
}

static void *steps(void *next) {
    for (;;) {
        step(next);
        pthread_testcancel();
    }
    return NULL;
}

static int cancel(void *of) {
    long count = *(long *)of;
    array *mine = array_new(CGRPO_TYPE_F32, B, D, 0), *others = array_new(CGRPO_TYPE_F32, B, D, 0), *expected;
    sampler = sampler_new(17, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 3);
    x = array_filled(CGRPO_TYPE_F32, B, D, 0, 1);
    if (step(mine) != CGRPO_OK) return 1;
    expected = array_copy(mine);
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, steps, others) != 0) return 1;
        usleep((useconds_t)(300 + i * 37 % 3000));
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        alarm(10);
        if (step(mine) != CGRPO_OK || !same_bits(mine, expected)) return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    long count = argument_or(argc, argv, 1, 300);
    int outcome = in_child(cancel, &count, 60);
    printf("cancellations: %ld: %s\n", count,
           outcome == 0      ? "no harm"
           : outcome == HUNG ? "a later call hung"
                             : "a later call went wrong");
    return outcome != 0;
}
