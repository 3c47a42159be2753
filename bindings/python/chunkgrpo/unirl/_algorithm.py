"""Chunk-GRPO as an algorithm of UniRL, beside unirl/algorithms/flowgrpo.py of unirl 0.2.0."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from unirl.algorithms import base as unirl
from unirl.train.lora import adapters_disabled
from unirl.types.segments.latent import LatentSegment

from .._draws import Draw
from .._generated import ChunkLossOptions
from .._options import F, documented, fill
from .._scalars import choice, flag, pair, real
from ..chunks import ChunkPlan
from ..errors import InvalidArgument
from ..objective import chunk_loss as plain_chunk_loss
from ..torch import chunk_loss
from ._chunks import Chunks, chunks_of, drawn, keyed
from ._streamed import Passes, means_of

ELSEWHERE = {
    "selection": "give fraction or chunks, by which each micro-batch selects its own",
    "mask": "a segment has all of its SDE steps; sampling.scheduler says which these are",
    "divergence": 'surrogate="divergence_mask" computes it',
    "reference_log_probs": 'give reference="base", with a LoRA model',
    "ratio_bias": "give guard=True, which computes it",
    "kl_weights": "they are one per sample, which a recipe cannot name",
}
SCHEDULES = {"constant": 0, "linear_decay": 1, "cosine_decay": 2}


def _shown(function: F) -> F:
    """`documented`, without the options that are refused here."""
    shown = documented(ChunkLossOptions, clip=None)(function)
    signature = inspect.signature(shown)
    taken = [parameter for name, parameter in signature.parameters.items() if name not in ELSEWHERE]
    shown.__signature__ = signature.replace(parameters=taken)  # type: ignore[attr-defined]
    return shown


class _Step(NamedTuple):
    """What a micro-batch is judged by: the steps of it that are run, and their chunks."""

    steps: list[int]
    chunks: Chunks
    selection: NDArray[np.bool_]


class ChunkGRPO(unirl.StageAlgorithm):
    """Chunk-GRPO over a diffusion LatentSegment. The options of UniRL's FlowGRPO have its meaning:

    stage, pipeline, stage_attr, params, conditions_cls, backend   as there
    old_logp_source  "rollout", or "replay": the old policy's log-probabilities are computed anew before the updates
    clip_range       its name for clip
    clip_schedule    "constant", "linear_decay" or "cosine_decay", of clip over the run
    beta             >= 0, weight of the Gaussian KL divergence to the model without its LoRA adapters, per element, as a
                     mean over the samples and the steps that are run

    The chunks:

    plan         the sizes of the chunks, over the SDE steps of a rollout; or over the whole schedule (with or without its
                 last step), of which each rollout trains its SDE steps
    fraction     in (0, 1]: of K chunks, floor(K fraction) are drawn for each sample, by its id and the progress of the
                 run, alike on every rank
    chunks       the numbers of the chunks that every sample trains, instead of a draw
    by_movement  True: chunks are drawn by the relative L1 of their steps, as Chunk-GRPO has it
    weighting    of by_movement: "normalised" or "softmax"
    shared       True: one draw for all samples of a rollout
    seed         0 ... 2^64 - 1
    streamed     True: the steps are run twice, first without a graph and then one by one, which holds the activations of
                 one step

    With `chunks` or `shared` the model runs the steps of these chunks alone. Else it runs every SDE step, so that ranks
    with sharded parameters run the same ones.

    The objective:

    reference    of kl > 0: "old", or "base", which is the model without its LoRA adapters
    guard        True: GRPO-Guard's ratios, with the Gaussian divergence from the old policy as `ratio_bias` and the noise
                 scale of each step as `ratio_scale`
    normaliser   of one sample: the loss of a micro-batch is its sum divided by its samples times this
    weights      (K,), and ratio_scale (S,): over the plan as it is given
    options      the others of `chunkgrpo.chunk_loss`: clip, surrogate, kl, average, ...

    Advantages are UniRL's, (B,); or (B, K) or (B, S) of the plan. Each sample selects as many chunks as the others, so
    that UniRL's means over micro-batches and ranks are those of the whole batch; average="step" with a fraction is
    refused where that is not so.
    """

    supports_multi_update = True
    requires_backend = True

    @_shown
    def __init__(
        self,
        *,
        params: Any,
        plan: Any,
        stage: Any = None,
        pipeline: Any = None,
        stage_attr: str = "diffusion",
        conditions_cls: Any = None,
        backend: Any = None,
        old_logp_source: str = "rollout",
        clip_range: Any = None,
        clip_schedule: str = "constant",
        beta: float = 0.0,
        fraction: float = 1.0,
        chunks: Any = None,
        by_movement: bool = False,
        weighting: str = "normalised",
        shared: bool = False,
        seed: int = 0,
        streamed: bool = False,
        reference: str = "old",
        guard: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if stage is None and pipeline is None:
            raise InvalidArgument("ChunkGRPO needs a stage, or a pipeline that has one: UniRL gives it")
        self.stage = getattr(pipeline, stage_attr) if stage is None else stage
        self.params, self.conditions_cls = params, conditions_cls
        self.plan = plan if isinstance(plan, ChunkPlan) else ChunkPlan(_numbers(plan))
        self.draw = Draw(fraction, _numbers(chunks), weighting, by_movement, shared, seed, self.plan)
        self.guard, self.reference, self.beta = flag(guard, "guard"), reference, real(beta, "beta")
        self.streamed = flag(streamed, "streamed")
        self.options = {name: _numbers(value) for name, value in options.items()}
        if clip_range is not None:
            if self.options.get("clip") is not None:
                raise InvalidArgument("clip_range is UniRL's name for clip, which is given too; leave one of them out")
            self.options["clip"] = _numbers(clip_range)
        self.clip_schedule, self.old_logp_source = clip_schedule, old_logp_source
        choice(clip_schedule, SCHEDULES, "clip_schedule")
        choice(old_logp_source, {"rollout": 0, "replay": 1}, "old_logp_source")
        self._check_options()
        if self.streamed and getattr(self.stage, "batch_replay_steps", False):
            raise InvalidArgument("streamed runs one step at a time, batch_replay_steps all together; leave one of them out")
        # UniRL says what it needs of the model: a LoRA adapter, and the replay that fits the old log-probabilities.
        weight = max(self.beta, self.options.get("kl") or 0.0) if reference == "base" else self.beta
        self._base = unirl._resolve_reference_model(backend, beta=weight, algo="ChunkGRPO", coef_name="beta (or kl)")
        unirl._require_replay_anchor_for_batched_replay(self.stage, old_logp_source, algo="ChunkGRPO")

    def _check_options(self) -> None:
        """Refuses at the start what the first update would refuse, and what nothing would read."""
        for name in self.options:
            if name in ELSEWHERE:
                raise InvalidArgument(f"{name} cannot be given here: {ELSEWHERE[name]}")
        given, steps = dict(self.options), self.plan.steps
        choice(self.reference, {"old": 0, "base": 1}, "reference")
        if self.reference == "base" and not given.get("kl"):
            raise InvalidArgument("reference is 'base', but kl is 0, which reads none; give kl, or beta")
        if self.clip_schedule != "constant" and given.get("clip") is None:
            raise InvalidArgument(f"clip_schedule is {self.clip_schedule!r}; give the clip that it scales")
        if self.guard and "ratio_scale" in given:
            raise InvalidArgument("ratio_scale cannot be given with guard=True, which takes the noise scale of each step")
        if not 0 <= self.beta < float("inf"):
            raise InvalidArgument(f"beta is {self.beta}; it must be finite and >= 0")
        self._refuse_uneven(self.plan)
        zeros = np.zeros((1, steps))
        if self.divergences == "mask":
            given["divergence"] = zeros
        plain_chunk_loss(zeros, zeros, np.zeros(1), self.plan, **given)
        if given.get("clip") is not None:
            fill(ChunkLossOptions, {"clip": given["clip"]}, "ChunkGRPO")

    def _refuse_uneven(self, plan: ChunkPlan) -> None:
        """Also where a rollout has other parts of chunks of one size."""
        if self.options.get("average") == "step" and self.draw.uneven(plan) and self.options.get("normaliser") is None:
            raise InvalidArgument(
                f"average is 'step' and a fraction of chunks of several sizes, {plan.sizes.tolist()}, is drawn: "
                "micro-batches would have other weights than the whole batch. Give normaliser, the steps per sample, or "
                "another average"
            )

    @property
    def divergences(self) -> Optional[str]:
        """What the Gaussian divergences from the old policy are for: "mask", "bias" or None."""
        if self.options.get("surrogate") == "divergence_mask":
            return "mask"
        return "bias" if self.guard else None

    @property
    def anchor_fields(self) -> tuple[str, ...]:
        """What `prepare_segment` writes."""
        return ("sde_logp", "sde_means") if self.divergences else ("sde_logp",)

    @property
    def recomputes_anchor(self) -> bool:
        """Whether `prepare_segment` runs the model."""
        return self.old_logp_source == "replay" or self.divergences is not None

    # ------------------------------------------------------------------------------------------------------------------
    # UniRL's hooks

    def prepare_segment(self, *, conditions: Mapping[str, Any], segment: LatentSegment) -> None:
        """Freezes the old policy's log-probabilities, and its means where they are compared."""
        steps = _sde_steps(segment)
        if self.old_logp_source == "rollout" and segment.sde_logp is None:
            raise InvalidArgument(
                "old_logp_source is 'rollout', but the segment has no log-probabilities (sde_logp); take a rollout engine "
                "that returns them, or old_logp_source='replay'"
            )
        if not self.recomputes_anchor:
            return
        with torch.no_grad():
            old = self._replay(conditions, segment, steps)
        if self.old_logp_source == "replay":
            segment.sde_logp = old.log_probs.detach().cpu()
        if self.divergences:
            segment.sde_means = means_of(old).detach().cpu()

    def prepare_part(self, part: Any) -> Any:
        """Gives each sample its key, by which its chunks are drawn."""
        if part.segment is not None:
            part.segment = keyed(part.segment, part.sample_ids)
        return part

    def compute_loss_and_backward(
        self,
        *,
        conditions: Mapping[str, Any],
        segment: LatentSegment,
        advantages: Tensor,
        training_progress: float,
        loss_scale: float,
    ) -> Any:
        """The loss of one micro-batch, and its backward pass."""
        micro = self._micro(segment, training_progress)
        passes = Passes(self, conditions, segment, micro.steps)
        new = passes.first() if self.streamed else self._replay(conditions, segment, micro.steps)
        base = self._base_replay(conditions, segment, micro.steps)
        out = self._chunk_loss(new, base, segment, advantages, micro, training_progress)
        loss, metrics = torch.as_tensor(out.loss), self._metrics(out, training_progress)
        if self.beta > 0:
            distance = self._gaussian(segment, micro.steps, means_of(new), means_of(base)).mean()
            loss = loss + self.beta * distance
            metrics.update(beta=self.beta, kl_ref_mean=float(distance.detach()))
        if self.streamed:
            passes.second(out, base, loss_scale)
        else:
            torch.autograd.backward(loss * loss_scale)
        return unirl.AlgorithmStepResult(
            loss=float(loss.detach()), metrics=metrics, num_steps_or_tokens=len(micro.steps), has_backward=True
        )

    # ------------------------------------------------------------------------------------------------------------------
    # The parts of a loss

    def _micro(self, segment: LatentSegment, progress: float) -> _Step:
        """The steps that are run. Which these are does not depend on the samples: ranks run the same ones."""
        steps = _sde_steps(segment)
        chunks = chunks_of(self.plan, steps, len(segment.sigmas) - 1)
        self._refuse_uneven(chunks.plan)
        selection = drawn(self.draw, chunks, segment, steps, progress)
        if not self.draw.same:
            return _Step(steps, chunks, selection)
        named = np.flatnonzero(selection[0])
        inside = np.concatenate([np.arange(chunks.plan.steps)[chunks.plan.slices[chunk]] for chunk in named])
        plan = ChunkPlan(chunks.plan.sizes[named])
        columns, kept = [chunks.columns[i] for i in inside], [chunks.kept[chunk] for chunk in named]
        run = Chunks(plan, columns, kept, chunks.whole)
        return _Step([steps[i] for i in inside], run, np.ones((len(selection), len(plan)), np.bool_))

    def _replay(self, conditions: Mapping[str, Any], segment: LatentSegment, steps: list[int]) -> Any:
        typed = unirl.typed_conditions(conditions, self.conditions_cls)
        return self.stage.replay(typed, segment=segment, params=self.params, step_indices=steps)

    def _base_replay(self, conditions: Mapping[str, Any], segment: LatentSegment, steps: list[int]) -> Any:
        if self._base is None:
            return None
        with torch.no_grad(), adapters_disabled(self._base):
            return self._replay(conditions, segment, steps)

    def _chunk_loss(
        self, new: Any, base: Any, segment: LatentSegment, advantages: Tensor, micro: _Step, progress: float
    ) -> Any:
        log_probs: Tensor = new.log_probs
        old = unirl.gather_sde_field(segment.sde_logp, segment.sde_indices, micro.steps, field_name="sde_logp")
        options = self._options(micro.chunks, len(log_probs), progress)
        if self.reference == "base":
            options["reference_log_probs"] = base.log_probs.detach()
        if self.divergences:
            distance = self._gaussian(segment, micro.steps, means_of(new), self._old_means(segment, micro.steps))
            if self.divergences == "mask":
                options["divergence"] = distance.detach()
            else:
                options["ratio_bias"] = distance
                options["ratio_scale"] = self._noise(segment, micro.steps, log_probs.device).cpu().numpy()
        advantages = advantages.detach()
        if advantages.ndim == 2 and advantages.shape[1] == 1:
            advantages = advantages[:, 0]
        if advantages.ndim == 2:
            advantages = micro.chunks.of(advantages, "advantages")
        old = old.to(log_probs.device)
        loss = plain_chunk_loss if self.streamed else chunk_loss
        return loss(log_probs, old, advantages, micro.chunks.plan, selection=micro.selection, **options)

    def _old_means(self, segment: LatentSegment, steps: list[int]) -> Tensor:
        found: Tensor = unirl.gather_sde_field(segment.sde_means, segment.sde_indices, steps, field_name="sde_means")
        return found

    def _options(self, chunks: Chunks, batch: int, progress: float) -> dict[str, Any]:
        """`chunk_loss`'s, for the chunks that this segment has."""
        options = dict(self.options)
        for name in ("weights", "ratio_scale"):
            if options.get(name) is not None:
                options[name] = chunks.of(np.asarray(options[name], float), name)
        if options.get("normaliser") is not None:
            options["normaliser"] *= batch
        if options.get("clip") is not None:
            options["clip"] = self._clip(progress)
        return options

    def _clip(self, progress: float) -> tuple[float, float]:
        low, high = pair(self.options["clip"], "clip")
        factor: float = unirl._resolve_clip_range_from_schedule(1.0, self.clip_schedule, progress)
        return low * factor, high * factor

    def _noise(self, segment: LatentSegment, steps: list[int], device: torch.device) -> Tensor:
        """(S,): the noise scale s of each step, as the stage's strategy has it."""
        eta = float(self.params.eta)
        noise: Tensor = unirl._transition_sigma(
            self.stage, segment=segment, target_steps=steps, eta=eta, device=device, add_coefficient=True
        )
        return noise

    def _gaussian(self, segment: LatentSegment, steps: list[int], means: Tensor, others: Tensor) -> Tensor:
        """(B, S): mean (m - m')^2 / (2 s^2) of each step."""
        squares = (means - others.to(means)).square().flatten(2).mean(2)
        return squares / (2 * self._noise(segment, steps, means.device).square())

    def _metrics(self, out: Any, progress: float) -> dict[str, Any]:
        """UniRL's names for a policy gradient, and this library's for the rest."""
        stats = asdict(out.stats)
        low, high = stats.pop("clip_fraction_low"), stats.pop("clip_fraction_high")
        metrics = {"policy_loss": float(torch.as_tensor(out.loss).detach()), "clip_fraction": low + high}
        metrics.update(clipfrac_gt_one=high, clipfrac_lt_one=low, approx_kl=stats.pop("approximate_kl"), **stats)
        if self.options.get("clip") is not None:
            metrics["clip_range"], metrics["clip_range_high"] = self._clip(progress)
        return metrics


def _sde_steps(segment: LatentSegment) -> list[int]:
    if segment.sde_indices is None or not len(segment.sde_indices):
        raise InvalidArgument(
            "the segment has no SDE steps, so that it has no policy to train; sampling.scheduler (or sde_indices) must "
            "leave it some"
        )
    return sorted(int(step) for step in segment.sde_indices)


def _numbers(value: Any) -> Any:
    """Sequences of a Hydra configuration as lists."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
