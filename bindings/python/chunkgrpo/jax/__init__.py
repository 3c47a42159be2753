"""JAX: steps, log-probabilities and the chunk loss under `jit`, `grad` and `vmap`.

    import chunkgrpo as cg, chunkgrpo.jax as cgj

    def objective(params, latents, old_log_probs, adv):      # latents (B, T + 1, ...), the others (B, S) and (B,)
        velocities = jnp.stack([model(params, latents[:, k], sigmas[k]) for k in range(plan.steps)], axis=1)
        return cgj.chunk_policy_loss(sampler, latents, velocities, old_log_probs, adv, plan).loss

    gradient = jax.jit(jax.grad(objective))

The library runs on the host, in `jax.pure_callback`; latents on another device travel there and back. Any argument may
be a traced array, `step`, `seed` and options too; what is no JAX array is a constant of the compiled program. Under
`vmap` one callback serves all lanes.

Gradients are the closed forms of the library: in the velocities, the new log-probabilities and ratio_bias. All else is
data; where a derivative in it is asked for, an InvalidArgument asks for `jax.lax.stop_gradient`.

Types. Latents (B, ...) are float32, bfloat16, float16, or float64 with x64 enabled. Velocities in bfloat16 beside
float32 latents are read where they lie; other velocities, and next_latents, of another type are converted to
that of the latents. A gradient has its velocity's type. Log-probabilities are computed in float64,
which JAX stores in float32 unless x64 is enabled: that moves a ratio by about 1e-7. The ratio of the policy that
sampled is 1 all the same.

Errors. Wrong shapes, types and options are refused while tracing, by the classes of `chunkgrpo.errors`. Wrong numbers
(a NaN, a traced step out of range) are refused by the same classes outside of `jit`; inside, JAX raises its
JaxRuntimeError, which ends with the class and the sentence of ours.

JAX's own callbacks need a second thread: on a single core, or with many Python threads that run programs with
callbacks, JAX may wait for ever (jax-ml/jax issue 24255).
"""

from .._extras import needed

needed("jax", __name__, "jax")

from .functions import chunk_loss, chunk_policy_loss, divergence, divergences, log_prob, log_probs, step
from .norms import norm_hinge

__all__ = [
    "chunk_loss",
    "chunk_policy_loss",
    "divergence",
    "divergences",
    "log_prob",
    "log_probs",
    "norm_hinge",
    "step",
]
