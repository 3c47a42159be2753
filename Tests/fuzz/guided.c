/*
 * The calls of fuzz.c, chosen by libFuzzer, which looks for inputs that reach new code. An input whose first byte is 0
 * is a checkpoint file instead, and is loaded. `make fuzz-guided` builds it, with a library that counts its edges.
 */
#define main fuzz_main
#include "fuzz.c"
#undef main

#include <sys/stat.h>

static char folder[] = "/tmp/chunkgrpo-guided.XXXXXX", file[100];

static void start(void) {
    memory_prepare();
    for (int i = 0; i < SAMPLERS; i++)
        samplers[i].handle = sampler_new(samplers[i].steps = 3 + i, 1 + i, 0.7, most_threads);
    for (int i = 0; i < HISTORIES; i++) CHECK_OK(cgrpo_history_create(8, 2, &histories[i]));
    if (mkdtemp(folder) == NULL) abort();
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
}

static void load(const uint8_t *data, size_t size) {
    cgrpo_trainer *loaded = NULL;
    FILE *stream = fopen(file, "wb");
    if (stream == NULL || fwrite(data, 1, size, stream) != size || fclose(stream) != 0) abort();
    if (cgrpo_trainer_load(folder, &loaded) == CGRPO_OK) cgrpo_trainer_destroy(loaded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (slots == NULL) start();
    if (size > 0 && data[0] == 0) return load(data + 1, size - 1), 0;
    random_state = 0x9e3779b97f4a7c15u;
    chosen = data, chosen_left = size;
    for (int calls = 0; chosen_left > 0 && calls < 8; calls++) one_call();
    chosen_left = 0;
    return 0;
}
