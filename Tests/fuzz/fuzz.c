/*
 * Random calls of every function, with right and wrong arguments, on buffers between guard pages. None may crash, hang,
 * write beside its buffers or into an input, or change a handle when it fails.
 *
 *     fuzz [--seed N] [--calls M] [--seconds S] [--threads T] [--digests FILE] [--no-trainer] [--show CALL]
 *
 * The same seed makes the same calls. --digests writes 8 bytes for each call: its status, its message, and what it
 * wrote. Two runs with other instruction sets or numbers of threads must write the same file.
 */
// long: a draw of arguments for each function
#include "memory.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <time.h>

enum { SAMPLERS = 4, HISTORIES = 2 };
static struct made {
    cgrpo_sampler *handle;
    int64_t steps;
} samplers[SAMPLERS];
static cgrpo_history *histories[HISTORIES];
static cgrpo_trainer *trainer;
static int64_t position_before;
static int32_t most_threads = 1;
static int with_trainer = 1;
static const char *doing = "starting";
static uint64_t seed = 1, call_seed, digest;

/* ---- Arguments ---------------------------------------------------------------------------------------------- */

static int wrongness; /* this call has a wrong argument, where it comes to one */
static int wrong(void) { return wrongness && one_in(5); }
static void *maybe_null(void *pointer) { return wrong() ? NULL : pointer; }
/* A count that is right, or one that no buffer can be behind. */
static int64_t count_of(int64_t right) {
    static const int64_t none[] = {0, -1, INT64_MIN, -7, -(1LL << 40)};
    return wrong() ? none[below(5)] : right;
}
static int32_t choice(int32_t count) {
    static const int32_t none[] = {0, -1, 99, INT32_MAX, INT32_MIN};
    return wrong() ? none[below(5)] : 1 + (int32_t)below(count);
}
static double real(double right) {
    static const double edges[] = {0, -1, 2, 1e308, -1e308, 5e-324, 1e-9};
    return !wrong() ? right : one_in(3) ? (double)NAN : one_in(3) ? (double)INFINITY : edges[below(7)];
}
static int64_t whole(int64_t right) {
    static const int64_t edges[] = {0, -1, INT64_MAX, INT64_MIN, 1 << 20, 2, 1000001};
    return wrong() ? edges[below(7)] : right;
}
static int32_t threads(void) { return wrong() ? (int32_t)(below(3) - 300) : most_threads; }
#define OPTIONS(type, name)                  \
    cgrpo_##type name;                       \
    cgrpo_##type##_init(&name, sizeof name); \
    if (wrong()) name.struct_size = (size_t)below((int64_t)sizeof name + 40) % (sizeof name + 1)

typedef struct drawn {
    cgrpo_tensor tensor;
    int64_t shape[4], strides[4];
    size_t bytes;
} drawn;
static cgrpo_type kind, velocity_kind; /* of this call's tensors */
static cgrpo_part part;                /* the same */
static size_t sums_size;
static enum { WHOLE, UNMADE, MADE } has_part;

/* Any part of larger samples, with lengths and sums or without. No call has more sums of a block than 64. */
static void make_part(int64_t batch, int64_t elements) {
    OPTIONS(part, made);
    made.first_element = whole(one_in(2) ? 0 : below(3000));
    made.total_elements = one_in(3) && made.first_element == 0 ? 0 : whole(made.first_element + elements + below(3000));
    int64_t total = made.total_elements == 0 ? elements : made.total_elements;
    int is_small = total > 0 && total < 10000; /* or a wrong number, with no memory behind it */
    if (is_small && one_in(2)) {
        int64_t *lengths = take((size_t)batch * 8);
        for (int64_t i = 0; i < batch; i++) lengths[i] = 1 + below(total);
        if (wrong()) lengths[below(batch)] = total + below(3) - 1;
        input(lengths);
        made.lengths = lengths;
    }
    if (is_small && one_in(2)) {
        int64_t count = 64 * batch * ((total + 1023) / 1024);
        made.sums = output(count), made.reduced = one_in(3), sums_size = (size_t)count * 8;
        for (int64_t i = 0; i < count; i++) made.sums[i] = number(bad_numbers);
    }
    if (wrong()) made.reduced = (int32_t)below(4) - 1;
    part = made, has_part = MADE;
}

/* A tensor of (batch, steps, elements), or without steps, maybe with a stride, maybe in two axes. */
static void tensor(drawn *t, int64_t batch, int64_t steps, int64_t elements, int is_input) {
    int64_t gap = one_in(3) ? below(4) : 0, row = elements * (steps > 0 ? steps : 1) + gap, size = element_size(kind);
    memset(t, 0, sizeof *t);
    if (has_part == UNMADE) make_part(batch, elements);
    t->tensor.part = has_part == WHOLE || wrong() ? NULL : &part;
    int n = 0;
    t->shape[n] = batch, t->strides[n++] = row;
    if (steps > 0) t->shape[n] = steps, t->strides[n++] = elements;
    if (elements % 2 == 0 && one_in(2)) t->shape[n] = elements / 2, t->strides[n++] = 2, elements = 2;
    t->shape[n] = elements, t->strides[n++] = 1;
    t->bytes = (size_t)((batch * row - gap) * size);
    array filled;
    t->tensor.data = filled.tensor.data = take(t->bytes);
    t->tensor.type = filled.tensor.type = kind;
    t->tensor.ndim = n, t->tensor.shape = t->shape, t->tensor.strides = gap > 0 || one_in(3) ? t->strides : NULL;
    memset(t->tensor.data, 0, t->bytes);
    if (is_input)
        for (int64_t i = 0; i < (int64_t)t->bytes / size; i++) set(&filled, i, number(bad_numbers));
    if (is_input) input(t->tensor.data);
    if (!wrong()) return;
    switch (below(8)) { /* nothing that claims more memory than there is */
        case 0: t->tensor.data = NULL; break;
        case 1: t->tensor.shape = NULL; break;
        case 2: t->tensor.ndim = (int32_t)below(3) - 1; break;
        case 3: t->tensor.type = choice(9) * 7; break;
        case 4: t->tensor.device = 1 + (int32_t)below(9); break;
        case 5: t->tensor.reserved = 3; break;
        case 6: t->shape[below(n)] = count_of(0) < 0 ? -1 : 0; break;
        default: t->shape[0] = 1; break;
    }
}

/* The same for velocities and their gradients, which may have 16 bits beside f32 latents. */
static void velocity_tensor(drawn *t, int64_t batch, int64_t steps, int64_t elements, int is_input) {
    cgrpo_type of_latents = kind;
    kind = one_in(50) ? kind : velocity_kind;
    tensor(t, batch, steps, elements, is_input);
    kind = of_latents;
}

static uint64_t *sample_ids(int64_t batch) { return one_in(2) ? NULL : (uint64_t *)integers(batch, 1000); }

typedef struct drawn_noise {
    cgrpo_noise noise;
    drawn given;
} drawn_noise;

static const cgrpo_noise *noise_of(drawn_noise *n, int64_t batch, int64_t steps, int64_t elements) {
    OPTIONS(noise, noise);
    n->noise = noise;
    n->noise.seed = bits(), n->noise.sample_ids = sample_ids(batch);
    if (one_in(4)) tensor(&n->given, batch, steps, elements, 1), n->noise.given = &n->given.tensor;
    return maybe_null(&n->noise);
}

/* A step for each sample, of so many; or null. */
static int64_t *own_steps(int64_t batch, int64_t steps) {
    if (!one_in(3)) return NULL;
    int64_t *own = take((size_t)batch * 8);
    for (int64_t i = 0; i < batch; i++) own[i] = below(steps);
    if (wrong()) own[below(batch)] = whole(steps);
    input(own);
    return own;
}

static struct made *a_sampler(void) { return &samplers[below(SAMPLERS)]; }

/* Chunk sizes that sum to `steps`; their number. */
static int64_t plan(int64_t **sizes, int64_t steps) {
    int64_t values[40], count = 0;
    for (int64_t left = steps; left > 0; left -= values[count++]) values[count] = 1 + below(left < 4 ? left : 4);
    if (wrong()) values[below(count)] = whole(3);
    *sizes = take((size_t)count * 8);
    memcpy(*sizes, values, (size_t)count * 8);
    input(*sizes);
    return count;
}

/* ---- Results ------------------------------------------------------------------------------------------------ */

static cgrpo_status status;
static void add(const void *data, size_t size) { digest = digest * 31 + digest_of(data, size); }

/* Sums of a part may be NaN: the call that reads them says which sample is not finite. A NaN's sign is the processor's.
 */
static void add_sums(void) {
    for (size_t i = 0; i < sums_size / 8; i++) {
        double sum = part.sums[i] == part.sums[i] ? part.sums[i] : 0;
        add(&sum, sizeof sum);
    }
}

/* After a call: its status, and its message or its results. */
static int done(cgrpo_status result) {
    status = result;
    add(&result, sizeof result);
    if (result != CGRPO_OK) add(cgrpo_last_error(), strlen(cgrpo_last_error()));
    if (result < 0 || result > CGRPO_DEVICE_FAILED) doing = "a status that does not exist", abort();
    if (result == CGRPO_OK && has_part == MADE && part.sums != NULL) add_sums();
    return result == CGRPO_OK;
}
static void wrote_numbers(const double *values, int64_t count) {
    if (values != NULL) add(values, (size_t)count * 8);
}
static void wrote(const drawn *t) { add(t->tensor.data, t->bytes); }
/* An output, which is null now and then. */
static double *maybe(double *out) { return one_in(3) ? NULL : out; }
#define CALL(call) (doing = #call, done(call))

/* ---- Schedules, samplers ------------------------------------------------------------------------------------- */

static void schedule_make(void) {
    int64_t steps = 1 + below(30);
    OPTIONS(schedule_options, o);
    o.base = choice(2), o.shift_kind = choice(3), o.spacing = choice(4);
    o.shift = real(0.1 + 5 * unit()), o.mu = real(unit() + 0.01), o.terminal = real(one_in(2) ? 0 : unit());
    double *out = output(steps + 1);
    if (CALL(cgrpo_schedule_make(count_of(steps), one_in(4) ? NULL : &o, maybe_null(out))))
        wrote_numbers(out, steps + 1);
}

static void schedule_flash(void) {
    int64_t steps = 2 + below(30), capacity = whole(steps + 1), *count = (int64_t *)output(1);
    if (capacity > steps + 1) capacity = steps + 1;
    double *out = output(steps + 1);
    if (CALL(cgrpo_schedule_flash(count_of(steps), real(3 * unit()), whole(1 + below(steps)), real(unit()),
                                  maybe_null(out), capacity, maybe_null(count))))
        wrote_numbers(out, *count);
}

static void falling(double *sigmas, int64_t count) {
    sigmas[0] = one_in(3) ? 0.9 + 0.1 * unit() : 1;
    for (int64_t i = 1; i < count; i++) sigmas[i] = sigmas[i - 1] * (0.2 + 0.79 * unit());
    if (one_in(2)) sigmas[count - 1] = 0;
    if (wrong()) sigmas[below(count)] = real(unit());
}

static void timesteps(void) {
    int64_t count = 2 + below(20);
    double *sigmas = output(count), *out = output(count);
    falling(sigmas, count);
    if (CALL(cgrpo_timesteps(maybe_null(sigmas), count_of(count), real(1000), (int32_t)below(2), maybe_null(out))))
        wrote_numbers(out, count - 1);
}

static void flux_mu(void) {
    double *out = output(1);
    if (CALL(cgrpo_flux_mu(real(1e6 * unit()), real(0.5), real(1.15), maybe_null(out)))) wrote_numbers(out, 1);
}

static void sampler_create(void) {
    struct made *to = a_sampler();
    int64_t steps = 1 + below(12);
    double *sigmas = output(steps + 1);
    cgrpo_sampler *made = NULL;
    OPTIONS(sampler_options, o);
    falling(sigmas, steps + 1);
    o.dynamics = choice(7), o.log_prob_form = choice(2), o.last_step = choice(2), o.threads = threads();
    o.eta = real(unit()), o.wan_sigma_min = real(unit() / 2), o.dpm_order = choice(2);
    if (one_in(4)) o.etas = positive_numbers(steps);
    if (one_in(4) && steps > 2) {
        int64_t *window = (int64_t *)output(2);
        window[0] = below(steps - 1), window[1] = whole(window[0] + 1);
        o.window = window, o.window_count = count_of(2), o.outside = one_in(2) ? 4 : 6;
    }
    if (!CALL(cgrpo_sampler_create(maybe_null(sigmas), count_of(steps + 1), one_in(5) ? NULL : &o, maybe_null(&made))))
        return;
    cgrpo_sampler_destroy(to->handle);
    to->handle = made, to->steps = steps;
}

static void sampler_info(void) {
    const double *sigmas = NULL;
    int64_t count = 0;
    struct made *s = a_sampler();
    cgrpo_sampler_options o;
    o.struct_size = sizeof o;
    if (CALL(cgrpo_sampler_info(maybe_null(s->handle), one_in(3) ? NULL : &o, &sigmas, &count)))
        wrote_numbers(sigmas, count);
}

static void sampler_coefficients(void) {
    struct made *s = a_sampler();
    double *out = output(4);
    out[3] = 0;
    if (CALL(cgrpo_sampler_coefficients(maybe_null(s->handle), whole(below(s->steps)), maybe_null(out), out + 1,
                                        out + 2, one_in(2) ? NULL : out + 3)))
        wrote_numbers(out, 4);
}

/* ---- Steps --------------------------------------------------------------------------------------------------- */

/* What the functions of one step take. */
static struct one_step {
    struct made *sampler;
    int64_t batch, elements, step, *steps;
    drawn x, v, other, image, next;
    cgrpo_step_extras extras;
} d;

static void draw_step(int next_is_input) {
    d.sampler = a_sampler();
    d.batch = 1 + below(4), d.elements = 1 + below(one_in(8) ? 300 : 40), d.step = whole(below(d.sampler->steps));
    tensor(&d.x, d.batch, 0, d.elements, 1), velocity_tensor(&d.v, d.batch, 0, d.elements, 1);
    OPTIONS(step_extras, extras);
    d.extras = extras;
    if (one_in(3)) {
        velocity_tensor(&d.other, d.batch, 0, d.elements, 1);
        d.extras.unconditional = &d.other.tensor, d.extras.guidance = real(4 * unit());
        if (one_in(3)) d.extras.guidances = numbers(d.batch), d.extras.guidance = 1;
    }
    d.extras.steps = d.steps = own_steps(d.batch, d.sampler->steps);
    if (d.steps != NULL && !wrong()) d.step = 0;
    if (!one_in(3)) tensor(&d.image, d.batch, 0, d.elements, 1), d.extras.previous_image = &d.image.tensor;
    tensor(&d.next, d.batch, 0, d.elements, next_is_input);
}
static const cgrpo_step_extras *extras(void) { return one_in(3) ? NULL : &d.extras; }

static void normal(void) {
    int64_t batch = 1 + below(4);
    drawn out;
    tensor(&out, batch, 0, 1 + below(200), 0);
    if (CALL(cgrpo_normal(bits(), sample_ids(batch), whole(below(20) - 1), threads(), &out.tensor))) wrote(&out);
}

static void cuda(void) {
    size_t bytes = 0;
    if (CALL(cgrpo_cuda_workspace(count_of(below(1000)), count_of(below(1000)), count_of(below(1000)), &bytes)) &&
        bytes < 48)
        doing = "a workspace without room", abort();
    CALL(cgrpo_cuda_status(bits()));
    CALL(cgrpo_cuda_prepare(-1 - (int32_t)below(3)));
}

static void step(void) {
    drawn_noise noise;
    draw_step(0);
    const cgrpo_noise *of = noise_of(&noise, d.batch, 0, d.elements);
    double *log_prob = maybe(output(d.batch)), *change = maybe(output(d.batch));
    if (!CALL(cgrpo_step(maybe_null(d.sampler->handle), d.step, &d.x.tensor, &d.v.tensor, extras(), of, &d.next.tensor,
                         log_prob, change)))
        return;
    wrote(&d.next), wrote_numbers(log_prob, d.batch), wrote_numbers(change, d.batch);
}

static void log_prob(void) {
    draw_step(1);
    double *out = output(d.batch);
    if (CALL(cgrpo_log_prob(d.sampler->handle, d.step, &d.x.tensor, &d.v.tensor, extras(), &d.next.tensor,
                            has_part && one_in(2) ? NULL : maybe_null(out))))
        wrote_numbers(out, d.batch);
}

static void log_prob_vjp(void) {
    drawn left, right;
    draw_step(1);
    velocity_tensor(&left, d.batch, 0, d.elements, 0), velocity_tensor(&right, d.batch, 0, d.elements, 0);
    const double *upstream = numbers(d.batch);
    double *out = maybe(output(d.batch));
    const cgrpo_step_extras *with = extras();
    int both = with != NULL && with->unconditional != NULL && one_in(2);
    if (!CALL(cgrpo_log_prob_vjp(d.sampler->handle, d.step, &d.x.tensor, &d.v.tensor, with, &d.next.tensor,
                                 maybe_null((void *)upstream), &left.tensor, both ? &right.tensor : NULL, out)))
        return;
    wrote(&left), wrote_numbers(out, d.batch);
    if (both) wrote(&right);
}

static void residual(void) {
    drawn kept, left, right;
    draw_step(1);
    velocity_tensor(&kept, d.batch, 0, d.elements, 0);
    double *out = output(d.batch);
    if (CALL(cgrpo_log_prob_residual(d.sampler->handle, d.step, &d.x.tensor, &d.v.tensor, extras(), &d.next.tensor,
                                     &kept.tensor, has_part && one_in(2) ? NULL : maybe_null(out))))
        wrote(&kept), wrote_numbers(out, d.batch);
    velocity_tensor(&left, d.batch, 0, d.elements, 0), velocity_tensor(&right, d.batch, 0, d.elements, 0);
    const double *upstream = numbers(d.batch);
    int both = one_in(2);
    if (!CALL(cgrpo_residual_vjp(d.sampler->handle, d.step, &d.v.tensor, extras(), maybe_null((void *)upstream),
                                 &left.tensor, both ? &right.tensor : NULL)))
        return;
    wrote(&left);
    if (both) wrote(&right);
}

static void predicted_image(void) {
    draw_step(0);
    if (CALL(cgrpo_predicted_image(d.sampler->handle, d.step, &d.x.tensor, &d.v.tensor, extras(), &d.next.tensor)))
        wrote(&d.next);
}

static void divergence(void) {
    drawn gradient, other;
    drawn_noise noise;
    draw_step(1);
    velocity_tensor(&gradient, d.batch, 0, d.elements, 0), velocity_tensor(&other, d.batch, 0, d.elements, 1);
    double *out = maybe(output(d.batch)), *upstream = one_in(2) ? NULL : numbers(d.batch);
    const cgrpo_tensor *to = upstream != NULL || wrong() ? &gradient.tensor : NULL;
    int right = one_in(2)
                    ? CALL(cgrpo_divergence_from_velocity(d.sampler->handle, d.step, d.steps, choice(4), &d.v.tensor,
                                                          &other.tensor, out, upstream, to))
                    : CALL(cgrpo_divergence_from_sampled(d.sampler->handle, d.step, d.steps, choice(4), &d.x.tensor,
                                                         &d.v.tensor, noise_of(&noise, d.batch, 0, d.elements),
                                                         &d.next.tensor, out, upstream, to));
    if (!right) return;
    wrote_numbers(out, d.batch);
    if (to != NULL) wrote(&gradient);
}

static double *times_of(int64_t count) {
    double *times = take((size_t)count * 8);
    for (int64_t i = 0; i < count; i++) times[i] = real(1 - unit() / 2);
    input(times);
    return times;
}

static void forward(void) {
    int64_t batch = 1 + below(4), elements = 1 + below(one_in(8) ? 300 : 40), draw = whole(below(100));
    drawn clean, v, old, reference, out;
    drawn_noise noise;
    tensor(&clean, batch, 0, elements, 1), velocity_tensor(&v, batch, 0, elements, 1);
    const cgrpo_noise *of = noise_of(&noise, batch, 0, elements);
    if (one_in(4)) {
        double *times = maybe_null(times_of(batch));
        tensor(&out, batch, 0, elements, 0);
        if (CALL(cgrpo_forward_noised(&clean.tensor, times, of, draw, threads(), &out.tensor))) wrote(&out);
        return;
    }
    OPTIONS(forward_extras, o);
    velocity_tensor(&out, batch, 0, elements, 0);
    double *results[11];
    for (int i = 0; i < 11; i++) results[i] = maybe(output(batch));
    o.absolute = results[0];
    if (one_in(2)) {
        velocity_tensor(&old, batch, 0, elements, 1), o.old_velocity = &old.tensor;
        o.old_distance = results[1], o.old_absolute = results[2], o.old_divergence = results[3];
        if (one_in(2)) o.grad_old_divergence = numbers(batch);
    }
    if (o.old_velocity != NULL && one_in(2)) {
        o.nft_beta = real(2 * unit() + 0.01), o.positive_distance = results[4], o.positive_absolute = results[5];
        o.negative_distance = results[6], o.negative_absolute = results[7];
        if (one_in(2)) o.grad_positive_distance = numbers(batch), o.grad_negative_distance = numbers(batch);
    }
    if (one_in(2)) {
        velocity_tensor(&reference, batch, 0, elements, 1), o.reference_velocity = &reference.tensor;
        o.reference_distance = results[8], o.reference_divergence = results[9];
        if (one_in(2)) o.grad_reference_divergence = numbers(batch);
    }
    const double *upstream = one_in(2) ? NULL : numbers(batch);
    int writes = upstream != NULL || o.grad_old_divergence != NULL || o.grad_positive_distance != NULL ||
                 o.grad_reference_divergence != NULL || wrong();
    if (!CALL(cgrpo_forward_distance(&clean.tensor, &v.tensor, of, draw, threads(), &o, results[10], upstream,
                                     writes ? &out.tensor : NULL)))
        return;
    const double *given[] = {o.absolute,           o.old_distance,         o.old_absolute,      o.old_divergence,
                             o.positive_distance,  o.positive_absolute,    o.negative_distance, o.negative_absolute,
                             o.reference_distance, o.reference_divergence, results[10]};
    for (int i = 0; i < 11; i++) wrote_numbers(given[i], batch);
    if (writes) wrote(&out);
}

static void norm_hinge(void) {
    draw_step(1);
    drawn out;
    velocity_tensor(&out, d.batch, 0, d.elements, 0), velocity_tensor(&d.next, d.batch, 0, d.elements, 1);
    double *ratios = maybe(output(d.batch)), *hinges = maybe(output(d.batch)), *upstream = numbers(d.batch);
    int with_gradient = one_in(2);
    if (!CALL(cgrpo_norm_hinge(maybe_null(&d.v.tensor), maybe_null(&d.next.tensor), threads(), ratios, hinges,
                               with_gradient ? upstream : NULL, with_gradient ? maybe_null(&out.tensor) : NULL)))
        return;
    wrote_numbers(ratios, d.batch), wrote_numbers(hinges, d.batch);
    if (with_gradient) wrote(&out);
}

static void window_steps(void) {
    int64_t *out = (int64_t *)output(12), *count = (int64_t *)output(1);
    OPTIONS(window_options, o);
    o.size = whole(1 + below(6)), o.first = whole(below(3)), o.end = whole(3 + below(20)), o.stride = whole(below(4));
    o.strategy = choice(6), o.at_end = choice(3), o.iterations = whole(1 + below(30)), o.least = whole(1),
    o.seed = bits();
    o.threshold = whole(below(20)), o.decay = real(unit());
    int64_t capacity = o.size < 0 || o.size > 12 ? below(13) : o.size;
    if (CALL(cgrpo_window_steps(one_in(20) ? NULL : &o, whole(below(1000)), maybe_null(out), capacity,
                                maybe_null(count))))
        add(out, (size_t)*count * 8);
}

/* ---- Trajectories -------------------------------------------------------------------------------------------- */

static int fails_at;
static int velocity(void *user, int64_t step, double sigma, const cgrpo_tensor *at, const cgrpo_tensor *out) {
    (void)user, (void)sigma;
    int64_t size = element_size(out->type), own = element_size(at->type), count = 1;
    for (int i = 1; i < at->ndim; i++) count *= at->shape[i];
    for (int64_t i = 0; i < at->shape[0]; i++) /* of narrower velocities some bits of the latents */
        memcpy((char *)out->data + i * (out->strides ? out->strides[0] : count) * size,
               (char *)at->data + i * (at->strides ? at->strides[0] : count) * own, (size_t)(count * size));
    return step == fails_at;
}

static void rollout(void) {
    struct made *s = a_sampler();
    int64_t batch = 1 + below(3), elements = 1 + below(30), end = whole(1 + below(s->steps));
    drawn path, image;
    drawn_noise noise;
    cgrpo_trajectory t;
    cgrpo_trajectory_init(&t, sizeof t);
    tensor(&path, batch, s->steps + 1, elements, 0);
    array filled;
    filled.tensor = path.tensor;
    if (path.tensor.data != NULL && path.tensor.type == kind)
        for (int64_t i = 0; i < (int64_t)path.bytes / element_size(kind); i++) set(&filled, i, number(bad_numbers));
    t.latents = path.tensor;
    t.velocity_type = one_in(2) ? 0 : wrong() ? choice(9) : velocity_kind;
    t.position = position_before = whole(one_in(2) ? 0 : below(s->steps));
    t.log_probs = one_in(2) ? NULL : output(batch * s->steps),
    t.relative_l1 = one_in(2) ? NULL : output(batch * s->steps);
    if (one_in(2)) tensor(&image, batch, 0, elements, 0), t.previous_image = &image.tensor;
    const cgrpo_noise *of = noise_of(&noise, batch, s->steps, elements);
    fails_at = one_in(10) ? (int)below(s->steps) : -1;
    if (CALL(cgrpo_rollout(maybe_null(s->handle), &t, end, of, wrong() ? NULL : velocity, NULL))) wrote(&path);
    else if (t.position != position_before) doing = "position moved after an error", abort();
}

static void trajectory_log_probs(void) {
    struct made *s = a_sampler();
    int64_t batch = 1 + below(3), elements = 1 + below(20), first = below(s->steps), n = 1 + below(s->steps - first);
    drawn path, along, gradient;
    tensor(&path, batch, n + 1, elements, 1), velocity_tensor(&along, batch, n, elements, 1),
        velocity_tensor(&gradient, batch, n, elements, 0);
    double *values = one_in(2) ? output(batch * n) : NULL;
    const int64_t *firsts = own_steps(batch, s->steps - n + 1);
    if (firsts != NULL && !wrong()) first = 0;
    if (values != NULL) {
        if (CALL(cgrpo_trajectory_log_probs(s->handle, whole(first), firsts, &path.tensor, &along.tensor, values)))
            wrote_numbers(values, batch * n);
    } else if (CALL(cgrpo_trajectory_log_probs_vjp(s->handle, whole(first), firsts, &path.tensor, &along.tensor,
                                                   maybe_null(numbers(batch * n)), &gradient.tensor)))
        wrote(&gradient);
    if (one_in(2) &&
        CALL(cgrpo_trajectory_residuals(s->handle, whole(first), firsts, &path.tensor, &along.tensor, &gradient.tensor,
                                        has_part && one_in(2) ? NULL : maybe_null(output(batch * n)))))
        wrote(&gradient);
    if (CALL(cgrpo_trajectory_residuals_vjp(s->handle, whole(first), firsts, &along.tensor,
                                            maybe_null(numbers(batch * n)), &gradient.tensor)))
        wrote(&gradient);
}

static void relative_l1(void) {
    int64_t batch = 1 + below(3), n = 1 + below(6);
    drawn path;
    tensor(&path, batch, n + 1, 1 + below(30), 1);
    double *out = output(batch * n);
    if (CALL(cgrpo_relative_l1(&path.tensor, threads(), maybe_null(out)))) wrote_numbers(out, batch * n);
}

/* ---- Chunks -------------------------------------------------------------------------------------------------- */

static void plans(void) {
    int64_t batch = 1 + below(4), steps = 1 + below(24), *sizes = (int64_t *)output(steps),
            *count = (int64_t *)output(1);
    int64_t capacity = one_in(6) ? below(steps + 1) : steps;
    double *curve = positive_numbers(batch * steps), *mean = maybe(output(steps)), *explained = maybe(output(1));
    OPTIONS(adaptive_options, adaptive);
    OPTIONS(optimal_options, optimal);
    adaptive.max_size = whole(below(8)), adaptive.min_size = whole(1 + below(3));
    optimal.chunk_count = whole(below(4)), optimal.explained = real(unit()), optimal.max_size = whole(below(9));
    int right;
    switch (below(3)) {
        case 0:
            right = CALL(cgrpo_plan_fixed(count_of(steps), whole(1 + below(steps)), maybe_null(sizes), capacity,
                                          maybe_null(count)));
            break;
        case 1:
            right =
                CALL(cgrpo_plan_adaptive(maybe_null(curve), count_of(batch), count_of(steps),
                                         one_in(3) ? NULL : &adaptive, maybe_null(sizes), capacity, maybe_null(count)));
            break;
        default:
            right = CALL(cgrpo_plan_optimal(maybe_null(curve), count_of(batch), count_of(steps),
                                            one_in(3) ? NULL : &optimal, maybe_null(sizes), capacity, maybe_null(count),
                                            mean, explained));
    }
    if (right) add(sizes, (size_t)*count * 8);
}

static void plan_describe(void) {
    int64_t *sizes, count = plan(&sizes, 1 + below(24));
    size_t capacity = (size_t)below(120), length = 0;
    char *text = take(capacity + 1);
    memset(text, 0, capacity + 1);
    if (CALL(cgrpo_plan_describe(maybe_null(sizes), count_of(count), capacity ? text : NULL, capacity,
                                 maybe_null(&length))))
        add(text, capacity), add(&length, sizeof length);
}

static void plan_carry(void) {
    int64_t from_count = 3 + below(16), to_count = 3 + below(16), *sizes, count = plan(&sizes, from_count - 2);
    double *from = output(from_count), *to = output(to_count);
    int64_t *out = (int64_t *)output(count);
    falling(from, from_count), falling(to, to_count);
    if (CALL(cgrpo_plan_carry(maybe_null(sizes), count_of(count), maybe_null(from), count_of(from_count),
                              maybe_null(to), count_of(to_count), maybe_null(out))))
        add(out, (size_t)count * 8);
}

static void weights(void) {
    struct made *s = a_sampler();
    int which = (int)below(3);
    int64_t batch = 1 + below(4), steps = which == 2 ? s->steps : 1 + below(20), *sizes;
    if (which == 2 && steps > 1 && one_in(2)) steps--;
    int64_t count = plan(&sizes, steps);
    double *curve = positive_numbers(batch * steps), *out = output(batch * count);
    int right = which == 0 ? CALL(cgrpo_chunk_weights(maybe_null(curve), count_of(batch), count_of(steps), sizes, count,
                                                      maybe_null(out)))
                : which == 1 ? CALL(cgrpo_gcpo_weights(maybe_null(sizes), count_of(count), maybe_null(out)))
                             : CALL(cgrpo_tempflow_weights(s->handle, sizes, count_of(count), maybe_null(out)));
    if (right) wrote_numbers(out, which == 0 ? batch * count : count);
}

static void chunk_select(void) {
    int64_t batch = 1 + below(6), chunks = 1 + below(12);
    uint8_t *out = take((size_t)(batch * chunks));
    OPTIONS(select_options, o);
    o.fraction = real(one_in(2) ? 1 : unit()), o.weighting = choice(2), o.seed = bits(),
    o.sample_ids = sample_ids(batch);
    if (one_in(2)) o.weights = positive_numbers(batch * chunks);
    else if (one_in(3)) o.fixed = integers(2, chunks), o.fixed_count = count_of(1 + below(2)), o.fraction = 1;
    if (CALL(cgrpo_chunk_select(count_of(batch), count_of(chunks), one_in(5) ? NULL : &o, maybe_null(out))))
        add(out, (size_t)(batch * chunks));
}

/* ---- Objective ----------------------------------------------------------------------------------------------- */

static void advantages(void) {
    int64_t group = 1 + below(5), count = group * (1 + below(5)), R = one_in(2) ? 1 : 1 + below(3);
    double *rewards = numbers(count * R), *out = output(count);
    OPTIONS(advantage_options, o);
    if (one_in(3)) o.group_ids = integers(count, 4);
    else o.group_size = whole(one_in(2) ? 0 : group);
    o.clamp = real(one_in(2) ? (double)INFINITY : 5), o.epsilon = real(1e-8), o.floor = real(0),
    o.trim = real(one_in(2) ? 0 : unit());
    o.baseline = choice(3), o.scale = choice(3), o.deviation = choice(2), o.mixing = choice(3);
    o.subtract_median = (int32_t)below(2), o.reward_count = R;
    if (one_in(3)) o.reward_weights = numbers(R);
    if (CALL(cgrpo_advantages(maybe_null(rewards), count_of(count), R == 1 && one_in(4) ? NULL : &o, maybe_null(out))))
        wrote_numbers(out, count);
}

static void history_update(void) {
    cgrpo_history **h = &histories[below(HISTORIES)], *made = NULL;
    int64_t count = 1 + below(12);
    if (one_in(10) && CALL(cgrpo_history_create(whole(1 + below(9)), whole(1), maybe_null(&made))))
        cgrpo_history_destroy(*h), *h = made;
    int64_t *prompts = integers(count, 5);
    double *rewards = numbers(count), *out = output(count);
    if (CALL(cgrpo_history_update(maybe_null(*h), maybe_null(prompts), maybe_null(rewards), count_of(count),
                                  maybe_null(out))))
        wrote_numbers(out, count);
    int64_t capacity = below(40), known = 0, *kept = take((size_t)capacity * 8);
    double *latest = output(capacity);
    if (CALL(cgrpo_history_rewards(maybe_null(*h), kept, latest, capacity, maybe_null(&known))))
        wrote_numbers(latest, known < capacity ? known : capacity);
}

static void stats_merge(void) {
    cgrpo_chunk_stats *total = take(sizeof *total), *other = take(sizeof *other);
    cgrpo_chunk_stats drawn_stats = {sizeof drawn_stats, whole(below(9)),  real(unit()),     real(unit()),
                                     real(unit()),       real(1 + unit()), real(unit() / 2), real(unit() / 2),
                                     real(unit()),       real(unit()),     real(unit())};
    *total = *other = drawn_stats;
    other->selected = whole(1 + below(9)), other->ratio_mean = real(unit());
    input(other);
    if (CALL(cgrpo_chunk_stats_merge(maybe_null(total), maybe_null(other)))) add(total, sizeof *total);
}

static void diversity(void) {
    drawn features;
    int64_t batch = 1 + below(6);
    double *out = output(batch);
    tensor(&features, batch, 0, 1 + below(40), 1);
    if (CALL(cgrpo_diversity(maybe_null(&features.tensor), one_in(3) ? 0 : whole(3), most_threads, maybe_null(out))))
        wrote_numbers(out, batch);
}

static void best_of_n(void) {
    int64_t count = 1 + below(30);
    double *scores = numbers(count);
    uint8_t *out = take((size_t)count);
    if (CALL(cgrpo_best_of_n(maybe_null(scores), count_of(count), whole(1 + below(count)), maybe_null(out))))
        add(out, (size_t)count);
}

static void forward_loss(void) {
    int64_t batch = 1 + below(5), count = 1 + below(6), all = batch * count;
    double *a = positive_numbers(all), *b = positive_numbers(all), *advantage = numbers(batch), *loss = output(1);
    double *first = maybe(output(all)), *second = maybe(output(all)), *kl = one_in(2) ? positive_numbers(all) : NULL;
    double *of_kl = kl == NULL ? NULL : maybe(output(all)), weight = kl == NULL ? 0 : real(unit());
    int right = 0;
    cgrpo_forward_stats stats;
    stats.struct_size = wrong() ? (size_t)below(sizeof stats) : sizeof stats;
    cgrpo_forward_stats *to = one_in(2) ? NULL : &stats;
    a = maybe_null(a), b = maybe_null(b), advantage = maybe_null(advantage), loss = maybe_null(loss);
    switch (below(6)) {
        case 0: {
            OPTIONS(nft_options, o);
            o.beta = real(unit() + 0.01), o.advantage_clip = real(5), o.weighting = choice(3), o.mode = choice(5);
            o.floor = real(1e-5), o.kl = weight, o.reference_divergence = kl, o.grad_reference_divergence = of_kl;
            if (!wrong()) o.times = times_of(all);
            if (!wrong()) o.positive_absolute = positive_numbers(all), o.negative_absolute = positive_numbers(all);
            right =
                CALL(cgrpo_nft_loss(a, b, advantage, count_of(batch), count_of(count), &o, loss, first, second, to));
            break;
        }
        case 1: {
            OPTIONS(dgpo_options, o);
            o.beta = real(100 * unit() + 0.01), o.clip_kl = (int32_t)below(2), o.clip_distance = (int32_t)below(2);
            o.kl = weight, o.reference_divergence = kl, o.grad_reference_divergence = of_kl;
            if (one_in(3)) o.group_size = whole(batch);
            else if (one_in(2)) o.group_ids = integers(batch, 3);
            if (one_in(2)) o.old_distance = positive_numbers(all), o.clip_low = real(0.1), o.clip_high = real(0.1);
            if (o.old_distance == NULL && !wrong()) o.clip_kl = 0;
            right = CALL(cgrpo_dgpo_loss(a, b, advantage, count_of(batch), count_of(count), &o, loss, first, to));
            break;
        }
        case 2: {
            OPTIONS(crd_options, o);
            o.beta = real(unit() + 0.01), o.advantage_clip = real(5), o.regression = choice(2), o.floor = real(1e-5);
            o.kl = weight, o.reference_divergence = kl, o.grad_reference_divergence = of_kl;
            if (one_in(2)) o.temperature = real(unit());
            if (one_in(2)) o.absolute = positive_numbers(all), o.old_absolute = positive_numbers(all);
            if (one_in(3)) o.kl_least = real(unit());
            right = CALL(cgrpo_crd_loss(a, b, advantage, count_of(batch), count_of(count), &o, loss, first, to));
            break;
        }
        case 3: {
            OPTIONS(dpo_options, o);
            o.beta = real(100 * unit() + 0.01);
            right = CALL(cgrpo_dpo_loss(a, b, positive_numbers(all), positive_numbers(all), count_of(batch),
                                        count_of(count), &o, loss, first, second, to));
            break;
        }
        case 4: {
            double *slopes = maybe(output(all)), *values = output(all);
            if (CALL(cgrpo_matching_log_probs(a, times_of(all), count_of(all), choice(5), real(0.25),
                                              maybe_null(values), slopes)))
                wrote_numbers(values, all), wrote_numbers(slopes, all);
            return;
        }
        default: {
            int64_t *chosen = (int64_t *)output(batch), *rejected = (int64_t *)output(batch);
            int64_t *pairs = (int64_t *)output(1);
            const int64_t *groups = one_in(2) ? integers(batch, 3) : NULL;
            if (CALL(cgrpo_preference_pairs(advantage, count_of(batch), groups != NULL && !wrong() ? 0 : whole(batch),
                                            groups, maybe_null(chosen), maybe_null(rejected), maybe_null(pairs))))
                add(chosen, (size_t)*pairs * 8), add(rejected, (size_t)*pairs * 8);
            return;
        }
    }
    if (!right) return;
    wrote_numbers(loss, 1), wrote_numbers(first, all);
    if (to != NULL) wrote_numbers(&stats.policy_loss, 6);
}

static void times(void) {
    int64_t batch = 1 + below(4), count = 1 + below(9);
    double *out = output(batch * count);
    OPTIONS(time_options, o);
    o.distribution = choice(3), o.stratified = (int32_t)below(2), o.least = real(0.01);
    o.seed = bits(), o.sample_ids = sample_ids(batch);
    if (o.distribution == CGRPO_TIME_DISTRIBUTION_DISCRETE) o.values = times_of(4), o.values_count = count_of(4);
    else o.shift = real(3), o.mean = real(0), o.std = real(1), o.low = real(0.1), o.high = real(1);
    if (CALL(cgrpo_times(count_of(batch), count_of(count), whole(below(9)), &o, maybe_null(out))))
        wrote_numbers(out, batch * count);
}

static void chunk_loss(void) {
    int64_t batch = 1 + below(5), steps = 1 + below(12), *sizes, chunks = plan(&sizes, steps), all = batch * steps;
    double *fresh = numbers(all), *old = numbers(all), *loss = output(1);
    double *gradient = maybe(output(all)), *ratios = maybe(output(batch * chunks)), *bias = output(all), *advantage;
    cgrpo_chunk_stats stats;
    stats.struct_size = wrong() ? (size_t)below(sizeof stats) : sizeof stats;
    OPTIONS(chunk_loss_options, o);
    o.surrogate = choice(8), o.average = choice(3), o.kl_estimator = choice(3), o.kl_level = choice(2);
    if (o.surrogate == CGRPO_SURROGATE_SAPO && one_in(2))
        o.sapo_temperature_pos = real(0.1 + unit()), o.sapo_temperature_neg = real(0.1 + unit());
    if (o.surrogate == CGRPO_SURROGATE_VESPO && one_in(2))
        o.vespo_k_pos = real(unit()), o.vespo_lambda_neg = real(0.1 + unit());
    if (o.surrogate != CGRPO_SURROGATE_UNCLIPPED && o.surrogate != CGRPO_SURROGATE_DIVERGENCE_MASK &&
        o.surrogate != CGRPO_SURROGATE_SAPO && o.surrogate != CGRPO_SURROGATE_VESPO)
        o.clip_low = real(0.2 * unit()), o.clip_high = real(0.2 * unit());
    o.kl = real(one_in(2) ? 0 : unit()), o.normaliser = real(one_in(2) ? 0 : 1 + unit());
    if (o.surrogate == CGRPO_SURROGATE_CLIPPED && one_in(3))
        *(one_in(2) ? &o.ratio_cap : &o.dual_clip) = real(2 + unit());
    if (one_in(2)) o.advantage_level = choice(3);
    int plain = one_in(5), by_chunk = !plain && o.advantage_level == CGRPO_ADVANTAGE_LEVEL_CHUNK,
        by_step = !plain && o.advantage_level == CGRPO_ADVANTAGE_LEVEL_STEP;
    advantage = numbers(batch * (by_chunk ? chunks : by_step ? steps : 1));
    if (one_in(3)) o.selection = flags(batch * chunks);
    if (one_in(3)) o.mask = flags(all);
    if (one_in(3)) o.reference_log_probs = numbers(all);
    if (one_in(3))
        o.weights_per_sample = (int32_t)below(2),
        o.weights = positive_numbers(o.weights_per_sample ? batch * chunks : chunks);
    if (one_in(3) && o.kl > 0) o.kl_weights = positive_numbers(batch);
    if (one_in(4) && o.surrogate != CGRPO_SURROGATE_CISPO && o.surrogate != CGRPO_SURROGATE_VESPO)
        o.ratio_bias = numbers(all), o.grad_ratio_bias = bias, o.ratio_scale = positive_numbers(steps);
    if (o.surrogate == CGRPO_SURROGATE_DIVERGENCE_MASK && !wrong()) o.divergence = positive_numbers(all);
    if (!CALL(cgrpo_chunk_loss(maybe_null(fresh), maybe_null(old), maybe_null(advantage), count_of(batch),
                               count_of(steps), maybe_null(sizes), count_of(chunks), plain ? NULL : &o,
                               maybe_null(loss), gradient, ratios, one_in(2) ? NULL : &stats)))
        return;
    wrote_numbers(loss, 1), wrote_numbers(gradient, all), wrote_numbers(ratios, batch * chunks);
}

static void credit(void) {
    int64_t group = 1 + below(4), batch = group * (1 + below(4)), steps = 1 + below(8), all = batch * steps, *sizes;
    int64_t chunks = plan(&sizes, steps), counts[2] = {0, 0};
    double *own = numbers(batch), *each = numbers(all + batch), *out = output(all + batch);
    uint8_t *mask = take((size_t)batch);
    uint64_t *made = take((size_t)(batch * 3) * 8);
    OPTIONS(advantage_options, o);
    if (one_in(3)) o.group_ids = integers(batch, 4);
    else o.group_size = whole(one_in(2) ? 0 : group);
    o.baseline = choice(3), o.scale = choice(3), o.subtract_median = (int32_t)below(2), o.epsilon = real(1e-8);
    OPTIONS(importance_options, w);
    w.level = choice(3), w.mode = choice(5), w.low = real(unit()), w.high = real(1 + unit());
    w.geometric = (int32_t)below(2), w.mask = one_in(3) ? flags(all) : NULL;
    struct made *s = a_sampler();
    int64_t *of_sampler, trained = s->steps > 1 ? s->steps - 1 : 1, whole_plan = plan(&of_sampler, trained);
    double *weights = output(whole_plan);
    const cgrpo_advantage_options *options = one_in(5) ? NULL : &o;
    int64_t *nodes = integers(all, 3);
    switch (below(8)) {
        case 0:
            if (CALL(cgrpo_step_gains(maybe_null(each), count_of(batch), count_of(steps), choice(2), maybe_null(out))))
                wrote_numbers(out, all);
            break;
        case 1:
            if (CALL(cgrpo_step_advantages(maybe_null(each), count_of(batch), count_of(steps), options,
                                           maybe_null(out))))
                wrote_numbers(out, all);
            break;
        case 2:
            if (CALL(cgrpo_tree_advantages(maybe_null(own), maybe_null(nodes), one_in(2) ? NULL : each, count_of(batch),
                                           count_of(one_in(2) ? 1 : steps), options, maybe_null(out))))
                wrote_numbers(out, batch);
            break;
        case 3:
            if (CALL(cgrpo_zero_std_groups(maybe_null(own), count_of(batch), options, one_in(3) ? NULL : mask,
                                           maybe_null(counts), maybe_null(counts + 1))))
                add(counts, sizeof counts);
            break;
        case 4:
            if (CALL(cgrpo_win_rates(maybe_null(own), count_of(batch), options, maybe_null(out))))
                wrote_numbers(out, batch);
            break;
        case 5:
            if (CALL(cgrpo_importance_weights(maybe_null(each), maybe_null(each + batch), count_of(batch),
                                              count_of(steps), maybe_null(sizes), count_of(chunks),
                                              one_in(5) ? NULL : &w, maybe_null(out))))
                wrote_numbers(out, batch * chunks);
            break;
        case 6:
            if (CALL(cgrpo_gradient_weights(maybe_null(s->handle), choice(3), maybe_null(of_sampler),
                                            count_of(whole_plan), maybe_null(weights))))
                wrote_numbers(weights, whole_plan);
            break;
        default:
            if (CALL(cgrpo_forked_ids(sample_ids(batch), count_of(batch), whole(below(9)), count_of(3),
                                      maybe_null(made))))
                add(made, (size_t)(batch * 3) * 8);
    }
}

static void recipes(void) {
    static const char *const names[] = {"gcpo", "dancegrpo", "flow_grpo", "mixgrpo_flash", "flow_dppo", "", "nothing"};
    const char *name = names[below(7)];
    size_t capacity = (size_t)below(300), length = 0;
    char *text = take(capacity + 1);
    cgrpo_recipe recipe;
    recipe.struct_size = sizeof recipe;
    memset(text, 0, capacity + 1);
    if (one_in(2)) CALL(cgrpo_recipe_named(name, wrong() ? NULL : &recipe));
    else if (CALL(cgrpo_recipe_describe(wrong() ? NULL : name, text, capacity, &length))) add(text, capacity);

    static const char *const methods[] = {"nft", "awm", "fpo", "dgpo", "crd", "dpo", "", "gcpo"};
    const char *method_name = methods[below(8)];
    cgrpo_forward_method method;
    method.struct_size = sizeof method;
    if (one_in(2)) CALL(cgrpo_forward_method_named(method_name, wrong() ? NULL : &method));
    else if (CALL(cgrpo_forward_method_describe(wrong() ? NULL : method_name, text, capacity, &length)))
        add(text, capacity);
}

/* ---- Trainer: 3 latents, 2 conditions ------------------------------------------------------------------------- */

static int reward(void *user, const cgrpo_tensor *images, const int64_t *prompt, double *rewards) {
    (void)user;
    for (int64_t i = 0; i < images->shape[0]; i++)
        rewards[i] = ((float *)images->data)[i * 3] + (double)prompt[i] * 0.01;
    if (fails_at == 1) rewards[0] = (double)NAN;
    return fails_at == 0;
}

/* The sum over so many ranks that give the same. */
static int64_t alike, sums_left;
static int all_reduce(void *user, void *values, cgrpo_type type, int64_t count) {
    (void)user;
    for (int64_t i = 0; i < count; i++) {
        if (type == CGRPO_TYPE_F64) ((double *)values)[i] *= (double)alike;
        else ((float *)values)[i] *= (float)alike;
    }
    return sums_left-- == 0;
}

static void trainer_create(void) {
    cgrpo_trainer *made = NULL;
    OPTIONS(trainer_options, o);
    o.latent_size = whole(3), o.condition_size = 2, o.width = 5, o.blocks = 1, o.embedding_size = 4;
    if (o.latent_size > 3) o.latent_size = -3;
    o.steps = 2 + below(5), o.group_size = 2 + below(3), o.chunk_fraction = real(1), o.threads = most_threads;
    o.dynamics = choice(3), o.eta = real(unit()), o.clip_low = real(0.1), o.learning_rate = real(1e-3), o.seed = bits();
    if (one_in(2)) o.reference_kl = real(0.01), o.reference_divergence = choice(4);
    if (one_in(4)) o.reference_last_step = real(0.01);
    if (one_in(4)) o.chunk_weights_count = 1 + below(2), o.chunk_weights = positive_numbers(o.chunk_weights_count);
    if (!CALL(cgrpo_trainer_create(one_in(20) ? NULL : &o, maybe_null(&made)))) return;
    cgrpo_trainer_destroy(trainer);
    trainer = made;
}

static void trainer_calls(void) {
    kind = CGRPO_TYPE_F32;
    if (trainer == NULL || one_in(20)) trainer_create();
    if (trainer == NULL) return;
    int64_t batch = 1 + below(3);
    drawn at, given, out;
    tensor(&at, batch, 0, 3, 1), tensor(&given, batch, 0, 2, 1), tensor(&out, batch, 0, 3, 0);
    OPTIONS(pretrain_options, o);
    o.steps = 1 + below(2), o.batch_size = 1 + below(8), o.learning_rate = real(1e-3), o.ema_decay = real(0.9);
    fails_at = one_in(6) ? (int)below(2) : -1;
    alike = 1 + below(2), sums_left = one_in(4) ? below(12) : -1;
    switch (below(13)) {
        case 12:
            CALL(cgrpo_trainer_set_replica(trainer, wrong() ? 1 : 0, alike, wrong() ? NULL : all_reduce, NULL));
            break;
        case 0:
            CALL(cgrpo_trainer_iterate(maybe_null(trainer), &given.tensor, wrong() ? NULL : reward, NULL, NULL));
            break;
        case 1: CALL(cgrpo_trainer_pretrain(trainer, &at.tensor, &given.tensor, &o, NULL, NULL)); break;
        case 2:
        case 3:
        case 4:
        case 5:
            if (CALL(cgrpo_trainer_sample(trainer, &given.tensor, choice(2), real(unit()), bits(), &out.tensor)))
                wrote(&out);
            break;
        default:
            if (CALL(cgrpo_trainer_velocity(trainer, choice(2), &at.tensor, real(unit()), &given.tensor, &out.tensor)))
                wrote(&out);
    }
}

/* ---- The run ------------------------------------------------------------------------------------------------- */

static void (*const draws[])(void) = {schedule_make,
                                      schedule_flash,
                                      timesteps,
                                      flux_mu,
                                      sampler_create,
                                      sampler_info,
                                      sampler_coefficients,
                                      normal,
                                      step,
                                      step,
                                      log_prob,
                                      log_prob_vjp,
                                      residual,
                                      predicted_image,
                                      cuda,
                                      divergence,
                                      divergence,
                                      norm_hinge,
                                      forward,
                                      forward,
                                      forward_loss,
                                      forward_loss,
                                      times,
                                      window_steps,
                                      rollout,
                                      rollout,
                                      trajectory_log_probs,
                                      trajectory_log_probs,
                                      relative_l1,
                                      plans,
                                      plans,
                                      plan_describe,
                                      plan_carry,
                                      weights,
                                      weights,
                                      chunk_select,
                                      advantages,
                                      history_update,
                                      diversity,
                                      stats_merge,
                                      best_of_n,
                                      chunk_loss,
                                      chunk_loss,
                                      credit,
                                      credit,
                                      recipes};
enum { DRAWS = sizeof draws / sizeof *draws };

static void stop(int signal) {
    char text[300];
    int length = snprintf(text, sizeof text, "fuzz: signal %d in %s\n    reproduce: --seed %llu, call seed %llu\n",
                          signal, doing, (unsigned long long)seed, (unsigned long long)call_seed);
    if (write(1, text, (size_t)length) < 0) _exit(3);
    _exit(2);
}

static void one_call(void) {
    used_count = 0, digest = 0;
    wrongness = one_in(3), bad_numbers = wrongness && one_in(4);
    kind = 1 + (cgrpo_type)below(4), has_part = one_in(5) ? UNMADE : WHOLE;
    velocity_kind = kind == CGRPO_TYPE_F32 && one_in(2) ? CGRPO_TYPE_BF16 + (cgrpo_type)below(2) : kind;
    call_seed = random_state;
    if (with_trainer && one_in(100)) trainer_calls();
    else draws[below(DRAWS)]();
    const char *harm = memory_harm();
    if (harm == NULL) return;
    printf("%s, in %s\n    reproduce: --seed %llu, call seed %llu\n", harm, doing, (unsigned long long)seed,
           (unsigned long long)call_seed);
    exit(2);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"seed", 1, 0, 's'},    {"calls", 1, 0, 'c'}, {"seconds", 1, 0, 't'},    {"threads", 1, 0, 'p'},
        {"digests", 1, 0, 'd'}, {"show", 1, 0, 'w'},  {"no-trainer", 0, 0, 'n'}, {0, 0, 0, 0}};
    long calls = 1000000, made = 0, accepted = 0, show = -1;
    double seconds = 1e9, start = now();
    FILE *digests = NULL;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 's') seed = strtoull(optarg, NULL, 10);
        else if (c == 'c') calls = atol(optarg);
        else if (c == 't') seconds = atof(optarg), calls = INT64_MAX;
        else if (c == 'p') most_threads = atoi(optarg);
        else if (c == 'd') digests = fopen(optarg, "wb");
        else if (c == 'w') show = atol(optarg), calls = show + 1;
        else if (c == 'n') with_trainer = 0;
        else return 2;
    }
    random_state = seed * 0x9e3779b97f4a7c15u + 1;
    memory_prepare();
    for (int i = 0; i < SAMPLERS; i++)
        samplers[i].handle = sampler_new(samplers[i].steps = 3 + i, 1 + i, 0.7, most_threads);
    for (int i = 0; i < HISTORIES; i++) CHECK_OK(cgrpo_history_create(8, 2, &histories[i]));
    for (int signal_number = SIGILL; signal_number <= SIGSEGV; signal_number++) signal(signal_number, stop);
    signal(SIGALRM, stop);
    for (; made < calls; made++) {
        if (made % 1024 == 0) {
            alarm(20); /* a call that hangs */
            if (now() - start > seconds) break;
        }
        one_call();
        accepted += status == CGRPO_OK;
        if (made == show) printf("%s\n    %s\n", doing, status == CGRPO_OK ? "accepted" : cgrpo_last_error());
        if (digests != NULL) fwrite(&digest, sizeof digest, 1, digests);
    }
    if (digests != NULL) fclose(digests);
    double took = now() - start;
    printf("fuzz: seed %llu: %ld calls, %ld accepted, %ld refused, 0 harmful, %.0f a second\n",
           (unsigned long long)seed, made, accepted, made - accepted, (double)made / took);
    return 0;
}
