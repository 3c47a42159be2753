"""The options of the loss, beside those of verl_omni/workers/config/diffusion/actor.py of verl-omni@a1139ba."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from verl_omni.workers.config.diffusion.actor import DiffusionLossConfig

from .._draws import Draw
from .._scalars import flag
from ..chunks import ChunkPlan
from ..errors import InvalidArgument
from ..objective import chunk_loss

ELSEWHERE = {
    "clip": "give clip_ratio, or clip_ratio_low and clip_ratio_high",
    "selection": "give fraction or chunks, by which each micro-batch selects its own",
    "mask": "a rollout has all of its SDE steps",
    "divergence": 'surrogate="divergence_mask" computes it',
    "divergence_threshold": "give kl_mask_threshold",
    "reference_log_probs": "actor.use_kl_loss has verl-omni's KL divergence to the reference",
    "ratio_bias": "give guard=true, which computes it",
    "kl_weights": "they are one per sample, which a configuration cannot name",
}
UNREAD = ("mix_beta", "ref_kl_coef", "adaptive_weight_min", "dpo_beta", "add_kl_coefficient")
UNCLIPPED = ("unclipped", "divergence_mask", "sapo", "vespo")


@dataclass
class ChunkLossConfig(DiffusionLossConfig):
    """`actor.diffusion_loss` of a run with Chunk-GRPO. Of verl-omni's own fields clip_ratio, adv_clip_max and
    kl_mask_threshold are read.

    plan             sizes of the chunks, over the SDE steps of a rollout
    fraction         in (0, 1]: of K chunks, floor(K fraction) are drawn for each sample, alike on every rank
    chunks           the numbers of the chunks that every sample trains, instead of a draw
    by_movement      True: chunks are drawn by the relative L1 of their steps, as Chunk-GRPO has it
    weighting        of by_movement: "normalised" or "softmax"
    shared           True: one draw for all samples of an update
    seed             0 ... 2^64 - 1
    guard            True: GRPO-Guard's ratios, with the drift of the means as `ratio_bias` and the noise scale of each step
    skip_first_pass  True: where no update came since the old log-probabilities, these are taken for the new ones, which
                     saves a forward pass. Only where they are computed anew (rollout_correction.bypass_mode=false)
    clip_ratio_low, clip_ratio_high  instead of clip_ratio
    options          the others of `chunkgrpo.chunk_loss`: surrogate, kl, average, weights, ...; a normaliser is of one
                     sample: the loss of a micro-batch is its sum divided by its samples times this

    With `chunks` or `shared` the model runs the steps of these chunks alone, unless a KL or distillation loss reads all.
    """

    loss_mode: str = "chunk_grpo"
    plan: Any = None
    fraction: float = 1.0
    chunks: Any = None
    by_movement: bool = False
    weighting: str = "normalised"
    shared: bool = False
    seed: int = 0
    guard: bool = False
    skip_first_pass: bool = False
    clip_ratio_low: Any = None
    clip_ratio_high: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss_mode != "chunk_grpo":
            raise InvalidArgument(
                f"loss_mode is {self.loss_mode!r}; ChunkLossConfig has the options of 'chunk_grpo': give "
                "actor_rollout_ref.actor.diffusion_loss.loss_mode=chunk_grpo"
            )
        object.__setattr__(self, "loss_mode", "flow_grpo")  # of verl-omni's own list, for its checks of its own fields
        super().__post_init__()
        object.__setattr__(self, "loss_mode", "chunk_grpo")
        if self.plan is None:
            raise InvalidArgument("plan is missing: +actor_rollout_ref.actor.diffusion_loss.plan=[2,3,4,7] has its sizes")
        self._settings  # refuses at the start

    @property
    def _settings(self) -> Settings:
        found = self.__dict__.get("_made")
        if found is None:
            found = Settings(self)
            object.__setattr__(self, "_made", found)
        return found


class Settings:
    """A configuration, checked."""

    def __init__(self, config: ChunkLossConfig) -> None:
        self.plan = ChunkPlan(_plain(config.plan))
        draw = config.fraction, _plain(config.chunks), config.weighting, config.by_movement, config.shared, config.seed
        self.draw = Draw(*draw, self.plan)
        self.guard, self.skips = flag(config.guard, "guard"), flag(config.skip_first_pass, "skip_first_pass")
        self.options = {name: _plain(value) for name, value in config.options.items()}
        for name in self.options:
            if name in ELSEWHERE:
                raise InvalidArgument(f"options.{name} cannot be given here: {ELSEWHERE[name]}")
        surrogate = self.options.get("surrogate")
        self.masks = surrogate == "divergence_mask"
        low, high = config.clip_ratio_low, config.clip_ratio_high
        if surrogate not in UNCLIPPED:
            self.options["clip"] = tuple(config.clip_ratio if end is None else end for end in (low, high))
        elif not low is high is None:
            raise InvalidArgument(f"clip_ratio_low and clip_ratio_high are not read: surrogate {surrogate!r} clips nothing")
        # verl-omni's flow_dppo takes advantages of any size.
        self.limit = np.inf if self.masks else float(config.adv_clip_max)
        clipless = ("clip_ratio",) if surrogate in UNCLIPPED else ()
        _refuse_unread(config, (*UNREAD, *clipless, "adv_clip_max" if self.masks else "kl_mask_threshold"))
        if self.masks:
            self.options["divergence_threshold"] = config.kl_mask_threshold
        self._check()

    def _check(self) -> None:
        """Refuses at the start what the first update would refuse."""
        if self.guard and "ratio_scale" in self.options:
            raise InvalidArgument("ratio_scale cannot be given with guard, which takes the noise scale of each step")
        if self.guard and self.skips:
            raise InvalidArgument("skip_first_pass cannot be given with guard, which reads the noise scale of each step")
        if self.options.get("average") == "step" and self.draw.uneven(self.plan) and "normaliser" not in self.options:
            raise InvalidArgument(
                "average is 'step' and a fraction of chunks of several sizes is drawn: micro-batches would have other "
                "weights than the whole batch. Give normaliser, the steps per sample, or another average"
            )
        zeros = np.zeros((1, self.plan.steps))
        given = {**self.options, "divergence": zeros} if self.masks else self.options
        chunk_loss(zeros, zeros, np.zeros(1), self.plan, **given)


def _refuse_unread(config: ChunkLossConfig, names: tuple[str, ...]) -> None:
    """verl-omni's fields that are of its other losses, where they are not as it has them."""
    for name in names:
        value, own = getattr(config, name), getattr(DiffusionLossConfig, name)
        if value != own:
            raise InvalidArgument(f"{name} is {value!r}, which this loss does not read; leave it out ({own!r})")


def _plain(value: Any) -> Any:
    """Sequences of a Hydra configuration as lists."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, Mapping)) else value
