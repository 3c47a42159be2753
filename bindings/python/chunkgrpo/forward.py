"""Objectives of the forward process, which need neither an SDE nor log-probabilities: NFT, AWM, FPO, DGPO, CRD, DPO.

The model is asked at noised images x_t = (1 - t) x0 + t e instead of at the steps of its rollout, so any sampler may
have made them. d = mean |v - u|^2 with u = e - x0 is the loss of flow matching, and -d stands for log p(x0).

    import numpy as np, chunkgrpo as cg
    from chunkgrpo import forward

    t = forward.times(len(x0), 1, seed=7)[:, 0]             # (B,): a time for each sample
    draw = dict(seed=7, draw=0)                             # the noise e
    x_t = forward.noised(x0, t, **draw)                     # x0 (B, ...): what the policy sampled
    others = dict(old_velocity=old_model(x_t, t), reference_velocity=frozen_model(x_t, t), beta=1.0)
    v = model(x_t, t)
    d = forward.distances(x0, v, **draw, **others)
    out = forward.nft_loss(d, cg.advantages(reward(x0), group_size=4), times=t, kl=1e-4)
    grad_v = forward.distances_vjp(x0, v, out.grads, **draw, **others)      # into your model's backward pass
    log = cg.metrics(out)

Several draws of t and e per sample: distances (B, N), by `Distances.stack`. `chunkgrpo.torch.forward` has the same with
autograd, and streamed: the activations of one draw.

e follows from (seed, sample id, draw, element), is made again in each call, and is none that a rollout draws: one seed
may serve both. Samples with one id share it: those of a group (DGPO) or of a pair (DPO). Or give `noise`.
"""

from ._distances import Distances, distances, distances_vjp, noised, times
from ._forward_losses import ForwardLoss, awm_loss, crd_loss, dgpo_loss, dpo_loss, nft_loss, pairs
from ._methods import METHODS, Method

__all__ = [
    "Distances",
    "ForwardLoss",
    "METHODS",
    "Method",
    "awm_loss",
    "crd_loss",
    "dgpo_loss",
    "distances",
    "distances_vjp",
    "dpo_loss",
    "nft_loss",
    "noised",
    "pairs",
    "times",
]
