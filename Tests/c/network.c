/* The embedded policy's network, against the same network in f64 from the parameters of a checkpoint; and how far the
 * average of the parameters follows a step of pretraining. The argument is the working folder. */
#define _DEFAULT_SOURCE
#include "arrays.h"

#include <unistd.h>

enum { D = 3, C = 2, W = 20, E = 8, BLOCKS = 2, N = 32, MODULATION = (3 * BLOCKS + 2) * W };
static char folder[512], file[600];

static cgrpo_trainer *trainer_of(uint64_t seed) {
    cgrpo_trainer_options options;
    cgrpo_trainer *trainer = NULL;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = D, options.condition_size = C, options.width = W, options.blocks = BLOCKS;
    options.embedding_size = E, options.steps = 5, options.group_size = 2, options.threads = 1, options.seed = seed;
    options.chunk_fraction = 1;
    CHECK_OK(cgrpo_trainer_create(&options, &trainer));
    return trainer;
}

static void pretrain(cgrpo_trainer *trainer, int64_t steps, double learning_rate) {
    array *images = array_filled(CGRPO_TYPE_F32, N, D, 0, 1), *conditions = array_filled(CGRPO_TYPE_F32, N, C, 0, 2);
    cgrpo_pretrain_options options;
    cgrpo_pretrain_options_init(&options, sizeof options);
    options.steps = steps, options.batch_size = N, options.learning_rate = learning_rate, options.ema_decay = 0.99;
    CHECK_OK(cgrpo_trainer_pretrain(trainer, &images->tensor, &conditions->tensor, &options, NULL, NULL));
    array_free(images), array_free(conditions);
}

/* ---- A checkpoint: 8 bytes of length, a JSON header with the place of each tensor, the tensors ---- */

typedef struct checkpoint {
    char *bytes;
    size_t size, data;
} checkpoint;

static checkpoint saved(const cgrpo_trainer *trainer) {
    checkpoint c = {NULL, 0, 0};
    FILE *stream;
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    stream = fopen(file, "rb");
    if (!CHECK(stream != NULL)) exit(1);
    fseek(stream, 0, SEEK_END);
    c.size = (size_t)ftell(stream);
    rewind(stream);
    c.bytes = (char *)malloc(c.size + 1);
    CHECK(fread(c.bytes, 1, c.size, stream) == c.size);
    fclose(stream);
    for (int i = 7; i >= 0; i--) c.data = 256 * c.data + (unsigned char)c.bytes[i];
    c.data += 8;
    return c;
}

static const float *tensor(const checkpoint *c, const char *name) {
    char quoted[100];
    const char *place;
    long first = -1;
    snprintf(quoted, sizeof quoted, "\"%s\":{", name);
    place = strstr(c->bytes + 8, quoted);
    place = place ? strstr(place, "\"data_offsets\":[") : NULL;
    if (!CHECK(place != NULL && sscanf(place, "\"data_offsets\":[%ld", &first) == 1)) exit(1);
    return (const float *)(const void *)(c->bytes + c->data + first);
}

/* ---- The network (DiT's adaLN-Zero blocks on one token) ---- */

static void linear(const checkpoint *c, const char *name, const double *x, int inputs, double *y, int outputs) {
    char full[100];
    const float *weight, *bias = NULL;
    snprintf(full, sizeof full, "parameters.%s.weight", name);
    weight = tensor(c, full);
    snprintf(full, sizeof full, "parameters.%s.bias", name);
    if (strcmp(name, "condition") != 0) bias = tensor(c, full);
    for (int o = 0; o < outputs; o++) {
        y[o] = bias ? bias[o] : 0;
        for (int i = 0; i < inputs; i++) y[o] += weight[o * inputs + i] * x[i];
    }
}

static void silu(double *x, int count) {
    for (int i = 0; i < count; i++) x[i] /= 1 + exp(-x[i]);
}

/* Layer norm without parameters of its own, then x·(1 + scale) + shift. */
static void norm(const double *x, const double *shift, const double *scale, double *y) {
    double mean = 0, variance = 0;
    for (int i = 0; i < W; i++) mean += x[i] / W;
    for (int i = 0; i < W; i++) variance += (x[i] - mean) * (x[i] - mean) / W;
    for (int i = 0; i < W; i++) y[i] = (x[i] - mean) / sqrt(variance + 1e-6) * (1 + scale[i]) + shift[i];
}

static void expected_velocity(const checkpoint *c, double sigma, const double *x, const double *condition, double *v) {
    double wave[E], hidden[E], time[E], embedding[E], m[MODULATION], h[W], y[W], z[W];
    char name[40];
    for (int i = 0; i < E / 2; i++) {
        double angle = 1000 * sigma * exp(-log(10000) * i / (E / 2));
        wave[i] = cos(angle), wave[E / 2 + i] = sin(angle);
    }
    linear(c, "time.hidden", wave, E, hidden, E);
    silu(hidden, E);
    linear(c, "time.output", hidden, E, time, E);
    linear(c, "condition", condition, C, embedding, E);
    for (int i = 0; i < E; i++) embedding[i] += time[i];
    silu(embedding, E);
    linear(c, "modulation", embedding, E, m, MODULATION);
    linear(c, "input", x, D, h, W);
    for (int b = 0; b < BLOCKS; b++) {
        norm(h, m + 3 * b * W, m + (3 * b + 1) * W, y);
        snprintf(name, sizeof name, "blocks.%d.hidden", b);
        linear(c, name, y, W, z, W);
        silu(z, W);
        snprintf(name, sizeof name, "blocks.%d.output", b);
        linear(c, name, z, W, y, W);
        for (int i = 0; i < W; i++) h[i] += m[(3 * b + 2) * W + i] * y[i];
    }
    norm(h, m + 3 * BLOCKS * W, m + (3 * BLOCKS + 1) * W, y);
    linear(c, "output", y, W, v, D);
}

static void the_velocity_is_that_of_the_network_that_the_checkpoint_holds(void) {
    cgrpo_trainer *trainer = trainer_of(3);
    array *x = array_filled(CGRPO_TYPE_F32, N, D, 0, 5), *conditions = array_filled(CGRPO_TYPE_F32, N, C, 0, 6);
    array *velocity = array_new(CGRPO_TYPE_F32, N, D, 0);
    const double sigmas[] = {1, 0.73, 0.001};
    double largest = 0;
    checkpoint c;
    pretrain(trainer, 200, 2e-2);
    c = saved(trainer);
    for (int s = 0; s < 3; s++) {
        CHECK_OK(cgrpo_trainer_velocity(trainer, CGRPO_PARAMETERS_TRAINED, &x->tensor, sigmas[s], &conditions->tensor,
                                        &velocity->tensor));
        for (int64_t i = 0; i < N; i++) {
            double latents[D], condition[C], expected[D];
            for (int k = 0; k < D; k++) latents[k] = get(x, i * D + k);
            for (int k = 0; k < C; k++) condition[k] = get(conditions, i * C + k);
            expected_velocity(&c, sigmas[s], latents, condition, expected);
            for (int k = 0; k < D; k++) {
                CHECK_NEAR(get(velocity, i * D + k), expected[k], 2e-5);
                largest = fmax(largest, fabs(expected[k]));
            }
        }
    }
    CHECK(largest > 0.5); /* it has learnt something: no zeros agree with zeros */
    free(c.bytes);
    array_free(x), array_free(conditions), array_free(velocity);
    cgrpo_trainer_destroy(trainer);
}

/* AdamW's first step moves a parameter by the learning rate, and the average, which the network then has, by 1 − 1/10
 * of it: its decay begins at 1/10. */
static void early_in_pretraining_the_average_forgets_the_first_parameters(void) {
    const double learning_rate = 1e-3;
    cgrpo_trainer *trainer = trainer_of(4);
    checkpoint before = saved(trainer), after;
    pretrain(trainer, 1, learning_rate);
    after = saved(trainer);
    for (int i = 0; i < D; i++) {
        double moved = tensor(&after, "parameters.output.bias")[i] - tensor(&before, "parameters.output.bias")[i];
        CHECK_NEAR(fabs(moved) / learning_rate, 0.9, 1e-3);
    }
    free(before.bytes), free(after.bytes);
    cgrpo_trainer_destroy(trainer);
}

int main(int argc, char **argv) {
    char command[600];
    snprintf(folder, sizeof folder, "%s/checkpoint.XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(folder) == NULL) return perror(folder), 1;
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    RUN(the_velocity_is_that_of_the_network_that_the_checkpoint_holds);
    RUN(early_in_pretraining_the_average_forgets_the_first_parameters);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) return 1;
    return finish("network");
}
