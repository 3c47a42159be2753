// Chunk-GRPO from Rust over the C interface: examples/c/first.c, and what that prints.
//
//     make lib && rustc -O examples/rust/first.rs -L build/lib -C link-arg=-Wl,-rpath,$PWD/build/lib -o build/first-rust
//
// The declarations are those that this program needs; `bindgen include/chunkgrpo.h` writes all of them.
use std::{ffi::{c_char, c_int, c_void, CStr}, mem::{size_of, zeroed}, ptr::{null, null_mut}};
const GROUP: usize = 12;
const B: usize = 4 * GROUP;
const T: usize = 17;
const S: usize = T - 1;
const D: usize = 2;

#[repr(C)] struct Tensor { data: *mut c_void, shape: *const i64, strides: *const i64, ndim: i32, kind: i32, others: [i32; 2], more: [usize; 2] }
#[repr(C)] struct Noise { struct_size: usize, given: *const Tensor, seed: u64, sample_ids: *const u64 }
#[repr(C)] struct Trajectory { struct_size: usize, latents: Tensor, log_probs: *mut f64, relative_l1: *mut f64, position: i64, others: [u64; 2] }
#[repr(C)] struct ScheduleOptions { struct_size: usize, base: i32, shift_kind: i32, shift: f64, mu: f64, terminal: f64, last: [i32; 2] }
#[repr(C)] struct AdvantageOptions { struct_size: usize, group_size: i64, others: [u64; 11] }
type VelocityFn = extern "C" fn(*mut c_void, i64, f64, *const Tensor, *const Tensor) -> c_int;

#[link(name = "chunkgrpo")]
extern "C" {
    fn cgrpo_last_error() -> *const c_char;
    fn cgrpo_schedule_options_init(options: *mut ScheduleOptions, size: usize);
    fn cgrpo_advantage_options_init(options: *mut AdvantageOptions, size: usize);
    fn cgrpo_noise_init(noise: *mut Noise, size: usize);
    fn cgrpo_trajectory_init(trajectory: *mut Trajectory, size: usize);
    fn cgrpo_schedule_make(steps: i64, options: *const ScheduleOptions, sigmas: *mut f64) -> i32;
    fn cgrpo_sampler_create(sigmas: *const f64, count: i64, options: *const c_void, sampler: *mut *mut c_void) -> i32;
    fn cgrpo_sampler_destroy(sampler: *mut c_void);
    fn cgrpo_normal(seed: u64, ids: *const u64, step: i64, threads: i32, out: *const Tensor) -> i32;
    fn cgrpo_rollout(sampler: *const c_void, trajectory: *mut Trajectory, end: i64, noise: *const Noise, velocity: VelocityFn,
        user: *mut c_void) -> i32;
    fn cgrpo_advantages(rewards: *const f64, count: i64, options: *const AdvantageOptions, advantages: *mut f64) -> i32;
    fn cgrpo_chunk_loss(new: *const f64, old: *const f64, advantages: *const f64, batch: i64, steps: i64, sizes: *const i64,
        chunks: i64, options: *const c_void, loss: *mut f64, grads: *mut f64, ratios: *mut f64, stats: *mut c_void) -> i32;
    fn cgrpo_trajectory_log_probs_vjp(sampler: *const c_void, first_step: i64, first_steps: *const i64, latents: *const Tensor,
        velocities: *const Tensor, grad_log_probs: *const f64, grad_velocities: *const Tensor) -> i32;
}

fn check(status: i32) { assert!(status == 0, "{}", unsafe { CStr::from_ptr(cgrpo_last_error()) }.to_string_lossy()); }

fn tensor(data: &mut [f32], shape: &[i64], strides: Option<&[i64]>) -> Tensor {
    Tensor { data: data.as_mut_ptr().cast(), shape: shape.as_ptr(), strides: strides.map_or(null(), |s| s.as_ptr()),
        ndim: shape.len() as i32, kind: 1, others: [0; 2], more: [0; 2] } // 1: CGRPO_TYPE_F32
}

struct Model { bias: [f64; D], said: Vec<f32> } // its weights, and what it said in the rollout

// Optimal for x0 ~ N(0, 1); the bias moves it. A panic must not leave a callback, and with `extern "C"` it ends the process.
extern "C" fn velocity(user: *mut c_void, step: i64, sigma: f64, latents: *const Tensor, out: *const Tensor) -> c_int {
    let (model, x, v) = unsafe { (&mut *user.cast::<Model>(), &*latents, &*out) };
    for (i, j) in (0..B * D).map(|n| (n / D, n % D)) {
        let at = |t: &Tensor| unsafe { t.data.cast::<f32>().add(i * *t.strides as usize + j) };
        let value = unsafe { *at(x) as f64 } * (2.0 * sigma - 1.0) / ((1.0 - sigma) * (1.0 - sigma) + sigma * sigma) + model.bias[j];
        unsafe { *at(v) = value as f32 };
        if (step as usize) < S { model.said[(i * S + step as usize) * D + j] = value as f32; } // the last step is not trained
    }
    0
}

fn main() { unsafe {
    let target = [2.0, -1.0];
    let mut model = Model { bias: [0.0; D], said: vec![0.0; B * S * D] };
    let (mut x, mut gradient) = (vec![0f32; B * (T + 1) * D], vec![0f32; B * S * D]);
    let (mut sigmas, mut log_probs, mut grads, mut advantages) = ([0.0; T + 1], vec![0.0; B * S], vec![0.0; B * S], [0.0; B]);
    let (start_shape, start_strides, chunks) = ([B as i64, D as i64], [((T + 1) * D) as i64, 1], [2i64, 3, 4, 7]);
    let (x_shape, v_shape) = ([B as i64, T as i64 + 1, D as i64], [B as i64, S as i64, D as i64]);
    let (mut spacing, mut grouping, mut noise): (ScheduleOptions, AdvantageOptions, Noise) = (zeroed(), zeroed(), zeroed());
    let mut sampler = null_mut();
    cgrpo_schedule_options_init(&mut spacing, size_of::<ScheduleOptions>());
    spacing.shift = 3.0;
    check(cgrpo_schedule_make(T as i64, &spacing, sigmas.as_mut_ptr()));
    check(cgrpo_sampler_create(sigmas.as_ptr(), T as i64 + 1, null(), &mut sampler)); // null: Flow-SDE with eta 0.7
    cgrpo_noise_init(&mut noise, size_of::<Noise>());
    cgrpo_advantage_options_init(&mut grouping, size_of::<AdvantageOptions>());
    grouping.group_size = GROUP as i64;
    for iteration in 0..=100 {
        noise.seed = iteration;
        check(cgrpo_normal(noise.seed, null(), -1, 1, &tensor(&mut x, &start_shape, Some(&start_strides)))); // initial noise
        let mut trajectory: Trajectory = zeroed();
        cgrpo_trajectory_init(&mut trajectory, size_of::<Trajectory>());
        trajectory.latents = tensor(&mut x, &x_shape, None);
        trajectory.log_probs = log_probs.as_mut_ptr();
        check(cgrpo_rollout(sampler, &mut trajectory, T as i64, &noise, velocity, (&mut model as *mut Model).cast()));
        let rewards: Vec<f64> = x.chunks((T + 1) * D).map(|sample| (0..D).map(|j| -(sample[T * D + j] as f64 - target[j]).powi(2)).sum()).collect();
        check(cgrpo_advantages(rewards.as_ptr(), B as i64, &grouping, advantages.as_mut_ptr()));
        let (old, mut loss) = (log_probs.as_ptr(), 0.0); // on the policy that sampled, new and old are the same
        check(cgrpo_chunk_loss(old, old, advantages.as_ptr(), B as i64, S as i64, chunks.as_ptr(), 4, null(), &mut loss,
            grads.as_mut_ptr(), null_mut(), null_mut()));
        check(cgrpo_trajectory_log_probs_vjp(sampler, 0, null(), &trajectory.latents, &tensor(&mut model.said, &v_shape, None),
            grads.as_ptr(), &tensor(&mut gradient, &v_shape, None)));
        if iteration % 20 == 0 {
            let mean = rewards.iter().map(|r| r / B as f64).sum::<f64>();
            println!("iteration {iteration:3}   mean reward {mean:7.3}   bias {:6.3} {:6.3}", model.bias[0], model.bias[1]);
        }
        for (i, g) in gradient.iter().enumerate() { model.bias[i % D] -= 0.5 * *g as f64; }
    }
    cgrpo_sampler_destroy(sampler);
} }
