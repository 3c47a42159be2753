"""Objectives of the forward process inside PyTorch's autograd: NFT, AWM, FPO, DGPO, CRD, DPO. As `chunkgrpo.forward`.

    from chunkgrpo.torch import forward

    def objective(d, t):                                     # d: distances (B, N), t (B, N)
        return forward.nft_loss(d, advantages, times=t, kl=1e-4)

    out = forward.streamed_backward(model, images, times, objective, old=old_model, reference=frozen_model, beta=1.0, seed=7)

Each model is called as model(x_t, t, j): noised latents (B, ...), their times (B,) and the number of the draw. With
other terms an objective returns a tensor, `nft_loss(...).loss + 0.1 * d.old_divergence.mean()`; a ForwardLoss brings its
statistics too: `chunkgrpo.metrics(out)`. `distances` has the same for one velocity that you have.
"""

from .._distances import Distances, noised, times
from .._forward_losses import pairs
from .._methods import METHODS, Method
from ._forward import ForwardLoss, awm_loss, crd_loss, dgpo_loss, distances, dpo_loss, nft_loss
from ._forward_streamed import Streamed, streamed_backward

__all__ = [
    "Distances",
    "ForwardLoss",
    "METHODS",
    "Method",
    "Streamed",
    "awm_loss",
    "crd_loss",
    "dgpo_loss",
    "distances",
    "dpo_loss",
    "nft_loss",
    "noised",
    "pairs",
    "streamed_backward",
    "times",
]
