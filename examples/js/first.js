// Chunk-GRPO from JavaScript over the C interface, by Deno's calls to C: examples/c/first.c, and what that prints.
//
//     make lib && deno run --allow-ffi examples/js/first.js
//
// A struct of C is bytes here: `_init` fills them, and `set` writes a field at the offset that the header gives it.
const GROUP = 12, B = 4 * GROUP, T = 17, S = T - 1, D = 2, F32 = 1, INITIAL_NOISE = -1n;

const library = Deno.dlopen(new URL("../../build/lib/libchunkgrpo.so", import.meta.url), {
  cgrpo_last_error: { parameters: [], result: "pointer" },
  cgrpo_schedule_options_init: { parameters: ["buffer", "usize"], result: "void" },
  cgrpo_noise_init: { parameters: ["buffer", "usize"], result: "void" },
  cgrpo_trajectory_init: { parameters: ["buffer", "usize"], result: "void" },
  cgrpo_advantage_options_init: { parameters: ["buffer", "usize"], result: "void" },
  cgrpo_schedule_make: { parameters: ["i64", "buffer", "buffer"], result: "i32" },
  cgrpo_sampler_create: { parameters: ["buffer", "i64", "buffer", "buffer"], result: "i32" },
  cgrpo_sampler_destroy: { parameters: ["pointer"], result: "void" },
  cgrpo_normal: { parameters: ["u64", "buffer", "i64", "i32", "buffer"], result: "i32" },
  cgrpo_rollout: { parameters: ["pointer", "buffer", "i64", "buffer", "function", "pointer"], result: "i32" },
  cgrpo_advantages: { parameters: ["buffer", "i64", "buffer", "buffer"], result: "i32" },
  cgrpo_chunk_loss: {
    parameters: [..."bbbiibibbbbb"].map((kind) => (kind === "b" ? "buffer" : "i64")),
    result: "i32",
  },
  cgrpo_trajectory_log_probs_vjp: {
    parameters: ["pointer", "i64", "buffer", "buffer", "buffer", "buffer", "buffer"],
    result: "i32",
  },
});
const c = library.symbols;

function check(status) {
  if (status !== 0) throw new Error(new Deno.UnsafePointerView(c.cgrpo_last_error()).getCString());
}

const address = (array) => Deno.UnsafePointer.value(Deno.UnsafePointer.of(array));
const at = (pointer, bytes) => new Deno.UnsafePointerView(Deno.UnsafePointer.create(pointer)).getBigUint64(bytes);

// A struct of `size` bytes with its defaults.
function struct(name, size) {
  const bytes = new Uint8Array(size);
  c[`cgrpo_${name}_init`](bytes, BigInt(size));
  return bytes;
}

function set(bytes, offset, kind, value) {
  new DataView(bytes.buffer)[`set${kind}`](offset, value, true);
}

// cgrpo_tensor: data, shape and strides at 0, 8, 16; ndim and type at 24 and 28; 56 bytes. C reads shape and strides
// where they are, so they are kept.
const kept = [];
function tensor(data, shape, strides = null) {
  const bytes = new Uint8Array(56);
  [data, BigInt64Array.from(shape, BigInt), strides && BigInt64Array.from(strides, BigInt)].forEach((array, i) => {
    kept.push(array);
    if (array) set(bytes, 8 * i, "BigUint64", BigInt(address(array)));
  });
  set(bytes, 24, "Int32", shape.length);
  set(bytes, 28, "Int32", F32);
  return bytes;
}

const bias = [0, 0], target = [2, -1]; // the weights of our model; what it should come to
const x = new Float32Array(B * (T + 1) * D), gradient = new Float32Array(B * S * D);
const velocities = new Float32Array(B * S * D); // what the model said in the rollout
const sigmas = new Float64Array(T + 1), logProbs = new Float64Array(B * S), grads = new Float64Array(B * S);
const rewards = new Float64Array(B), advantages = new Float64Array(B), loss = new Float64Array(1);
const latents = tensor(x, [B, T + 1, D]), start = tensor(x, [B, D], [(T + 1) * D, 1]);
const v = tensor(velocities, [B, S, D]), dv = tensor(gradient, [B, S, D]);
const chunks = BigInt64Array.of(2n, 3n, 4n, 7n);

// Optimal for x0 ~ N(0, 1); the bias moves it. An exception must not leave it: return non-zero instead, which stops the
// rollout.
const velocity = new Deno.UnsafeCallback(
  { parameters: ["pointer", "i64", "f64", "pointer", "pointer"], result: "i32" },
  (_user, step, sigma, input, output) => {
    const view = (t) => { // the rows of a tensor's (B, D), which may be apart
      const [data, stride] = [at(t, 0), Number(at(at(t, 16), 0))];
      const memory = Deno.UnsafePointerView.getArrayBuffer(Deno.UnsafePointer.create(data), 4 * ((B - 1) * stride + D));
      return [new Float32Array(memory), stride];
    };
    const [from, apart] = view(Deno.UnsafePointer.value(input)), [to, stride] = view(Deno.UnsafePointer.value(output));
    for (let i = 0; i < B; i++) {
      for (let j = 0; j < D; j++) {
        const slope = (2 * sigma - 1) / ((1 - sigma) * (1 - sigma) + sigma * sigma);
        to[i * stride + j] = from[i * apart + j] * slope + bias[j];
        if (step < S) velocities[(i * S + Number(step)) * D + j] = to[i * stride + j]; // the last step is not trained
      }
    }
    return 0;
  },
);

const spacing = struct("schedule_options", 48), noise = struct("noise", 32);
const grouping = struct("advantage_options", 104), handle = new BigUint64Array(1);
set(spacing, 16, "Float64", 3); // shift
set(grouping, 8, "BigInt64", BigInt(GROUP)); // group_size
check(c.cgrpo_schedule_make(BigInt(T), spacing, sigmas));
check(c.cgrpo_sampler_create(sigmas, BigInt(T + 1), null, handle)); // null: the defaults, Flow-SDE with eta 0.7
const sampler = Deno.UnsafePointer.create(handle[0]);

for (let iteration = 0; iteration <= 100; iteration++) {
  set(noise, 16, "BigUint64", BigInt(iteration)); // seed
  check(c.cgrpo_normal(BigInt(iteration), null, INITIAL_NOISE, 1, start)); // into x[:, 0]
  const trajectory = struct("trajectory", 104);
  trajectory.set(latents, 8);
  set(trajectory, 64, "BigUint64", BigInt(address(logProbs)));
  check(c.cgrpo_rollout(sampler, trajectory, BigInt(T), noise, velocity.pointer, null));

  for (let i = 0; i < B; i++) {
    rewards[i] = 0;
    for (let j = 0; j < D; j++) rewards[i] -= (x[(i * (T + 1) + T) * D + j] - target[j]) ** 2;
  }
  check(c.cgrpo_advantages(rewards, BigInt(B), grouping, advantages));
  // We train on the policy that sampled, so new and old log-probabilities are the same.
  const [batch, steps] = [BigInt(B), BigInt(S)];
  check(c.cgrpo_chunk_loss(logProbs, logProbs, advantages, batch, steps, chunks, 4n, null, loss, grads, null, null));
  check(c.cgrpo_trajectory_log_probs_vjp(sampler, 0n, null, latents, v, grads, dv));

  if (iteration % 20 === 0) {
    const fixed = (number, width) => number.toFixed(3).padStart(width);
    const mean = rewards.reduce((sum, reward) => sum + reward / B, 0);
    console.log(
      `iteration ${String(iteration).padStart(3)}   mean reward ${fixed(mean, 7)}   ` +
        `bias ${fixed(bias[0], 6)} ${fixed(bias[1], 6)}`,
    );
  }
  // d loss / d bias is the sum of d loss / d velocity; yours goes on through your model.
  gradient.forEach((slope, n) => bias[n % D] -= 0.5 * slope);
}
c.cgrpo_sampler_destroy(sampler);
velocity.close();
