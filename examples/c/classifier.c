#include "classifier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EPOCHS = 40, BATCH = 16 };
static const float learning_rate = 0.05f, momentum = 0.9f, weight_decay = 1e-3f;

double uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* SplitMix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

static void forward(const classifier *c, const float *image, float hidden[HIDDEN], float log_probs[DIGITS]) {
    float most = -INFINITY, sum = 0;
    for (int h = 0; h < HIDDEN; h++) {
        float z = c->b1[h];
        for (int i = 0; i < PIXELS; i++) z += c->w1[h][i] * image[i];
        hidden[h] = z > 0 ? z : 0;
    }
    for (int d = 0; d < DIGITS; d++) {
        log_probs[d] = c->b2[d];
        for (int h = 0; h < HIDDEN; h++) log_probs[d] += c->w2[d][h] * hidden[h];
        most = fmaxf(most, log_probs[d]);
    }
    for (int d = 0; d < DIGITS; d++) sum += expf(log_probs[d] - most);
    for (int d = 0; d < DIGITS; d++) log_probs[d] -= most + logf(sum);
}

void classifier_log_probs(const classifier *c, const float *image, float log_probs[DIGITS]) {
    float hidden[HIDDEN];
    forward(c, image, hidden, log_probs);
}

int classifier_guess(const classifier *c, const float *image) {
    float log_probs[DIGITS];
    int best = 0;
    classifier_log_probs(c, image, log_probs);
    for (int d = 1; d < DIGITS; d++)
        if (log_probs[d] > log_probs[best]) best = d;
    return best;
}

/* Adds the gradient of the cross-entropy of one image to `g`. */
static void backward(const classifier *c, const float *image, int label, classifier *g) {
    float hidden[HIDDEN], log_probs[DIGITS], dh[HIDDEN] = {0};
    forward(c, image, hidden, log_probs);
    for (int d = 0; d < DIGITS; d++) {
        float dz = expf(log_probs[d]) - (d == label);
        g->b2[d] += dz;
        for (int h = 0; h < HIDDEN; h++) g->w2[d][h] += dz * hidden[h], dh[h] += dz * c->w2[d][h];
    }
    for (int h = 0; h < HIDDEN; h++) {
        if (hidden[h] <= 0) continue;
        g->b1[h] += dh[h];
        for (int i = 0; i < PIXELS; i++) g->w1[h][i] += dh[h] * image[i];
    }
}

void classifier_train(classifier *c, const float (*images)[PIXELS], const int *labels, int count, uint64_t seed) {
    enum { WEIGHTS = sizeof(classifier) / sizeof(float) };
    classifier gradient, speed;
    float *w = (float *)c, *g = (float *)&gradient, *v = (float *)&speed;
    int *order = malloc((size_t)count * sizeof *order);
    if (order == NULL) return;
    memset(c, 0, sizeof *c), memset(&speed, 0, sizeof speed);
    for (int h = 0; h < HIDDEN; h++)
        for (int i = 0; i < PIXELS; i++) c->w1[h][i] = (float)((uniform(&seed) * 2 - 1) * sqrt(6.0 / PIXELS));
    for (int d = 0; d < DIGITS; d++)
        for (int h = 0; h < HIDDEN; h++) c->w2[d][h] = (float)((uniform(&seed) * 2 - 1) * sqrt(6.0 / HIDDEN));
    for (int i = 0; i < count; i++) order[i] = i;
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        float rate = learning_rate * (1 - (float)epoch / EPOCHS);
        for (int i = count - 1; i > 0; i--) {
            int j = (int)(uniform(&seed) * (i + 1)), swapped = order[i];
            order[i] = order[j], order[j] = swapped;
        }
        for (int first = 0; first + BATCH <= count; first += BATCH) {
            memset(&gradient, 0, sizeof gradient);
            for (int i = first; i < first + BATCH; i++) backward(c, images[order[i]], labels[order[i]], &gradient);
            for (int i = 0; i < WEIGHTS; i++) {
                v[i] = momentum * v[i] - rate * (g[i] / BATCH + weight_decay * w[i]);
                w[i] += v[i];
            }
        }
    }
    free(order);
}
