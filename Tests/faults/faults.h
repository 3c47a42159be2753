/* What the programs of this folder share: children that may end or hang without harm, and a tiny trainer. */
#ifndef FAULTS_H
#define FAULTS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../c/arrays.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What became of a child: its exit status, or one of these. */
enum { ENDED = 1000, HUNG = 1001 };

/* Runs `work` in a child that may take `seconds`. Its stderr is shut: the Swift runtime prints before it aborts. */
static inline int in_child(int (*work)(void *), void *argument, unsigned seconds) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, 2);
        alarm(seconds);
        _exit(work(argument));
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    return WTERMSIG(status) == SIGALRM ? HUNG : ENDED;
}

/* Memory that a child's results come back in. */
static inline void *shared_memory(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) abort();
    return memory;
}

static inline cgrpo_tensor tensor_of(void *data, const int64_t *shape, int32_t ndim, cgrpo_type type) {
    cgrpo_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = data, tensor.shape = shape, tensor.ndim = ndim, tensor.type = type;
    return tensor;
}

static inline uint64_t digest_bytes(uint64_t digest, const void *data, size_t bytes) {
    const unsigned char *byte = (const unsigned char *)data;
    for (size_t i = 0; i < bytes; i++) digest = (digest ^ byte[i]) * 0x100000001b3u;
    return digest;
}

/* The first element of an image, made different from its neighbours'. */
static inline int first_element_reward(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards) {
    (void)user;
    for (int64_t i = 0; i < images->shape[0]; i++)
        rewards[i] = ((float *)images->data)[i * images->shape[1]] + 1e-3 * (double)(i + prompt[i]);
    return 0;
}

static const float tiny_condition_values[4] = {1, 0, 0, 1};
static const int64_t tiny_conditions_shape[2] = {2, 2};

static inline cgrpo_tensor tiny_conditions(void) {
    return tensor_of((void *)tiny_condition_values, tiny_conditions_shape, 2, CGRPO_TYPE_F32);
}

static inline cgrpo_trainer_options tiny_options(uint64_t seed, int32_t threads) {
    cgrpo_trainer_options options;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = 3, options.condition_size = 2;
    options.width = 5, options.blocks = 1, options.embedding_size = 4;
    options.steps = 5, options.group_size = 3, options.chunk_fraction = 1;
    options.threads = threads, options.learning_rate = 1e-2, options.seed = seed;
    return options;
}

static inline cgrpo_status tiny_iterate(cgrpo_trainer *trainer) {
    cgrpo_tensor conditions = tiny_conditions();
    return cgrpo_trainer_iterate(trainer, &conditions, first_element_reward, NULL, NULL);
}

/* A trainer that has moved away from its first state. */
static inline cgrpo_trainer *tiny_trainer(uint64_t seed, int iterations) {
    cgrpo_trainer_options options = tiny_options(seed, 1);
    cgrpo_trainer *trainer = NULL;
    if (cgrpo_trainer_create(&options, &trainer) != CGRPO_OK) abort();
    for (int i = 0; i < iterations; i++)
        if (tiny_iterate(trainer) != CGRPO_OK) abort();
    return trainer;
}

/* What a trainer is: images of its parameters and of their average, and how often it iterated. */
typedef struct identity {
    float images[2][6];
    int64_t iterations;
} identity;

static inline identity identity_of(const cgrpo_trainer *trainer) {
    static const int64_t shape[2] = {2, 3};
    identity of;
    cgrpo_tensor conditions = tiny_conditions();
    memset(&of, 0, sizeof of);
    for (int k = 0; k < 2; k++) {
        cgrpo_tensor images = tensor_of(of.images[k], shape, 2, CGRPO_TYPE_F32);
        if (cgrpo_trainer_sample(trainer, &conditions, 1 + k, 0.7, 5, &images) != CGRPO_OK) abort();
    }
    if (cgrpo_trainer_info(trainer, NULL, NULL, &of.iterations) != CGRPO_OK) abort();
    return of;
}

/* The `index`-th of "NUMBER NUMBER …" arguments, or the short form's number. */
static inline long argument_or(int count, char **arguments, int index, long otherwise) {
    return count > index ? atol(arguments[index]) : otherwise;
}

static inline void remove_folder(const char *folder) {
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) abort();
}

#endif
