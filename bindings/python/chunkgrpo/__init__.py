"""Chunk-GRPO (arXiv 2510.21583) for flow-matching models, in the framework that you have.

You own the model. This package owns what lies between the velocity that the model returns and the gradient that it gets
back. One training iteration, in the order in which you meet it:

    import numpy as np, chunkgrpo as cg

    # 1. Where sigma falls from 1 (noise) to 0 (image), and how a step is taken: x' = a x + b v + s e.
    schedule = cg.Schedule.shifted(steps=17, shift=3.0)
    sampler = cg.Sampler(schedule, dynamics="flow_sde", eta=0.7)

    # 2. Rollouts: `velocity(latents, sigma, step)` is your model. 12 samples per prompt start from the same noise.
    iteration = 0                               # another number in each: the same seed draws the same noise and chunks
    x_init = cg.initial_noise((24, 16, 64, 64), seed=iteration, group_size=12)
    traj = sampler.rollout(velocity, x_init, seed=iteration)

    # 3. Rewards become advantages within each prompt's group.
    adv = cg.advantages(reward(traj.images), group_size=12)

    # 4. Chunks: steps that are judged together. Train half of them, drawn by how much they move the latents.
    plan = cg.ChunkPlan([2, 3, 4, 7])
    chosen = plan.select(batch=24, fraction=0.5, weights=plan.weights(traj.relative_l1), seed=iteration)

    # 5. The policy that is trained, at the latents that were sampled; loss and gradient.
    sigmas = schedule.sigmas.tolist()
    new_v = np.stack([velocity(traj.latents[:, k], sigmas[k], k) for k in range(plan.steps)], axis=1)
    new_logp = sampler.log_probs(traj.latents, new_v)
    out = cg.chunk_loss(new_logp, traj.log_probs, adv, plan, selection=chosen)
    grad_v = sampler.log_probs_vjp(traj.latents, new_v, out.grad_log_probs)     # into your model's backward pass

    # 6. A flat dict for your logger. docs/statistics.md says how a healthy run looks.
    log = cg.metrics(out)

`Trainer` is the same with a small network of the library's own, for when you have no model at hand.

Modules for those who have one. None is imported with the package, which needs numpy alone:

    chunkgrpo.torch      differentiable log-probabilities and chunk loss: `loss.backward()`; the streamed chunk
                         gradient, which holds the activations of one step
    chunkgrpo.diffusers  a scheduler that flow pipelines take as theirs, and that records the trajectory
    chunkgrpo.jax        steps, log-probabilities and the chunk loss under jit, grad and vmap
    chunkgrpo.forward    NFT, AWM, FPO, DGPO, CRD and DPO, which need no SDE; chunkgrpo.torch.forward has them with
                         autograd and streamed, chunkgrpo.jax.forward under jit and grad
    chunkgrpo.distributed  a batch that is spread over processes: the numbers of one that has all of it
    chunkgrpo.plot       pictures of plans, runs and samples, by matplotlib; the command `chunkgrpo` has more to look at
    chunkgrpo.unirl      Chunk-GRPO as an algorithm of UniRL, and our samplers as its strategies
    chunkgrpo.verl_omni  Chunk-GRPO as a loss of verl-omni
    chunkgrpo.compat     the names and signatures that Flow-GRPO's, DanceGRPO's and GCPO's scripts call

Arrays. B samples, T sampling steps, S = T - 1 trained steps (the last one is left out), K chunks. Latents are
(B, ...) of float32, float64, float16 or bfloat16 (ml_dtypes'), of numpy, PyTorch, JAX, MLX, CuPy or whatever exports
DLPack; results are of the same kind, element type and device. Memory of the CPU is not copied where the sizes after the
batch are contiguous. Log-probabilities, advantages and losses are float64 (float32 in JAX without x64, and in MLX away
from the CPU). Every call returns fresh arrays.

Units. sigma, 1 ... 0, is the share of noise; neither it nor eta has a unit. Log-probabilities are in nats per element:
means over the D elements of a sample, not sums. A model that wants timesteps gets 1000 sigma.

Seeds. The library's noise is a function of (seed, sample id, step, element) alone: the same bits for any batch split,
thread count or machine. Give each sample of a training run its own id.

Errors. Every class is an `Error` and the built-in one that you expect: InvalidArgument is a ValueError, WrongType a
TypeError, and so on. An exception of a callback comes out of the call that ran it. An error leaves everything as it
was.
"""

from ._divergences import (
    divergence,
    divergence_vjp,
    divergences,
    divergences_from_sampled,
    divergences_from_sampled_vjp,
    divergences_vjp,
)
from ._diversity import diversity
from ._generated import ChunkStats, IterationReport
from ._library import lib
from ._metrics import image_metrics, merge_stats, metrics, reward_metrics
from ._residuals import log_prob_residual, log_probs_residuals, residual_vjp, residuals_vjp
from ._rows import concatenate
from ._self_check import OnPolicyReport, RatioWarning, check_on_policy
from .chunks import ChunkFit, ChunkPlan
from .credit import (
    ZeroStdGroups,
    importance_weights,
    step_advantages,
    step_gains,
    tree_advantages,
    win_rates,
    zero_std_groups,
)
from .errors import (
    CallbackFailed,
    DeviceFailed,
    Error,
    InvalidArgument,
    IOFailure,
    NonFinite,
    OutOfMemory,
    WrongType,
)
from ._part import Part
from .noise import initial_noise, normal
from .norms import NormHinge, norm_hinge, norm_hinge_vjp
from .objective import (
    ChunkLoss,
    RewardHistory,
    advantages,
    best_of_n,
    chunk_loss,
)
from .process import instruction_set, set_thread_limit
from .recipes import RECIPES, Recipe
from .sampler import Sampler
from .schedule import Schedule, flux_mu
from .training import Trainer
from .trajectory import Trajectory, relative_l1
from .weights import gcpo_weights, gradient_weights, tempflow_weights
from .window import SDEWindow

__version__: str = lib.cgrpo_version().decode()

__all__ = [
    "CallbackFailed",
    "DeviceFailed",
    "ChunkFit",
    "ChunkLoss",
    "ChunkPlan",
    "ChunkStats",
    "Error",
    "IOFailure",
    "InvalidArgument",
    "IterationReport",
    "NonFinite",
    "NormHinge",
    "OnPolicyReport",
    "OutOfMemory",
    "Part",
    "RECIPES",
    "RatioWarning",
    "Recipe",
    "RewardHistory",
    "SDEWindow",
    "Sampler",
    "Schedule",
    "Trainer",
    "Trajectory",
    "WrongType",
    "ZeroStdGroups",
    "__version__",
    "advantages",
    "best_of_n",
    "check_on_policy",
    "chunk_loss",
    "concatenate",
    "divergence",
    "divergence_vjp",
    "divergences",
    "divergences_from_sampled",
    "divergences_from_sampled_vjp",
    "divergences_vjp",
    "diversity",
    "flux_mu",
    "gcpo_weights",
    "gradient_weights",
    "image_metrics",
    "importance_weights",
    "initial_noise",
    "instruction_set",
    "log_prob_residual",
    "log_probs_residuals",
    "merge_stats",
    "metrics",
    "norm_hinge",
    "norm_hinge_vjp",
    "normal",
    "relative_l1",
    "residual_vjp",
    "residuals_vjp",
    "reward_metrics",
    "set_thread_limit",
    "step_advantages",
    "step_gains",
    "tempflow_weights",
    "tree_advantages",
    "win_rates",
    "zero_std_groups",
]
