/* A small digit classifier, 64-64-10: the reward, and the judge, of digits.c. Nothing here is about chunkgrpo. */
#ifndef CLASSIFIER_H
#define CLASSIFIER_H

#include <stdint.h>

enum { PIXELS = 64, HIDDEN = 64, DIGITS = 10 };

typedef struct classifier {
    float w1[HIDDEN][PIXELS], b1[HIDDEN], w2[DIGITS][HIDDEN], b2[DIGITS];
} classifier;

/* Images are PIXELS numbers in [-1, 1]. */
void classifier_train(classifier *c, const float (*images)[PIXELS], const int *labels, int count, uint64_t seed);
void classifier_log_probs(const classifier *c, const float *image, float log_probs[DIGITS]);
int classifier_guess(const classifier *c, const float *image);

/* Uniform in [0, 1), for shuffling and the like. */
double uniform(uint64_t *state);

#endif
