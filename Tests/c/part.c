/* Shards of samples and samples of unequal length: against the whole, and against samples one by one. */
#include "arrays.h"

enum { B = 2, D = 20000, T = 5, K = 1, BLOCKS = (D + 1023) / 1024, MAX_SUMS = 11 * B * BLOCKS };

static const cgrpo_type types[] = {CGRPO_TYPE_F64, CGRPO_TYPE_F32, CGRPO_TYPE_BF16, CGRPO_TYPE_F16};
static cgrpo_sampler *sampler;
static array *x, *v, *next;
static double whole_log_prob[B], whole_change[B];

static cgrpo_noise noise_of(uint64_t seed) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = seed;
    return noise;
}

static cgrpo_part part_of(int64_t first, int64_t total) {
    cgrpo_part part;
    cgrpo_part_init(&part, sizeof part);
    part.first_element = first, part.total_elements = total;
    return part;
}

/* Elements of each row, in place. */
static array shard(const array *from, int64_t first, int64_t end, const cgrpo_part *part) {
    array a = *from;
    a.shape[1] = end - first;
    a.tensor.data = (char *)from->tensor.data + first * element_size(from->tensor.type);
    a.tensor.part = part;
    return a;
}

/* The pointers of a tensor that lies where it is now. */
static const cgrpo_tensor *of(array *a) {
    a->strides[0] = D, a->strides[1] = 1;
    a->tensor.shape = a->shape, a->tensor.strides = a->strides;
    return &a->tensor;
}

static void fresh(cgrpo_type type) {
    cgrpo_noise noise = noise_of(7);
    cgrpo_sampler_destroy(sampler);
    sampler = sampler_new(T, CGRPO_DYNAMICS_FLOW_SDE, 0.7, 1);
    x = array_filled(type, B, D, 0, 1), v = array_filled(type, B, D, 0, 2), next = array_new(type, B, D, 0);
    CHECK_OK(cgrpo_step(sampler, K, &x->tensor, &v->tensor, NULL, &noise, &next->tensor, whole_log_prob, whole_change));
}

/* As ranks do it: sums of each shard, their sum over all, then the numbers. */
static void shards_step_as_the_whole_does(void) {
    static const int64_t cuts[][4] = {{0, 1024, 16384, D}, {0, 17408, 18432, D}};
    for (int i = 0; i < 4; i++) {
        fresh(types[i]);
        cgrpo_noise noise = noise_of(7);
        for (int j = 0; j < 2; j++) {
            static double sums[MAX_SUMS], total[MAX_SUMS];
            double log_prob[B], change[B];
            array *out = array_new(types[i], B, D, 0);
            memset(total, 0, sizeof total);
            for (int rank = 0; rank < 3; rank++) {
                cgrpo_part part = part_of(cuts[j][rank], D);
                part.sums = sums;
                array a = shard(x, cuts[j][rank], cuts[j][rank + 1], &part);
                array b = shard(v, cuts[j][rank], cuts[j][rank + 1], &part);
                array c = shard(out, cuts[j][rank], cuts[j][rank + 1], &part);
                CHECK_OK(cgrpo_step(sampler, K, of(&a), of(&b), NULL, &noise, of(&c), NULL, NULL));
                for (int k = 0; k < 3 * B * BLOCKS; k++) total[k] += sums[k];
            }
            CHECK(same_bits(out, next));
            cgrpo_part part = part_of(0, D);
            part.sums = total, part.reduced = 1;
            array a = shard(x, 0, 1024, &part), b = shard(v, 0, 1024, &part), c = shard(out, 0, 1024, &part);
            CHECK_OK(cgrpo_step(sampler, K, of(&a), of(&b), NULL, &noise, of(&c), log_prob, change));
            CHECK_SAME_BITS(log_prob, whole_log_prob, sizeof log_prob);
            CHECK_SAME_BITS(change, whole_change, sizeof change);
            CHECK(same_bits(out, next)); /* the second call writes no tensor */
            array_free(out);
        }
    }
}

static void normals_of_a_shard_are_those_of_its_elements(void) {
    for (int i = 0; i < 4; i++) {
        array *all = array_new(types[i], B, D, 0), *cut = array_new(types[i], B, D, 0);
        CHECK_OK(cgrpo_normal(3, NULL, 2, 1, &all->tensor));
        for (int64_t first = 0; first < D; first += 4999) {
            cgrpo_part part = part_of(first, D);
            array a = shard(cut, first, first + 4999 < D ? first + 4999 : D, &part);
            CHECK_OK(cgrpo_normal(3, NULL, 2, 1, of(&a)));
        }
        CHECK(same_bits(all, cut));
        array_free(all), array_free(cut);
    }
}

static void samples_of_unequal_length_are_those_alone(void) {
    static const int64_t lengths[B] = {1500, 9999};
    for (int i = 0; i < 4; i++) {
        fresh(types[i]);
        cgrpo_noise noise = noise_of(7);
        cgrpo_part part = part_of(0, 0);
        part.lengths = lengths;
        double log_prob[B], change[B], again[B], grad[B] = {2, -3};
        array *out = array_new(types[i], B, D, 0), *gradient = array_filled(types[i], B, D, 0, 9);
        array a = shard(x, 0, D, &part), b = shard(v, 0, D, &part), c = shard(out, 0, D, &part),
              g = shard(gradient, 0, D, &part);
        for (int s = 0; s < B; s++)
            for (int64_t e = lengths[s]; e < D; e++) set(v, s * D + e, 60000);
        CHECK_OK(cgrpo_step(sampler, K, of(&a), of(&b), NULL, &noise, of(&c), log_prob, change));
        CHECK_OK(cgrpo_log_prob_vjp(sampler, K, of(&a), of(&b), NULL, of(&c), grad, of(&g), NULL, again));
        CHECK_SAME_BITS(log_prob, again, sizeof again);
        for (int s = 0; s < B; s++) {
            uint64_t id = (uint64_t)s;
            double alone, moved;
            noise.sample_ids = &id;
            array one = shard(x, 0, lengths[s], NULL), two = shard(v, 0, lengths[s], NULL);
            one.shape[0] = two.shape[0] = 1;
            one.tensor.data = (char *)x->tensor.data + s * D * element_size(types[i]);
            two.tensor.data = (char *)v->tensor.data + s * D * element_size(types[i]);
            array *to = array_new(types[i], 1, lengths[s], 0);
            CHECK_OK(cgrpo_step(sampler, K, of(&one), of(&two), NULL, &noise, &to->tensor, &alone, &moved));
            CHECK(alone == log_prob[s] && moved == change[s]);
            for (int64_t e = 0; e < D; e++)
                if (get(out, s * D + e) != (e < lengths[s] ? get(to, e) : get(x, s * D + e)) ||
                    (e >= lengths[s] && get(gradient, s * D + e) != 0))
                    CHECK(!"an element differs"), e = D;
            array_free(to);
        }
        array_free(out), array_free(gradient);
    }
}

static void a_wrong_part_is_refused(void) {
    static double sums[MAX_SUMS];
    static const int64_t none[B] = {1, 0}, many[B] = {1, 1001};
    cgrpo_noise noise = noise_of(7);
    double log_prob[B];
    cgrpo_part part, other = part_of(0, D + 1);
    fresh(CGRPO_TYPE_F32);
    array a = shard(x, 0, 1000, &part), b = shard(v, 0, 1000, &part), c = shard(next, 0, 1000, &part);
#define EXPECT(change, numbers, words)                                                                                 \
    part = part_of(0, D);                                                                                              \
    change;                                                                                                            \
    CHECK_REFUSED(cgrpo_step(sampler, K, of(&a), of(&b), NULL, &noise, of(&c), numbers, NULL), CGRPO_INVALID_ARGUMENT, \
                  words)
    EXPECT(part.struct_size = 8, NULL, "struct_size");
    EXPECT(part.first_element = -1, NULL, "first_element");
    EXPECT(part.first_element = INT64_MAX, NULL, "first_element");
    EXPECT(part.total_elements = 999, NULL, "total_elements");
    EXPECT(part.total_elements = INT64_MIN, NULL, "total_elements");
    EXPECT(part.first_element = D - 999, NULL, "first_element");
    EXPECT(part.lengths = none, NULL, "lengths[1] = 0");
    EXPECT((part.lengths = many, part.total_elements = 1000), NULL, "lengths[1] = 1001");
    EXPECT(part.reduced = 2, NULL, "reduced");
    EXPECT(part.reduced = 1, NULL, "sums");
    EXPECT(part.reserved = 1, NULL, "reserved");
    EXPECT((void)0, log_prob, "part.sums");
    EXPECT(part.sums = sums, log_prob, "part.reduced");
    EXPECT(b.tensor.part = NULL, NULL, "same part");
    EXPECT(b.tensor.part = &other, NULL, "the same part"), b.tensor.part = &part;
#undef EXPECT
    part = part_of(0, D), part.sums = sums, part.reduced = 1;
    double grad[B] = {1, 1};
    CHECK_REFUSED(cgrpo_log_prob_vjp(sampler, K, of(&a), of(&b), NULL, of(&c), grad, of(&a), NULL, NULL),
                  CGRPO_INVALID_ARGUMENT, "reduced");
    CHECK_REFUSED(cgrpo_predicted_image(sampler, K, of(&a), of(&b), NULL, of(&c)), CGRPO_INVALID_ARGUMENT, "reduced");
    CHECK_REFUSED(cgrpo_normal(1, NULL, 0, 1, of(&a)), CGRPO_INVALID_ARGUMENT, "reduced");
    CHECK_REFUSED(cgrpo_norm_hinge(of(&a), of(&b), 1, log_prob, NULL, NULL, NULL), CGRPO_INVALID_ARGUMENT, "part");
    CHECK_REFUSED(cgrpo_diversity(of(&a), 0, 1, log_prob), CGRPO_INVALID_ARGUMENT, "part");
}

int main(void) {
    RUN(shards_step_as_the_whole_does);
    RUN(normals_of_a_shard_are_those_of_its_elements);
    RUN(samples_of_unequal_length_are_those_alone);
    RUN(a_wrong_part_is_refused);
    return finish("part");
}
