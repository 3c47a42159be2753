/*
 * Checkpoint files with mutations: refused, or loaded as the very state that was saved.
 *
 *     checkpoints FOLDER [COUNT [SEED]]
 */
#include "faults.h"

#include <dirent.h>

static char folder[300], path[600], again[400];
static unsigned char *original, *mutated;
static size_t length, mutated_length;
static uint64_t state;

static uint64_t draw(uint64_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return below == 0 ? 0 : (state >> 11) % below;
}

/* The only file of a folder. */
static unsigned char *read_only_file(const char *in, char *name, size_t capacity, size_t *size) {
    DIR *entries = opendir(in);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;)
        if (entry->d_name[0] != '.') snprintf(name, capacity, "%s/%s", in, entry->d_name);
    closedir(entries);
    FILE *file = fopen(name, "rb");
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*size + 1);
    if (fread(data, 1, *size, file) != *size) abort();
    fclose(file);
    return data;
}

static void move_tail(size_t from, size_t to) {
    memmove(mutated + to, mutated + from, mutated_length - from);
    mutated_length = mutated_length - from + to;
}

/* Most of the state is text in the header: half of the mutations go there. */
static void mutate(void) {
    size_t header = 8 + (size_t)original[0] + 256 * (size_t)original[1] + 65536 * (size_t)original[2];
    memcpy(mutated, original, mutated_length = length);
    for (uint64_t times = 1 + draw(3); times > 0 && mutated_length > 40; times--) {
        size_t limit = draw(2) && header < mutated_length ? header : mutated_length - 32, at = draw(limit);
        size_t count = 1 + draw(16);
        static const char likely[] = "0123456789,:\"{}[]eE+-. \t\f";
        switch (draw(8)) {
            case 0: mutated[at] ^= (unsigned char)(1u << draw(8)); break;
            case 1: mutated[at] = (unsigned char)draw(256); break;
            case 2:
            case 3: mutated[at] = (unsigned char)likely[draw(sizeof likely - 1)]; break;
            case 4: move_tail(at + count, at); break;                           /* a cut */
            case 5: move_tail(at, at + count); break;                           /* a repetition */
            case 6: memmove(mutated + at, mutated + draw(limit), count); break; /* a splice */
            default: mutated_length = draw(50) ? mutated_length : at; break;    /* a file that ends early */
        }
    }
}

/* 0: refused, 1: the same state, 2: another */
static int load_mutated(void) {
    cgrpo_trainer *loaded = NULL;
    FILE *file = fopen(path, "wb");
    if (fwrite(mutated, 1, mutated_length, file) != mutated_length || fclose(file) != 0) abort();
    if (cgrpo_trainer_load(folder, &loaded) != CGRPO_OK) return 0;
    size_t size;
    char name[600];
    if (cgrpo_trainer_save(loaded, again) != CGRPO_OK) abort();
    unsigned char *saved = read_only_file(again, name, sizeof name, &size);
    int same = size == length && memcmp(saved, original, size) == 0;
    free(saved);
    cgrpo_trainer_destroy(loaded);
    return same ? 1 : 2;
}

int main(int argc, char **argv) {
    long count = argument_or(argc, argv, 2, 3000), seed = argument_or(argc, argv, 3, 1), outcomes[3] = {0};
    state = (uint64_t)seed * 0x9e3779b97f4a7c15u + 1;
    snprintf(folder, sizeof folder, "%s/checkpoint.mutated.%d", argc > 1 ? argv[1] : ".", (int)getpid());
    snprintf(again, sizeof again, "%s.again", folder);
    cgrpo_trainer *trainer = tiny_trainer(1, 2);
    if (cgrpo_trainer_save(trainer, folder) != CGRPO_OK) return 2;
    cgrpo_trainer_destroy(trainer);
    original = read_only_file(folder, path, sizeof path, &length);
    mutated = malloc(length + 1000);
    memcpy(mutated, original, mutated_length = length);
    if (load_mutated() != 1) return 2; /* without a mutation */
    for (long i = 0; i < count; i++) {
        do mutate();
        while (mutated_length == length && memcmp(mutated, original, length) == 0);
        int outcome = load_mutated();
        outcomes[outcome]++;
        if (outcome == 2 && outcomes[2] <= 3)
            for (size_t k = 0; k < length && k < mutated_length; k++)
                if (mutated[k] != original[k]) {
                    printf("mutation %ld, byte %zu of %zu: …%.20s… for …%.20s… loads as another state\n", i, k, length,
                           mutated + k, original + k);
                    break;
                }
    }
    remove_folder(folder), remove_folder(again);
    free(original), free(mutated);
    printf("checkpoints: %ld mutated, seed %ld: %ld refused, %ld the same state, %ld accepted as another\n", count,
           seed, outcomes[0], outcomes[1], outcomes[2]);
    return outcomes[2] > 0;
}
