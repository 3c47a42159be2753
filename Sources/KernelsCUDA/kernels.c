#include "arguments.h"

#include <string.h>

#pragma clang diagnostic ignored "-Wc23-extensions" /* #embed */

/* scripts/build-ptx writes these files and says what is in them. */
static const uint8_t f32_f32[] = {
#embed "ptx/f32_f32.lz4"
};
static const uint8_t f64_f64[] = {
#embed "ptx/f64_f64.lz4"
};
static const uint8_t bf16_bf16[] = {
#embed "ptx/bf16_bf16.lz4"
};
static const uint8_t f16_f16[] = {
#embed "ptx/f16_f16.lz4"
};
static const uint8_t f32_bf16[] = {
#embed "ptx/f32_bf16.lz4"
};
static const uint8_t f32_f16[] = {
#embed "ptx/f32_f16.lz4"
};

static const struct {
    const char *latents, *velocity;
    const uint8_t *packed;
    size_t size;
} texts[] = {
    {"f32", "f32", f32_f32, sizeof f32_f32},       {"f64", "f64", f64_f64, sizeof f64_f64},
    {"bf16", "bf16", bf16_bf16, sizeof bf16_bf16}, {"f16", "f16", f16_f16, sizeof f16_f16},
    {"f32", "bf16", f32_bf16, sizeof f32_bf16},    {"f32", "f16", f32_f16, sizeof f32_f16},
};

bool chunkgrpo_cuda_text(const char *latents, const char *velocity, struct chunkgrpo_cuda_Text *text) {
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strcmp(latents, texts[i].latents) || strcmp(velocity, texts[i].velocity)) continue;
        const uint8_t *packed = texts[i].packed;
        text->packed = packed + 4;
        text->packed_size = texts[i].size - 4;
        text->size = packed[0] | (size_t)packed[1] << 8 | (size_t)packed[2] << 16 | (size_t)packed[3] << 24;
        return true;
    }
    return false;
}

/* A length of 15 goes on in the bytes that follow. False where the input is at its end. */
static bool read_length(const uint8_t **from, const uint8_t *end, size_t *length) {
    if (*length < 15) return true;
    while (*from < end) {
        const uint8_t more = *(*from)++;
        *length += more;
        if (more < 255) return true;
    }
    return false;
}

/* A block of LZ4: literals, then a match further back, and so on; at the end literals alone. */
bool chunkgrpo_cuda_unpack(const struct chunkgrpo_cuda_Text *text, char *to) {
    const uint8_t *from = text->packed, *const end = from + text->packed_size;
    size_t done = 0;
    while (from < end) {
        const uint8_t code = *from++;
        size_t literals = code >> 4, match = code & 15;
        if (!read_length(&from, end, &literals)) return false;
        if (literals > (size_t)(end - from) || literals > text->size - done) return false;
        memcpy(to + done, from, literals);
        done += literals;
        from += literals;
        if (from == end) break;
        if (end - from < 2) return false;
        const size_t distance = from[0] | (size_t)from[1] << 8;
        from += 2;
        if (!read_length(&from, end, &match)) return false;
        match += 4;
        if (distance == 0 || distance > done || match > text->size - done) return false;
        for (; match > 0; match--, done++) to[done] = to[done - distance];
    }
    to[done] = 0;
    return done == text->size;
}
