/* A tiny trainer: pretraining, Chunk-GRPO, callbacks that fail, and checkpoints. Working folder: the first argument. */
#define _DEFAULT_SOURCE
#include "arrays.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { D = 6, C = 3, P = 4, N = 40, STEPS = 5 };
static const int64_t chunk_sizes[2] = {1, 3};
static const double chunk_weights[2] = {0.1, 2};
static char folder[512];
static array *conditions; /* (P, C) */

static cgrpo_trainer_options tiny(void) {
    cgrpo_trainer_options options;
    cgrpo_trainer_options_init(&options, sizeof options);
    options.latent_size = D;
    options.condition_size = C;
    options.width = 16;
    options.blocks = 2;
    options.embedding_size = 8;
    options.steps = STEPS;
    options.chunk_sizes = chunk_sizes;
    options.chunk_count = 2;
    options.group_size = 4;
    options.threads = 1;
    options.seed = 7;
    options.learning_rate = 1e-2;
    return options;
}

static cgrpo_trainer *trainer_new(void) {
    cgrpo_trainer_options options = tiny();
    cgrpo_trainer *trainer = NULL;
    CHECK_OK(cgrpo_trainer_create(&options, &trainer));
    return trainer;
}

/* How often a callback is called, and at which call it fails; -1: never. */
typedef struct calls {
    int64_t count, fails_at, last_done;
    int writes_nan;
    double loss;
} calls;

static int reward_first_element(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards) {
    calls *c = (calls *)user;
    const float *image = (const float *)images->data;
    if (c->count++ == c->fails_at) {
        if (!c->writes_nan) return 5;
        for (int64_t i = 0; i < images->shape[0]; i++) rewards[i] = NAN;
        return 0;
    }
    for (int64_t i = 0; i < images->shape[0]; i++) {
        if (images->shape[1] != D || prompt[i] < 0 || prompt[i] >= P) return 6;
        rewards[i] = image[i * D] - 0.1 * (double)prompt[i];
    }
    return 0;
}

static int count_progress(void *user, int64_t done, int64_t total, double loss) {
    calls *c = (calls *)user;
    c->last_done = done;
    c->loss = loss;
    return c->count++ == c->fails_at || done > total;
}

static void pretrain(cgrpo_trainer *trainer, int64_t steps, double *loss) {
    calls c = {0, -1, 0, 0, 0};
    cgrpo_pretrain_options options;
    array *images = array_new(CGRPO_TYPE_F32, N, D, 0), *classes = array_new(CGRPO_TYPE_F32, N, C, 0);
    for (int64_t i = 0; i < N; i++) {
        set(classes, i * C + i % C, 1);
        for (int64_t j = 0; j < D; j++)
            set(images, i * D + j, (double)(i % C) - 1 + 0.2 * scattered(4, (uint64_t)(i * D + j)));
    }
    cgrpo_pretrain_options_init(&options, sizeof options);
    options.steps = steps;
    options.batch_size = 16;
    CHECK_OK(cgrpo_trainer_pretrain(trainer, &images->tensor, &classes->tensor, &options, count_progress, &c));
    CHECK(c.count > 0 && c.last_done == steps && isfinite(c.loss));
    if (loss) *loss = c.loss;
}

static cgrpo_iteration_report iterate(cgrpo_trainer *trainer) {
    calls c = {0, -1, 0, 0, 0};
    cgrpo_iteration_report report;
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    CHECK_OK(cgrpo_trainer_iterate(trainer, &conditions->tensor, reward_first_element, &c, &report));
    CHECK(c.count >= 1);
    return report;
}

static array *sampled(const cgrpo_trainer *trainer, cgrpo_parameters weights) {
    array *images = array_new(CGRPO_TYPE_F32, P, D, 0);
    CHECK_OK(cgrpo_trainer_sample(trainer, &conditions->tensor, weights, 0.7, 99, &images->tensor));
    return images;
}

static int64_t iterations_of(const cgrpo_trainer *trainer) {
    int64_t count = -1;
    CHECK_OK(cgrpo_trainer_info(trainer, NULL, NULL, &count));
    return count;
}

static int same_trainers(const cgrpo_trainer *left, const cgrpo_trainer *right) {
    return iterations_of(left) == iterations_of(right) &&
           same_bits(sampled(left, CGRPO_PARAMETERS_TRAINED), sampled(right, CGRPO_PARAMETERS_TRAINED)) &&
           same_bits(sampled(left, CGRPO_PARAMETERS_AVERAGED), sampled(right, CGRPO_PARAMETERS_AVERAGED));
}

static void same_seed_same_training(void) {
    cgrpo_trainer *one = trainer_new(), *two = trainer_new();
    pretrain(one, 10, NULL), pretrain(two, 10, NULL);
    for (int i = 0; i < 3; i++) iterate(one), iterate(two);
    CHECK(same_trainers(one, two));
    CHECK(iterations_of(one) == 3);
    cgrpo_trainer_destroy(one), cgrpo_trainer_destroy(two);
}

static void pretraining_lowers_the_loss(void) {
    double early, late;
    cgrpo_trainer *one = trainer_new(), *two = trainer_new();
    pretrain(one, 5, &early), pretrain(two, 500, &late);
    CHECK(late < 0.8 * early);
    cgrpo_trainer_destroy(one), cgrpo_trainer_destroy(two);
}

static void iterations_report_and_raise_the_reward(void) {
    cgrpo_trainer *trainer = trainer_new();
    cgrpo_iteration_report first, last;
    int64_t parameters = 0;
    pretrain(trainer, 100, NULL);
    CHECK_OK(cgrpo_trainer_info(trainer, NULL, &parameters, NULL));
    CHECK(parameters > 500);
    last = first = iterate(trainer);
    for (int i = 0; i < 30; i++) last = iterate(trainer);
    CHECK(first.iteration == 1 && last.iteration == 31);
    CHECK(first.stats.selected > 0 && first.stats.struct_size == sizeof first.stats);
    CHECK(first.reward_std > 0 && first.grad_norm > 0 && first.rollout_seconds >= 0 && first.update_seconds >= 0);
    CHECK(last.reward_mean > first.reward_mean + 0.3);
    cgrpo_trainer_destroy(trainer);
}

/* All of it, from a trainer that was made and from one that was loaded. */
static void info_tells_the_options(void) {
    cgrpo_trainer_options wanted = tiny(), told;
    wanted.reference_kl = 0.01, wanted.reference_divergence = CGRPO_DIVERGENCE_MEAN;
    wanted.chunk_weights = chunk_weights, wanted.chunk_weights_count = 2, wanted.reference_last_step = 0.02;
    cgrpo_trainer *trainer, *loaded;
    CHECK_OK(cgrpo_trainer_create(&wanted, &trainer));
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    CHECK_OK(cgrpo_trainer_load(folder, &loaded));
    for (int i = 0; i < 2; i++) {
        memset(&told, 0xa5, sizeof told);
        told.struct_size = sizeof told;
        CHECK_OK(cgrpo_trainer_info(i ? loaded : trainer, &told, NULL, NULL));
        CHECK(told.chunk_count == 2 && told.chunk_sizes != chunk_sizes);
        CHECK_SAME_BITS(told.chunk_sizes, chunk_sizes, sizeof chunk_sizes);
        CHECK(told.chunk_weights_count == 2 && told.chunk_weights != chunk_weights);
        CHECK_SAME_BITS(told.chunk_weights, chunk_weights, sizeof chunk_weights);
        told.chunk_sizes = chunk_sizes, told.chunk_weights = chunk_weights;
        CHECK_SAME_BITS(&told, &wanted, sizeof told);
    }
    cgrpo_trainer_destroy(trainer), cgrpo_trainer_destroy(loaded);
}

static void the_network_alone_drives_a_rollout(void) {
    cgrpo_trainer *trainer = trainer_new();
    array *x = array_filled(CGRPO_TYPE_F32, P, D, 0, 1), *v = array_new(CGRPO_TYPE_F32, P, D, 0),
          *same = array_new(CGRPO_TYPE_F32, P, D, 0);
    pretrain(trainer, 10, NULL);
    CHECK_OK(
        cgrpo_trainer_velocity(trainer, CGRPO_PARAMETERS_TRAINED, &x->tensor, 0.4, &conditions->tensor, &v->tensor));
    CHECK_OK(
        cgrpo_trainer_velocity(trainer, CGRPO_PARAMETERS_TRAINED, &x->tensor, 0.4, &conditions->tensor, &same->tensor));
    CHECK(same_bits(v, same));
    for (int64_t i = 0; i < v->count; i++) CHECK(isfinite(get(v, i)));
    cgrpo_trainer_destroy(trainer);
}

static void a_failing_reward_leaves_the_trainer_as_it_was(void) {
    cgrpo_trainer *trainer = trainer_new(), *twin = trainer_new();
    calls fails = {0, 0, 0, 0, 0}, nan = {0, 0, 0, 1, 0};
    pretrain(trainer, 10, NULL), pretrain(twin, 10, NULL);
    iterate(trainer), iterate(twin);
    CHECK_REFUSED(cgrpo_trainer_iterate(trainer, &conditions->tensor, reward_first_element, &fails, NULL),
                  CGRPO_CALLBACK_FAILED, "reward");
    CHECK(same_trainers(trainer, twin));
    CHECK_REFUSED(cgrpo_trainer_iterate(trainer, &conditions->tensor, reward_first_element, &nan, NULL),
                  CGRPO_NON_FINITE, "reward");
    CHECK(same_trainers(trainer, twin));
    iterate(trainer), iterate(twin); /* the noise of the failed iterations is not used up either */
    CHECK(same_trainers(trainer, twin));
    cgrpo_trainer_destroy(trainer), cgrpo_trainer_destroy(twin);
}

static void stopping_pretraining_leaves_the_trainer_as_it_was(void) {
    cgrpo_trainer *trainer = trainer_new(), *twin = trainer_new();
    array *images = array_filled(CGRPO_TYPE_F32, N, D, 0, 1), *classes = array_filled(CGRPO_TYPE_F32, N, C, 0, 2);
    calls stops = {0, 0, 0, 0, 0};
    CHECK_REFUSED(cgrpo_trainer_pretrain(trainer, &images->tensor, &classes->tensor, NULL, count_progress, &stops),
                  CGRPO_CALLBACK_FAILED, "progress");
    CHECK(stops.count == 1);
    CHECK(same_trainers(trainer, twin));
    pretrain(trainer, 10, NULL), pretrain(twin, 10, NULL);
    CHECK(same_trainers(trainer, twin));
    cgrpo_trainer_destroy(trainer), cgrpo_trainer_destroy(twin);
}

static void a_loaded_trainer_goes_on_bit_for_bit(void) {
    cgrpo_trainer *straight = trainer_new(), *loaded = NULL;
    pretrain(straight, 10, NULL);
    iterate(straight), iterate(straight);
    CHECK_OK(cgrpo_trainer_save(straight, folder));
    CHECK_OK(cgrpo_trainer_load(folder, &loaded));
    CHECK(same_trainers(straight, loaded));
    for (int i = 0; i < 3; i++) {
        cgrpo_iteration_report left = iterate(straight), right = iterate(loaded);
        CHECK(left.iteration == right.iteration && left.reward_mean == right.reward_mean && left.loss == right.loss);
        CHECK(left.grad_norm == right.grad_norm);
    }
    CHECK(same_trainers(straight, loaded));
    CHECK_OK(cgrpo_trainer_save(loaded, folder)); /* over an older checkpoint */
    cgrpo_trainer_destroy(loaded);
    CHECK_OK(cgrpo_trainer_load(folder, &loaded));
    CHECK(same_trainers(straight, loaded));
    cgrpo_trainer_destroy(straight), cgrpo_trainer_destroy(loaded);
}

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *bytes;
    long length;
    *size = 0;
    if (!CHECK(file != NULL)) return NULL;
    fseek(file, 0, SEEK_END);
    length = ftell(file);
    rewind(file);
    bytes = (char *)malloc((size_t)length + 1);
    *size = fread(bytes, 1, (size_t)length, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!CHECK(file != NULL)) return;
    CHECK(fwrite(bytes, 1, size, file) == size);
    fclose(file);
}

/* Whatever happened to a file: refused or loaded, never a crash; and refused, the handle is not written. */
static int loads(void) {
    cgrpo_trainer *trainer = NULL;
    cgrpo_status status = cgrpo_trainer_load(folder, &trainer);
    if (status == CGRPO_OK) CHECK(trainer != NULL);
    else CHECK(trainer == NULL), CHECK_REFUSED(status, CGRPO_IO_ERROR, folder); /* the sentence says where */
    cgrpo_trainer_destroy(trainer);
    return status == CGRPO_OK;
}

static void a_damaged_checkpoint_is_refused(void) {
    cgrpo_trainer *trainer = trainer_new();
    DIR *directory;
    struct dirent *entry;
    int files = 0;
    pretrain(trainer, 10, NULL);
    CHECK_OK(cgrpo_trainer_save(trainer, folder));
    cgrpo_trainer_destroy(trainer);
    directory = opendir(folder);
    while (CHECK(directory != NULL) && (entry = readdir(directory)) != NULL) {
        char path[1024];
        size_t size, cut;
        char *bytes, *broken;
        if (entry->d_name[0] == '.') continue;
        files++;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        bytes = read_file(path, &size);
        CHECK(size > 0);
        for (cut = 0; cut < size; cut += 1 + size / 23) {
            write_file(path, bytes, cut);
            CHECK(!loads());
        }
        CHECK(unlink(path) == 0);
        CHECK(!loads());
        broken = (char *)malloc(size);
        for (uint64_t i = 0; i < 400; i++) { /* in the head, where sizes and names are */
            size_t at = (size_t)(fabs(scattered(6, i)) * (double)(size < 3000 ? size : 3000));
            memcpy(broken, bytes, size);
            broken[at] = (char)(broken[at] ^ (1 << i % 8));
            write_file(path, broken, size);
            loads();
        }
        write_file(path, bytes, size);
        CHECK(loads());
        free(bytes), free(broken);
    }
    if (directory) closedir(directory);
    CHECK(files == 1); /* model.safetensors */
}

static void a_folder_that_cannot_be_is_an_io_error(void) {
    cgrpo_trainer *trainer = trainer_new(), *loaded = NULL;
    char path[1024];
    CHECK_REFUSED(cgrpo_trainer_load("/nowhere/at all", &loaded), CGRPO_IO_ERROR, "/nowhere/at all");
    CHECK(loaded == NULL);
    CHECK_REFUSED(cgrpo_trainer_save(trainer, "/dev/null/folder"), CGRPO_IO_ERROR, "/dev/null/folder");
    CHECK_REFUSED(cgrpo_trainer_load("", &loaded), CGRPO_INVALID_ARGUMENT, "directory");
    snprintf(path, sizeof path, "%s/file", folder);
    write_file(path, "x", 1);
    CHECK_REFUSED(cgrpo_trainer_save(trainer, path), CGRPO_IO_ERROR, path);
    CHECK(unlink(path) == 0);
    cgrpo_trainer_destroy(trainer);
}

/* OpenBLAS wants 128 MB of addresses for each thread that is in a product, and waits without end where there are none.
 */
static cgrpo_status trains_within(size_t megabytes) {
    cgrpo_trainer_options options = tiny();
    cgrpo_pretrain_options few;
    cgrpo_trainer *trainer = NULL;
    struct rlimit limit = {0, 0};
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    array *images = array_new(CGRPO_TYPE_F32, N, D, 0), *classes = array_new(CGRPO_TYPE_F32, N, C, 0);
    options.width = 161; /* no size for the library's own products */
    options.threads = 2;
    cgrpo_pretrain_options_init(&few, sizeof few);
    few.steps = 2;
    if (cgrpo_trainer_create(&options, &trainer) != CGRPO_OK) return CGRPO_INVALID_ARGUMENT;
    if (file == NULL || fscanf(file, "%ld", &pages) != 1) return CGRPO_IO_ERROR;
    limit.rlim_cur = limit.rlim_max = (rlim_t)pages * 4096 + (megabytes << 20);
    setrlimit(RLIMIT_AS, &limit);
    return cgrpo_trainer_pretrain(trainer, &images->tensor, &classes->tensor, &few, NULL, NULL);
}

static void where_memory_is_short_a_call_ends(void) {
    for (size_t megabytes = 1; megabytes < 600; megabytes += 1 + megabytes / 3) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            _exit(trains_within(megabytes));
        }
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == CGRPO_OUT_OF_MEMORY || (WEXITSTATUS(status) == CGRPO_OK && megabytes > 20));
    }
}

int main(int argc, char **argv) {
    snprintf(folder, sizeof folder, "%s/checkpoint.XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(folder) == NULL) return perror(folder), 1;
    conditions = array_new(CGRPO_TYPE_F32, P, C, 0);
    for (int64_t i = 0; i < P; i++) set(conditions, i * C + i % C, 1);
    RUN_NATIVELY(where_memory_is_short_a_call_ends); /* first: its children begin with a fresh library */
    RUN(same_seed_same_training);
    RUN(pretraining_lowers_the_loss);
    RUN(iterations_report_and_raise_the_reward);
    RUN(info_tells_the_options);
    RUN(the_network_alone_drives_a_rollout);
    RUN(a_failing_reward_leaves_the_trainer_as_it_was);
    RUN(stopping_pretraining_leaves_the_trainer_as_it_was);
    RUN(a_loaded_trainer_goes_on_bit_for_bit);
    RUN(a_damaged_checkpoint_is_refused);
    RUN(a_folder_that_cannot_be_is_an_io_error);
    return finish("trainer");
}
