// The kernels' source, or the text of their PTX, on the CPU against the library: every bit.
#include "arrays.h"

static const uint64_t seed = 0xfeedface12345678ull;

struct Sampler {
    cgrpo_sampler *handle;
    static const int steps = 17;
    double sigmas[steps + 1];

    Sampler(cgrpo_dynamics dynamics, cgrpo_log_prob_form form = CGRPO_LOG_PROB_FORM_GAUSSIAN) {
        cgrpo_schedule_options schedule;
        cgrpo_schedule_options_init(&schedule, sizeof schedule);
        schedule.shift = 3;
        TRY(cgrpo_schedule_make(steps, &schedule, sigmas));
        cgrpo_sampler_options options;
        cgrpo_sampler_options_init(&options, sizeof options);
        options.dynamics = dynamics;
        options.log_prob_form = form;
        TRY(cgrpo_sampler_create(sigmas, steps + 1, &options, &handle));
    }
    ~Sampler() { cgrpo_sampler_destroy(handle); }
};

// A kernel's run on arrays of one pair of types.
struct Run {
    cgrpo_type type, velocity; // of latents and of velocities
    int64_t batch, elements;
    Layout layout;
    std::vector<double> workspace;
    std::vector<uint64_t> word = {0}; // status: not on the stack, which a device does not see
    uint64_t &status() { return word[0]; }
    std::vector<uint64_t> ids;

    Run(cgrpo_type type, cgrpo_type velocity, int64_t batch, int64_t elements, Layout layout, int64_t steps = 1)
        : type(type), velocity(velocity), batch(batch), elements(elements), layout(layout),
          workspace(chunkgrpo_cuda_workspace_bytes(batch, elements, steps) / 8 + 1) {
        for (int64_t i = 0; i < batch; i++) ids.push_back(0x123456789abcdefull * (uint64_t)(i + 1));
    }

    bool mixed() const { return type != velocity; }
    // What the library is given where the velocity has another type than the latents.
    cgrpo_type reference() const { return mixed() ? type : velocity; }
    // What the library wrote, as it should be in the velocity's type.
    Array expected(Array &gradient) const { return gradient.type == velocity ? gradient : gradient.as(velocity); }

    Array latents(double scale = 1, int64_t steps = 1) const {
        return Array(type, batch, elements, layout, steps).fill(scale);
    }
    Array velocities(double scale = 1.5, int64_t steps = 1) const {
        return Array(velocity, batch, elements, layout, steps).fill(scale);
    }

    chunkgrpo_cuda_Workspace space() {
        chunkgrpo_cuda_Workspace to;
        chunkgrpo_cuda_divide(&to, workspace.data(), (workspace.size() - 1) * 8);
        to.status = word.data();
        return to;
    }

    chunkgrpo_cuda_Shape shape() const { return {elements, 0, (double)elements, 0}; }

    chunkgrpo_cuda_Noise library(bool own_ids = true) const {
        chunkgrpo_cuda_Noise noise = {};
        noise.kind = CHUNKGRPO_CUDA_LIBRARY;
        noise.has_ids = own_ids;
        chunkgrpo_cuda_seed(&noise, seed);
        for (int64_t i = 0; i < batch; i++) noise.ids[i] = ids[i];
        return noise;
    }

    chunkgrpo_cuda_real real(double v) const {
        chunkgrpo_cuda_real r = {};
        if (type == CGRPO_TYPE_F64) r.f64 = v;
        else r.f32 = (float)v;
        return r;
    }

    chunkgrpo_cuda_Numbers numbers(const Sampler &sampler, int64_t step, double guidance = 1,
                                   bool squared = false) const {
        double a, b, s, c;
        TRY(cgrpo_sampler_coefficients(sampler.handle, step, &a, &b, &s, &c));
        chunkgrpo_cuda_Numbers n = {};
        n.a = real(a), n.b = real(b * guidance), n.p = real(b * (1 - guidance)), n.q = real(c), n.s = real(s);
        const double precision = s == 0    ? 0
                                 : squared ? 1
                                           : 1 / (2 * s * s),
                     slope = 2 * precision * b / (double)elements;
        n.factor = -precision;
        n.constant = s == 0 || squared ? 0 : -std::log(s) - 0.5 * std::log(2 * M_PI);
        n.slope = slope * guidance, n.unconditional = slope * (1 - guidance);
        n.step = (uint32_t)step, n.place = (uint32_t)step + 1;
        return n;
    }

    void launch(const char *kernel, const void *arguments, int64_t steps = 1) {
        const std::string name = std::string("chunkgrpo_") + kernel + "_" + type_name(type) + "_" + type_name(velocity);
        char text[160];
        snprintf(text, sizeof text, "%s of %lld x %lld, %lld apart", name.c_str(), (long long)batch,
                 (long long)elements, (long long)(elements + layout.gap));
        test_case = text;
        const bool alone = !strcmp(kernel, "gradient");
        const unsigned blocks = alone ? chunkgrpo_cuda_blocks(elements) : chunkgrpo_cuda_grid(elements, size_of(type));
        if (!run_kernel(name, arguments, blocks, (unsigned)batch, (unsigned)steps))
            printf("There is no kernel %s.\n", name.c_str()), exit(2);
        for (size_t i = 0; i + 1 < workspace.size(); i++)
            if (workspace[i]) check("a workspace that is not zero", false);
    }
};

static cgrpo_noise noise_of(const Run &run, bool own_ids = true) {
    cgrpo_noise noise;
    cgrpo_noise_init(&noise, sizeof noise);
    noise.seed = seed;
    noise.sample_ids = own_ids ? run.ids.data() : nullptr;
    return noise;
}

static std::vector<double> upstream_of(const Run &run, int64_t steps = 1) {
    std::vector<double> numbers(run.batch * steps);
    for (auto &u : numbers) u = (int)cta::draw() * 0x1p-30;
    return numbers;
}

// step, step_change and step_any with the library's noise, and in place.
static void test_step(Run run, const Sampler &sampler, int64_t step) {
    Array x = run.latents(), v = run.velocities(), next = run.latents(), got = next, wide = v.as(run.reference());
    std::vector<double> log_prob(run.batch), change(run.batch);
    const bool own_ids = step & 1;
    cgrpo_noise noise = noise_of(run, own_ids);
    cgrpo_tensor tx = x.tensor(), tv = wide.tensor(), tn = next.tensor();
    TRY(cgrpo_step(sampler.handle, step, &tx, &tv, nullptr, &noise, &tn, log_prob.data(), change.data()));
    for (const char *kernel : {"step", "step_change", "step_any"}) {
        std::vector<double> own(run.batch), own_change(run.batch);
        Array out = got;
        chunkgrpo_cuda_StepArguments k = {};
        k.x = x.rows(), k.v = v.rows(), k.next = out.rows();
        k.log_prob = own.data(), k.stride = 1;
        k.relative_l1 = !strcmp(kernel, "step") ? nullptr : own_change.data();
        k.shape = run.shape(), k.workspace = run.space(), k.noise = run.library(own_ids);
        k.numbers[0] = run.numbers(sampler, step);
        Array read = x;
        if (run.elements & 1) k.x = k.next, out = read = x; // next may be x
        Array expected = next;
        if (run.elements & 1) {
            expected = x;
            for (int64_t b = 0; b < run.batch; b++)
                memcpy(expected.at(b * x.stride), next.at(b * x.stride), run.elements * size_of(run.type));
        }
        k.next = out.rows();
        if (run.elements & 1) k.x = k.next;
        run.launch(kernel, &k);
        same("next latents", out, expected);
        same("log-probabilities", own, log_prob);
        if (k.relative_l1) same("relative L1", own_change, change);
    }
    check("status", run.status() == 0);
}

// step_any and difference_any with a step and a guidance of each sample, noise from device memory or given, and
// previous images.
static void test_any(Run run, const Sampler &sampler, bool given, bool guided) {
    Array x = run.latents(), v = run.velocities(), u = run.velocities(), z = run.latents(), next = run.latents(),
          got = next;
    Array e = run.latents(), wide = v.as(run.reference()), wide_u = u.as(run.reference());
    std::vector<int64_t> steps;
    std::vector<double> guidances, log_prob(run.batch), own(run.batch);
    for (int64_t i = 0; i < run.batch; i++) steps.push_back(1 + 3 * i % 14), guidances.push_back(1 + 0.75 * (double)i);
    cgrpo_step_extras extras;
    cgrpo_step_extras_init(&extras, sizeof extras);
    cgrpo_tensor tu = wide_u.tensor(), tz = z.tensor(), te = e.tensor();
    extras.steps = steps.data(), extras.previous_image = &tz;
    if (guided) extras.unconditional = &tu, extras.guidances = guidances.data();
    cgrpo_noise noise = noise_of(run);
    if (given) noise.given = &te;
    cgrpo_tensor tx = x.tensor(), tv = wide.tensor(), tn = next.tensor();
    TRY(cgrpo_step(sampler.handle, 0, &tx, &tv, &extras, &noise, &tn, log_prob.data(), nullptr));

    chunkgrpo_cuda_StepArguments k = {};
    k.x = x.rows(), k.v = v.rows(), k.z = z.rows(), k.next = got.rows();
    if (guided) k.y = u.rows();
    k.log_prob = own.data(), k.stride = 1, k.shape = run.shape(), k.workspace = run.space();
    k.noise = run.library(), k.each = 1;
    chunkgrpo_cuda_seed(&k.noise, 1); // what is in device memory counts
    k.noise.has_ids = 0;
    const std::vector<uint64_t> seeds = {seed};
    k.noise.seed_at = seeds.data(), k.noise.ids_at = run.ids.data();
    if (given) k.noise.kind = CHUNKGRPO_CUDA_GIVEN, k.noise.given = e.rows(), k.noise.given.step_stride = 0;
    for (int64_t i = 0; i < run.batch; i++) k.numbers[i] = run.numbers(sampler, steps[i], guided ? guidances[i] : 1);
    run.launch("step_any", &k);
    same("next latents", got, next);
    same("log-probabilities", own, log_prob);

    double a, b, s, c;
    for (int64_t i = 0; i < run.batch; i++) {
        TRY(cgrpo_sampler_coefficients(sampler.handle, steps[i], &a, &b, &s, &c));
        if (s == 0) return; // no density
    }
    Array grad(run.reference(), run.batch, run.elements, run.layout), grad_u = grad;
    Array own_grad(run.velocity, run.batch, run.elements, run.layout), own_grad_u = own_grad;
    const std::vector<double> upstream = upstream_of(run);
    cgrpo_tensor tg = grad.tensor(), tgu = grad_u.tensor();
    TRY(cgrpo_log_prob_vjp(sampler.handle, 0, &tx, &tv, &extras, &tn, upstream.data(), &tg, guided ? &tgu : nullptr,
                           log_prob.data()));
    chunkgrpo_cuda_DifferenceArguments d = {};
    d.x = k.x, d.v = k.v, d.y = k.y, d.z = k.z, d.next = next.rows();
    d.gradient = own_grad.rows();
    if (guided) d.unconditional = own_grad_u.rows();
    d.upstream = upstream.data(), d.upstream_stride = 1, d.log_prob = own.data(), d.stride = 1;
    d.shape = k.shape, d.workspace = run.space(), d.each = 1;
    memcpy(d.numbers, k.numbers, sizeof d.numbers);
    run.launch("difference_any", &d);
    Array expected = run.expected(grad), expected_u = run.expected(grad_u);
    same("log-probabilities", own, log_prob);
    if (!run.mixed() || run.layout.gap == 0) same("gradient", own_grad, expected);
    if (guided && (!run.mixed() || run.layout.gap == 0)) same("unconditional gradient", own_grad_u, expected_u);
    check("status", run.status() == 0);
}

// difference and difference_gradient of one step or several, change.
static void test_trajectory(Run run, const Sampler &sampler, int64_t steps, bool squared) {
    const int64_t first = 2;
    Array x = run.latents(1, steps + 1), v = run.velocities(1.5, steps), wide = v.as(run.reference());
    Array grad(run.reference(), run.batch, run.elements, run.layout, steps);
    Array own_grad(run.velocity, run.batch, run.elements, run.layout, steps);
    std::vector<double> upstream = upstream_of(run, steps), log_prob(run.batch * steps), own(run.batch * steps);
    if (steps > 1)
        for (int64_t i = 0; i < run.batch; i++) upstream[i * steps + 1] = 0; // a column that the CPU fills with zeros
    cgrpo_tensor tx = x.tensor(), tv = wide.tensor(), tg = grad.tensor();
    int64_t v_shape[] = {run.batch, steps, run.elements}, v_strides[] = {v.stride, run.elements, 1};
    tv.ndim = tg.ndim = 3, tv.shape = tg.shape = v_shape, tv.strides = tg.strides = v_strides;
    TRY(cgrpo_trajectory_log_probs(sampler.handle, first, nullptr, &tx, &tv, log_prob.data()));
    TRY(cgrpo_trajectory_log_probs_vjp(sampler.handle, first, nullptr, &tx, &tv, upstream.data(), &tg));
    chunkgrpo_cuda_DifferenceArguments k = {};
    k.x = x.rows(), k.v = v.rows(), k.next = x.rows(1);
    k.log_prob = own.data(), k.stride = steps, k.upstream_stride = steps, k.idle_zeros = 1;
    k.shape = run.shape(), k.workspace = run.space();
    for (int64_t t = 0; t < steps; t++) k.numbers[t] = run.numbers(sampler, first + t, 1, squared);
    run.launch("difference", &k, steps);
    same("log-probabilities", own, log_prob);
    k.gradient = own_grad.rows(), k.upstream = upstream.data(), k.log_prob = nullptr;
    run.launch("gradient", &k, steps);
    Array expected = run.expected(grad);
    if (!run.mixed() || run.layout.gap == 0) same("gradients", own_grad, expected);
    if (steps == 1) {
        Array again(run.velocity, run.batch, run.elements, run.layout);
        std::fill(own.begin(), own.end(), 0);
        k.gradient = again.rows(), k.log_prob = own.data(), k.idle_zeros = 0;
        run.launch("difference_gradient", &k);
        same("log-probabilities with gradients", own, log_prob);
        if (!run.mixed() || run.layout.gap == 0) same("gradients with log-probabilities", again, expected);
    }
    check("status", run.status() == 0);
    if (run.mixed()) return;

    chunkgrpo_cuda_ChangeArguments c = {};
    std::vector<double> changes(run.batch * steps), own_changes(run.batch * steps);
    TRY(cgrpo_relative_l1(&tx, 1, changes.data()));
    c.x = x.rows(), c.relative_l1 = own_changes.data(), c.stride = steps, c.shape = k.shape, c.workspace = run.space();
    run.launch("change", &c, steps);
    same("relative L1", own_changes, changes);
}

// distance, of one type, and mean_distance.
static void test_divergences(Run run, const Sampler &sampler, int64_t step) {
    double a, b, s, c;
    TRY(cgrpo_sampler_coefficients(sampler.handle, step, &a, &b, &s, &c));
    Array x = run.latents(), v = run.velocities(), w = run.velocities(), next = run.latents();
    Array wide = v.as(run.reference()), grad(run.reference(), run.batch, run.elements, run.layout);
    Array own_grad(run.velocity, run.batch, run.elements, run.layout);
    std::vector<double> upstream = upstream_of(run), divergence(run.batch), own(run.batch);
    cgrpo_tensor tx = x.tensor(), tv = wide.tensor(), tw = w.tensor(), tn = next.tensor(), tg = grad.tensor();
    chunkgrpo_cuda_DistanceArguments k = {};
    k.x = x.rows(), k.v = v.rows(), k.w = w.rows(), k.next = next.rows(), k.gradient = own_grad.rows();
    k.upstream = upstream.data(), k.distance = own.data(), k.shape = run.shape(), k.noise = run.library();
    k.numbers[0] = run.numbers(sampler, step);
    k.numbers[0].constant = 0;
    if (!run.mixed()) {
        TRY(cgrpo_divergence_from_velocity(sampler.handle, step, nullptr, CGRPO_DIVERGENCE_GAUSSIAN, &tv, &tw,
                                           divergence.data(), upstream.data(), &tg));
        k.numbers[0].factor = b * b / (2 * s * s);
        k.numbers[0].slope = 2 * k.numbers[0].factor / (double)run.elements;
        k.workspace = run.space();
        run.launch("distance", &k);
        same("divergences", own, divergence);
        same("gradient", own_grad, grad);
    }
    cgrpo_noise noise = noise_of(run);
    TRY(cgrpo_divergence_from_sampled(sampler.handle, step, nullptr, CGRPO_DIVERGENCE_VELOCITY, &tx, &tv, &noise, &tn,
                                      divergence.data(), upstream.data(), &tg));
    k.numbers[0].factor = 1 / (b * b);
    k.numbers[0].slope = 2 * b * k.numbers[0].factor / (double)run.elements;
    k.workspace = run.space();
    run.launch("mean_distance", &k);
    Array expected = run.expected(grad);
    same("divergences", own, divergence);
    if (!run.mixed() || run.layout.gap == 0) same("gradient", own_grad, expected);
    check("status", run.status() == 0);
}

// step_any for noised latents and predicted images, normal.
static void test_images(Run run, const Sampler &sampler) {
    Array x = run.latents(), v = run.velocities(), wide = v.as(run.reference()), out = run.latents(), got = out;
    cgrpo_tensor tx = x.tensor(), tv = wide.tensor(), to = out.tensor();
    const int64_t step = 5;
    TRY(cgrpo_predicted_image(sampler.handle, step, &tx, &tv, nullptr, &to));
    chunkgrpo_cuda_StepArguments k = {};
    k.x = x.rows(), k.v = v.rows(), k.next = got.rows(), k.shape = run.shape();
    k.numbers[0].a = run.real(1), k.numbers[0].b = run.real(-sampler.sigmas[step]);
    run.launch("step_any", &k); // without a workspace
    same("image", got, out);
    if (run.mixed()) return;

    std::vector<double> times;
    for (int64_t i = 0; i < run.batch; i++) times.push_back(((double)i + 0.37) / (double)run.batch);
    cgrpo_noise noise = noise_of(run);
    const int64_t draw = 7;
    TRY(cgrpo_forward_noised(&tx, times.data(), &noise, draw, 1, &to));
    k.v = k.x, k.times = times.data(), k.noise = run.library(), k.workspace = run.space();
    k.numbers[0].step = (uint32_t)((1ull << 31) + draw);
    run.launch("step_any", &k);
    same("noised latents", got, out);

    TRY(cgrpo_normal(seed, run.ids.data(), CGRPO_INITIAL_NOISE, 1, &to));
    chunkgrpo_cuda_NormalArguments n = {};
    n.x = got.rows(), n.shape = run.shape(), n.noise = run.library(), n.step = (uint32_t)-1;
    run.launch("normal", &n);
    same("normals", got, out);
    // A part of a sample has the noise of the whole, wherever it is cut.
    for (int64_t cut : {64, 100}) {
        if (run.elements <= cut) continue;
        Run part = run;
        part.elements -= cut;
        Array rest(run.type, run.batch, part.elements, {0, 0});
        n.x = rest.rows(), n.shape.elements = part.elements, n.shape.first_element = cut;
        part.launch("normal", &n);
        for (int64_t i = 0; i < run.batch; i++)
            same("normals of a part", rest.at(i * rest.stride), out.at(i * out.stride + cut),
                 (size_t)part.elements * size_of(run.type));
    }
}

// forward without and with all of its extras.
static void test_forward(Run run, bool given, bool extra) {
    Array clean = run.latents(), v = run.velocities(), old = run.velocities(), reference = run.velocities();
    Array e = run.latents(), grad(run.reference(), run.batch, run.elements, run.layout);
    Array wide = v.as(run.reference()), wide_old = old.as(run.reference()), wide_ref = reference.as(run.reference());
    Array own_grad(run.velocity, run.batch, run.elements, run.layout);
    cgrpo_noise noise = noise_of(run);
    cgrpo_tensor tc = clean.tensor(), tv = wide.tensor(), to = wide_old.tensor(), tr = wide_ref.tensor(),
                 te = e.tensor(), tg = grad.tensor();
    if (given) noise.given = &te;
    std::vector<std::vector<double>> numbers(11, std::vector<double>(run.batch)), own = numbers, upstream;
    for (int i = 0; i < 5; i++) upstream.push_back(upstream_of(run));
    cgrpo_forward_extras extras;
    cgrpo_forward_extras_init(&extras, sizeof extras);
    extras.absolute = numbers[1].data();
    if (extra) {
        extras.old_velocity = &to, extras.reference_velocity = &tr, extras.nft_beta = 0.3;
        double **places[] = {&extras.old_distance,      &extras.old_absolute,      &extras.reference_distance,
                             &extras.positive_distance, &extras.positive_absolute, &extras.negative_distance,
                             &extras.negative_absolute, &extras.old_divergence,    &extras.reference_divergence};
        for (int i = 0; i < 9; i++) *places[i] = numbers[i + 2].data();
        extras.grad_positive_distance = upstream[1].data(), extras.grad_negative_distance = upstream[2].data();
        extras.grad_old_divergence = upstream[3].data(), extras.grad_reference_divergence = upstream[4].data();
    }
    const int64_t draw = 3;
    TRY(cgrpo_forward_distance(&tc, &tv, &noise, draw, 1, &extras, numbers[0].data(), upstream[0].data(), &tg));

    chunkgrpo_cuda_ForwardArguments k = {};
    k.clean = clean.rows(), k.v = v.rows(), k.gradient = own_grad.rows();
    double **to_all = &k.to.distance;
    for (int i = 0; i < (extra ? 11 : 2); i++) to_all[i] = own[i].data();
    k.upstream.distance = upstream[0].data();
    if (extra) {
        k.old = old.rows(), k.reference = reference.rows(), k.beta = 0.3;
        k.upstream.positive_distance = upstream[1].data(), k.upstream.negative_distance = upstream[2].data();
        k.upstream.old_divergence = upstream[3].data(), k.upstream.reference_divergence = upstream[4].data();
    }
    k.shape = run.shape(), k.workspace = run.space(), k.noise = run.library();
    if (given) k.noise.kind = CHUNKGRPO_CUDA_GIVEN, k.noise.given = e.rows(), k.noise.given.step_stride = 0;
    k.step = (uint32_t)((1ull << 31) + draw);
    run.launch(extra ? "forward_extras" : "forward", &k);
    for (int i = 0; i < 11; i++) same("distances", own[i], numbers[i]);
    Array expected = run.expected(grad);
    if (!run.mixed() || run.layout.gap == 0) same("gradient", own_grad, expected);
    check("status", run.status() == 0);
}

// What is not finite is named by sample and step.
static void test_status(cgrpo_type type, const Sampler &sampler) {
    Run run(type, type, 3, 3000, {0, 0});
    Array x = run.latents(), v = run.velocities(), next = run.latents(), grad = run.velocities();
    std::vector<double> log_prob(run.batch), upstream = upstream_of(run);
    v.set(v.stride * 1 + 2500, NAN);
    chunkgrpo_cuda_StepArguments k = {};
    k.x = x.rows(), k.v = v.rows(), k.next = next.rows(), k.log_prob = log_prob.data(), k.stride = 1;
    k.shape = run.shape(), k.shape.first_sample = 40, k.workspace = run.space(), k.noise = run.library();
    k.numbers[0] = run.numbers(sampler, 6);
    run.launch("step", &k);
    check("a NaN is named", run.status() == (7ull << 32 | 42));
    v.set(v.stride * 1 + 2500, 1);
    run.launch("step", &k);
    check("the first one stays", run.status() == (7ull << 32 | 42));
    run.status() = 0;
    run.launch("step", &k);
    check("no NaN", run.status() == 0);
    chunkgrpo_cuda_DifferenceArguments d = {};
    d.x = k.x, d.v = k.v, d.next = k.next, d.gradient = grad.rows(), d.upstream = upstream.data();
    d.upstream_stride = 1, d.log_prob = log_prob.data(), d.stride = 1, d.shape = run.shape(), d.workspace = run.space();
    d.numbers[0] = run.numbers(sampler, 6);
    upstream[2] = INFINITY;
    for (const char *kernel : {"difference_gradient", "gradient", "difference_any"}) {
        run.status() = 0;
        run.launch(kernel, &d);
        check("a gradient too large is named", run.status() == (7ull << 32 | 3));
    }
    upstream[2] = 0;
    v.set(v.stride * 1 + 2500, NAN);
    d.workspace.partial = nullptr;
    for (const char *kernel : {"gradient", "difference_any"}) {
        run.status() = 0;
        run.launch(kernel, &d);
        check("a NaN is named without sums", run.status() == (7ull << 32 | 2));
    }
    if (type == CGRPO_TYPE_F16) return; // whose numbers are never too large
    v.set(v.stride * 1 + 2500, type == CGRPO_TYPE_F64 ? 1e160 : 1e25);
    upstream[1] = 0;
    for (const char *kernel : {"gradient", "difference_any"}) {
        run.status() = 0;
        run.launch(kernel, &d);
        check("what is too large to square is named without sums", run.status() == (7ull << 32 | 2));
    }
}

static void test_pair(cgrpo_type type, cgrpo_type velocity) {
    const Sampler sde(CGRPO_DYNAMICS_FLOW_SDE), ode(CGRPO_DYNAMICS_ODE), dpm(CGRPO_DYNAMICS_DPM_ODE);
    const Sampler squared(CGRPO_DYNAMICS_CPS, CGRPO_LOG_PROB_FORM_SQUARED_ERROR);
    const int64_t sizes[] = {1, 17, 1000, 1024, 2052, 5003};
    const Layout layouts[] = {{0, 0}, {0, 0}, {3, 1}, {4, 4}, {24, 1}, {5, 0}};
    for (int i = 0; i < 6; i++) {
        const Run run(type, velocity, 3, sizes[i], layouts[i]);
        test_step(run, sde, i + 1);
        test_any(run, sde, i & 1, i & 2);
        test_any(run, i & 1 ? ode : dpm, false, i & 2);
        test_images(run, sde);
        test_divergences(run, sde, 2 * i + 1);
        test_forward(run, i & 1, i & 2);
        test_trajectory(run, i & 1 ? sde : squared, 1, !(i & 1));
        test_trajectory(Run(type, velocity, 2, sizes[i], layouts[i], 3), sde, 3, false);
    }
    test_step(Run(type, velocity, 2, 40000, {0, 0}), sde, 4); // several segments of blocks
    test_trajectory(Run(type, velocity, 2, 37001, {0, 0}), sde, 1, false);
    // More segments than a warp takes at a time
    if (type == CGRPO_TYPE_F32 && type == velocity)
        test_trajectory(Run(type, velocity, 1, 530001, {0, 0}), sde, 1, false);
    if (type == velocity) test_status(type, sde);
}

int compare_all(const char *name, bool first_pair_alone) {
    const cgrpo_type f32 = CGRPO_TYPE_F32, f64 = CGRPO_TYPE_F64, bf16 = CGRPO_TYPE_BF16, f16 = CGRPO_TYPE_F16;
    const cgrpo_type pairs[][2] = {{f32, f32}, {f64, f64}, {bf16, bf16}, {f16, f16}, {f32, bf16}, {f32, f16}};
    for (auto &pair : pairs) {
        test_pair(pair[0], pair[1]);
        if (first_pair_alone) break;
    }
    printf("%s: %d comparisons of bits, %d different\n", name, comparisons, differences);
    return differences != 0;
}
