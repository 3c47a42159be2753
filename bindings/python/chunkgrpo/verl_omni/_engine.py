"""verl-omni's FSDP engine with a first pass over the steps of each micro-batch (verl-omni@a1139ba,
verl_omni/workers/engine/fsdp/diffusers_impl.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine.base import EngineRegistry
from verl_omni.workers.engine.fsdp.diffusers_impl import PPODiffusersFSDPEngine

from ..errors import InvalidArgument
from ..torch._drawn import Drawn
from ._config import ChunkLossConfig, Settings
from ._loss import Judged, drift, judge, scale, select


class ChunkFSDPEngine(PPODiffusersFSDPEngine):
    """PPODiffusersFSDPEngine; with loss_mode "chunk_grpo" each micro-batch is judged before its steps are trained."""

    _updates = 0
    _rollout = 0
    _moved = True
    _judged: Judged
    _runs: list[bool]
    _drawn: Drawn

    def forward_backward_batch(self, data: Any, loss_function: Any, forward_only: bool = False) -> Any:
        """verl-omni's loop over micro-batches and steps."""
        if forward_only:
            self._moved = False
        else:
            self._count_update()
        return super().forward_backward_batch(data, loss_function, forward_only)

    @property
    def _moment(self) -> str:
        return f"{self._rollout} {self._updates}"

    def _count_update(self) -> None:
        """A moment is the learning rate's step, of which checkpoints have the number, and the updates since: so that a
        resumed run goes on with the draws of the one that was not interrupted."""
        rollout = getattr(getattr(self, "lr_scheduler", None), "last_epoch", 0)
        if rollout != self._rollout:
            self._rollout, self._updates = rollout, 0
        self._updates += 1

    def optimizer_step(self) -> Any:
        """verl-omni's."""
        self._moved = True
        return super().optimizer_step()

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool, step: int) -> Any:
        """One step of a micro-batch; before its first one, the first pass."""
        actor = getattr(loss_function, "keywords", {}).get("config")
        config = getattr(actor, "diffusion_loss", None)
        if forward_only or not isinstance(config, ChunkLossConfig):
            return super().forward_step(micro_batch, loss_function, forward_only, step)
        if step == 0:
            self._judge(micro_batch, config._settings, actor)
        judged = self._judged
        shown = {"actor/pg_loss": judged.value, **judged.metrics}
        metrics = Metric.from_dict(shown, aggregation=AggregationType.MEAN)
        if not self._runs[step]:
            nothing = torch.zeros((), device=judged.slopes.device, requires_grad=True)
            share = tu.get_non_tensor_data(micro_batch, "gradient_accumulation_steps", default=1)
            return nothing, {"model_output": {}, "loss": judged.value / share, "metrics": metrics}

        def one_step(model_output: Any, data: Any, **others: Any) -> Any:
            for name, values in judged.of(step).items():
                data[name] = values
            return loss_function(model_output=model_output, data=data, **others)

        with self._drawn.again(step):
            loss, output = super().forward_step(micro_batch, one_step, False, step)
        output["metrics"] = {**output["metrics"], **metrics}
        return loss, output

    def _judge(self, micro_batch: Any, settings: Settings, actor: Any) -> None:
        """The chunk loss of all steps, without a graph."""
        if settings.skips and actor.rollout_correction.bypass_mode:
            raise InvalidArgument(
                "skip_first_pass takes the old log-probabilities for this policy's, but with rollout_correction.bypass_mode "
                "they are the rollout engine's; leave one of them out"
            )
        selection = select(settings, micro_batch, self._moment)
        trained = np.repeat(selection, settings.plan.sizes, 1)
        every = actor.use_kl_loss or actor.use_distill_loss or not settings.draw.same
        self._runs = [bool(every or needed) for needed in np.asarray(trained.any(0))]
        old = micro_batch["old_log_probs"]
        log_probs, drifts, noise = old.double(), torch.zeros_like(old), np.ones(old.shape[1])
        self._drawn = Drawn(micro_batch["all_latents"])
        if not settings.skips or self._moved:
            log_probs = log_probs.clone()
            self._first_pass(micro_batch, settings, log_probs, drifts, noise)
        self._judged = judge(settings, micro_batch, selection, log_probs, drifts, noise)

    @torch.no_grad()
    def _first_pass(self, micro_batch: Any, settings: Settings, log_probs: Any, drifts: Any, noise: Any) -> None:
        means = settings.guard or settings.masks
        if means and micro_batch.get("old_prev_sample_mean", None) is None:
            raise InvalidArgument(
                "guard and surrogate='divergence_mask' compare with the old policy's means (old_prev_sample_mean), which "
                "verl-omni computes with rollout_correction.bypass_mode=false"
            )
        for step in (step for step, needed in enumerate(self._runs) if needed):
            with self._drawn.first(step):
                found = super().forward_step(micro_batch, None, True, step)[1]["model_output"]
            log_probs[:, step] = found["log_probs"]
            if means:
                drifts[:, step] = drift(found, micro_batch["old_prev_sample_mean"][:, step])
                noise[step] = float(scale(found))


def take_place(registry: Any, own: Any, instead: Any) -> None:
    """Puts an engine where verl-omni's is registered."""
    for devices in registry._engines.get("diffusion_model", {}).values():
        for device, kind in list(devices.items()):
            if kind is own:
                devices[device] = instead


take_place(EngineRegistry, PPODiffusersFSDPEngine, ChunkFSDPEngine)
