"""Chunk-GRPO inside PyTorch's autograd: `import chunkgrpo.torch as cgt`.

    traj = sampler.rollout(velocity, x_init, seed=7)                 # tensors in, tensors out; runs under no_grad
    adv = cg.advantages(reward(traj.images), group_size=12)

    v = torch.stack([model(traj.latents[:, k], sigmas[k], k) for k in range(plan.steps)], 1)
    out = cgt.chunk_policy_loss(sampler, traj.latents, v, traj.log_probs, adv, plan)
    out.loss.backward()

keeps the activations of every step. `streamed_backward` gives the same gradient and keeps those of one step.

Gradients are closed forms of the library's (no graph is built for them), and can be taken once: a second derivative is
refused. Tensors are on the CPU or a CUDA device, where kernels take them on the current stream; of other devices they are
copied to the CPU and back.
Log-probabilities and losses are float64, whatever autocast says. Inside torch.compile these functions break the graph.
"""

from .._extras import needed

needed("torch", __name__, "torch")

from ._loss import ChunkLoss
from ._parallel import no_sync
from .autograd import chunk_loss, chunk_policy_loss, divergence, divergences, log_prob, log_probs, step
from .norms import norm_hinge
from .streamed import streamed_backward

__all__ = [
    "ChunkLoss",
    "chunk_loss",
    "chunk_policy_loss",
    "divergence",
    "divergences",
    "log_prob",
    "log_probs",
    "no_sync",
    "norm_hinge",
    "step",
    "streamed_backward",
]
