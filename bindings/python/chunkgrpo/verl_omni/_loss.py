"""The loss: the chunk objective of a micro-batch, and what each of its steps adds to the gradient."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from verl_omni.trainer.diffusion.diffusion_algos import DiffusionLossFn, DiffusionLossResult, register_diffusion_loss

from .. import _arrays
from .._draws import digests
from ..errors import InvalidArgument
from ..objective import chunk_loss
from ..trajectory import relative_l1
from ._config import Settings


class Judged(NamedTuple):
    """A micro-batch after its first pass. S is the number of its SDE steps."""

    value: float
    slopes: Tensor
    """(B, S): of the loss in each log-probability."""
    drift_slopes: Optional[Tensor]
    """(B, S): in each drift of the means, with `guard`."""
    metrics: dict[str, float]

    def of(self, step: int) -> dict[str, Tensor]:
        """What the loss of one step reads."""
        value = torch.full((len(self.slopes),), self.value, device=self.slopes.device)
        found = {"chunk_slopes": self.slopes[:, step] * self.slopes.shape[1], "chunk_value": value}
        if self.drift_slopes is not None:
            found["chunk_drift_slopes"] = self.drift_slopes[:, step] * self.slopes.shape[1]
        return found


def select(settings: Settings, micro_batch: Any, moment: str) -> NDArray[np.bool_]:
    """(B, K) bool, drawn anew at each `moment` of the run. A sample's key is its old log-probabilities: the same on every rank that has it."""
    old = micro_batch["old_log_probs"]
    if old.shape[1] != settings.plan.steps:
        raise InvalidArgument(
            f"plan has {settings.plan.steps} steps; the rollout has {old.shape[1]} SDE steps (all_timesteps): the sizes must "
            "sum to these"
        )

    def keys() -> NDArray[np.uint64]:
        return digests(np.ascontiguousarray(row).tobytes() for row in old.detach().float().cpu().numpy())

    def movement() -> NDArray[np.float64]:
        return np.asarray(_arrays.plain(relative_l1(micro_batch["all_latents"][:, : old.shape[1] + 1]), ""))

    return settings.draw(settings.plan, len(old), moment, keys, movement)


def judge(
    settings: Settings,
    micro_batch: Any,
    selection: NDArray[np.bool_],
    log_probs: Tensor,
    drifts: Optional[Tensor],
    noise: Optional[NDArray[np.float64]],
) -> Judged:
    """The chunk loss of log_probs (B, S), with the Gaussian drifts (B, S) of the means and the noise scales (S,)."""
    options = dict(settings.options)
    if options.get("normaliser") is not None:
        options["normaliser"] *= len(log_probs)
    if settings.masks:
        options["divergence"] = drifts
    if settings.guard:
        options["ratio_bias"], options["ratio_scale"] = drifts, noise
    advantages = micro_batch["advantages"].clamp(-settings.limit, settings.limit)
    old = micro_batch["old_log_probs"]
    out = chunk_loss(log_probs, old, advantages, settings.plan, selection=selection, **options)
    stats = {f"actor/chunk/{name}": float(value) for name, value in asdict(out.stats).items()}
    return Judged(out.loss, out.grad_log_probs, out.grad_ratio_bias, stats)


def drift(model_output: Any, old_mean: Tensor) -> Tensor:
    """(B,): mean (m - m')^2 / (2 s^2), as verl-omni's Flow-DPPO and GRPO-Guard have it."""
    squares: Tensor = (model_output["prev_sample_mean"] - old_mean).square().flatten(1).mean(1)
    return squares / (2 * scale(model_output) ** 2)


def scale(model_output: Any) -> Tensor:
    """The noise scale s of a step."""
    found: Tensor = model_output["std_dev_t"].mean() * model_output["sqrt_dt"].mean()
    return found


class ChunkGRPOLoss(DiffusionLossFn):
    """One step's part of the chunk loss. Its value is that of the micro-batch, its gradient that of the step."""

    required_model_output_keys = ("log_probs",)
    required_data_keys = ("old_log_probs", "advantages")

    @classmethod
    def compute_loss(cls, *, terms: list[tuple[Tensor, Tensor]], value: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """terms: (slopes (B,), variable (B,)), each of which adds its slope times its variable."""
        moving = sum(((slopes.to(x) * (x - x.detach())).sum() for slopes, x in terms), value.mean())
        return moving, {}

    def __call__(self, *, config: Any, model_output: Any, data: Any) -> Any:
        if "chunk_slopes" not in data:
            raise InvalidArgument(
                "loss_mode 'chunk_grpo' needs the engine of chunkgrpo.verl_omni, which is verl-omni's FSDP engine with a first "
                "pass: take actor.strategy=fsdp2 or fsdp; VeOmni's engine has none"
            )
        if data.get("rollout_is_weights", None) is not None:
            raise InvalidArgument(
                "loss_mode 'chunk_grpo' does not read the weights of rollout_correction, which are of steps; set its "
                "rollout_is and rollout_rs to null"
            )
        terms = [(data["chunk_slopes"], model_output["log_probs"])]
        if "chunk_drift_slopes" in data:
            terms.append((data["chunk_drift_slopes"], drift(model_output, data["old_prev_sample_mean"])))
        loss, metrics = self.compute_loss(terms=terms, value=data["chunk_value"])
        return DiffusionLossResult(loss=loss, metrics=metrics)


register_diffusion_loss("chunk_grpo")(ChunkGRPOLoss)
