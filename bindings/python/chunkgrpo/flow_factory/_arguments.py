"""The section `train` of a configuration of Flow-Factory, for Chunk-GRPO."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np

from .. import objective
from .._options import unknown
from .._scalars import choice, flag, integer, real
from ..chunks import ChunkPlan
from ..errors import Error, InvalidArgument, WrongType
from ._engine import GRPOTrainingArguments, check_interface

_ARRAYS = "selection mask weights reference_log_probs ratio_scale divergence kl_weights".split()
_UNCLIPPED = ("unclipped", "divergence_mask", "sapo", "vespo")
_FOUND = ("adaptive", "optimal")


def _option(default: Any, text: str) -> Any:
    kind: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**kind, metadata={"help": text})


@dataclass
class ChunkGRPO(GRPOTrainingArguments):
    """Arguments of Chunk-GRPO: those of Flow-Factory's GRPO, and

    chunks            sizes of the chunks over the trained steps, in their order; or one size for all; or "adaptive" or
                      "optimal", the plan that `ChunkPlan` finds for the relative L1 of the first epoch's rollouts. 1, the
                      default, is step-level GRPO
    chunk_fraction    in (0, 1]: the share of its chunks that each sample trains; floor(K fraction) of them, drawn anew in
                      every inner epoch
    chunk_weighting   "uniform" or "relative_l1": how they are drawn
    loss              options of `chunkgrpo.chunk_loss` that are no arrays: surrogate, average, kl, ratio_cap ...
                      clip_range says the clip
    kl_reference      of loss.kl: "old", the policy that sampled; or "reference", the model before training
    ratio_norm        "none", or "grpo_guard" (arXiv 2510.22319)
    skip_first_pass   True: until the first update of an epoch's samples their log-probabilities are taken for the new ones,
                      which they are up to rounding, and chunks of several steps take no pass without gradients. Not
                      with what that pass measures: ratio_norm, surrogate "divergence_mask", kl_reference "reference"
    advantages        None: as Flow-Factory, by advantage_aggregation and global_std. Or options of
                      `chunkgrpo.advantages`: baseline, scale, clamp ...; groups may then lie on several ranks. Weights
                      are those of the rewards

    kl_beta and kl_type are Flow-Factory's, as a mean over the steps that are run. What is out of bounds, contradictory
    or ignored raises InvalidArgument or WrongType, before a model is loaded.
    """

    chunks: Union[int, list[int], str] = _option(1, "Sizes of the chunks, one size, 'adaptive' or 'optimal'.")
    chunk_fraction: float = _option(1.0, "Share of its chunks that each sample trains, in (0, 1].")
    chunk_weighting: str = _option("uniform", "How they are drawn: 'uniform' or 'relative_l1'.")
    loss: dict[str, Any] = _option({}, "Options of chunkgrpo.chunk_loss.")
    kl_reference: str = _option("old", "Of loss.kl: 'old' or 'reference'.")
    ratio_norm: str = _option("none", "'none' or 'grpo_guard'.")
    skip_first_pass: bool = _option(False, "Take the old log-probabilities for the new ones until the first update.")
    advantages: Optional[dict[str, Any]] = _option(None, "Options of chunkgrpo.advantages instead of Flow-Factory's.")

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        """Flow-Factory looks one path up twice, for the arguments and for the trainer: with an accelerator this is the
        trainer."""
        if "accelerator" in keywords:
            from ._trainer import ChunkGRPOTrainer

            return ChunkGRPOTrainer(*arguments, **keywords)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_interface()
        super().__post_init__()
        choice(self.chunk_weighting, {"uniform": 0, "relative_l1": 1}, "chunk_weighting")
        choice(self.kl_reference, {"old": 0, "reference": 1}, "kl_reference")
        choice(self.ratio_norm, {"none": 0, "grpo_guard": 1}, "ratio_norm")
        if flag(self.skip_first_pass, "skip_first_pass") and (self.needs_old_means or self.kl_reference == "reference"):
            raise InvalidArgument(
                "skip_first_pass leaves out the pass that ratio_norm='grpo_guard', surrogate='divergence_mask' and "
                "kl_reference='reference' measure in; leave one of them out"
            )
        if not 0 < real(self.chunk_fraction, "chunk_fraction") <= 1:
            raise InvalidArgument(f"chunk_fraction is {self.chunk_fraction}; it must be in (0, 1]")
        if self.chunk_fraction == 1 and self.chunk_weighting != "uniform":
            raise InvalidArgument(
                f"chunk_weighting is {self.chunk_weighting!r}, but a chunk_fraction of 1 takes every chunk; leave it out, or "
                "give a fraction"
            )
        self._check_loss()
        self._check_advantages()

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def loss_options(self) -> dict[str, Any]:
        """Keywords for `chunk_loss`."""
        low, high = self.clip_range
        clip = {} if self.loss.get("surrogate") in _UNCLIPPED else {"clip": (-low, high)}
        return {**self.loss, **clip}

    @property
    def needs_old_means(self) -> bool:
        """Whether rollouts must keep the means of their steps."""
        return self.ratio_norm == "grpo_guard" or self.loss.get("surrogate") == "divergence_mask"

    @property
    def requires_ref_model(self) -> bool:
        """Flow-Factory keeps the reference's parameters where this is true."""
        return self.kl_beta > 0 or self.kl_reference == "reference"

    def plan(self, steps: int, relative_l1: Any = None) -> Optional[ChunkPlan]:
        """The chunks over so many trained steps; None where they are still to be found in relative_l1 (B, S)."""
        if isinstance(self.chunks, str):
            choice(self.chunks, dict.fromkeys(_FOUND, 0), "chunks")
            if relative_l1 is None:
                return None
            adaptive = self.chunks == "adaptive"
            return ChunkPlan.adaptive(relative_l1) if adaptive else ChunkPlan.optimal(relative_l1).plan
        if isinstance(self.chunks, int):
            return ChunkPlan.fixed(steps, integer(self.chunks, "chunks", 1))
        plan = ChunkPlan(self.chunks)
        if plan.steps != steps:
            raise InvalidArgument(
                f"chunks has {plan.steps} steps; {steps} are trained (num_sde_steps of the section scheduler)"
            )
        return plan

    def get_num_train_timesteps(self, args: Any) -> int:
        """The number of trained steps: Flow-Factory asks for it before it loads a model."""
        steps: int = args.scheduler_args.num_sde_steps
        self.check(steps, args.scheduler_args.dynamics_type)
        return steps

    def check(self, steps: int, dynamics_type: str) -> None:
        """That the plan fits the trained steps and leaves each sample a chunk."""
        if dynamics_type == "ODE" or steps < 1:
            raise InvalidArgument("dynamics_type is 'ODE', whose steps have no log-probability; take an SDE")
        plan = self.plan(steps)
        if plan is not None and int(len(plan) * self.chunk_fraction) < 1:
            raise InvalidArgument(f"chunk_fraction is {self.chunk_fraction}; of {len(plan)} chunks that leaves none")
        uneven = plan is None or len(set(plan.sizes.tolist())) > 1
        if uneven and self.chunk_fraction < 1 and self.loss.get("average") == "step":
            raise InvalidArgument(
                "loss.average is 'step' and a fraction of chunks of several sizes is drawn: micro-batches and ranks would "
                "have other weights than the whole batch; take another average, or chunks of one size"
            )
        if self.gradient_accumulation_steps % steps and getattr(self, "_manual_gradient_accumulation_steps", True):
            raise InvalidArgument(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; it must be a multiple of the {steps} "
                "trained steps, or 'auto': the steps of a sample belong to one update"
            )

    def _check_loss(self) -> None:
        if not isinstance(self.loss, dict):
            raise WrongType(f"loss must hold options by name, not {type(self.loss).__name__}")
        for name in _ARRAYS + ["ratio_bias", "normaliser"]:
            if name in self.loss:
                raise InvalidArgument(f"loss.{name} is made by the trainer; leave it out")
        if "clip" in self.loss:
            raise InvalidArgument("loss.clip: clip_range says the clip; leave one of them out")
        surrogate = self.loss.get("surrogate", "clipped")
        if surrogate in _UNCLIPPED and tuple(self.clip_range) != tuple(GRPOTrainingArguments.clip_range):
            raise InvalidArgument(f"clip_range is {self.clip_range}; surrogate {surrogate!r} does not clip: leave it out")
        if self.kl_reference == "reference" and not self.loss.get("kl"):
            raise InvalidArgument("kl_reference is 'reference', but there is no loss.kl that it could be for")
        options: Any = {**self.loss_options}
        if surrogate == "divergence_mask":
            options["divergence"] = np.zeros((1, 1))
        _tried("loss", lambda: objective.chunk_loss([[0.0]], [[0.0]], [1.0], ChunkPlan([1]), **options))

    def _check_advantages(self) -> None:
        if self.advantages is None:
            return
        if not isinstance(self.advantages, dict):
            raise WrongType(f"advantages must hold options by name, not {type(self.advantages).__name__}")
        for name in ("groups", "weights", "present", "sample_ids"):
            if name in self.advantages:
                raise InvalidArgument(f"advantages.{name} is made by the trainer; leave it out")
        for name in ("global_std", "advantage_aggregation"):
            value = getattr(self, name)
            if value != getattr(GRPOTrainingArguments, name):
                raise InvalidArgument(f"{name} is {value!r}, but advantages is given; leave one of them out")
        options: Any = self.advantages
        _tried("advantages", lambda: objective.advantages([0.0, 0.0], 2, **options))


def _tried(section: str, call: Any) -> None:
    """What the library says against options, under the name of their section."""
    try:
        call()
    except Error as error:
        raise type(error)(f"{section}: {error}") from None


def refuse_ignored(config: Any, adapter: Any) -> None:
    """Raises WrongType for a key that nobody would read. Flow-Factory keeps those that it does not know in extra_kwargs,
    for the methods of a model's adapter; typing errors land there too."""
    methods = [getattr(adapter, name, None) for name in ("inference", "forward", "encode_prompt", "encode_image")]
    methods += [getattr(adapter, name, None) for name in ("encode_video", "encode_audio")]
    accepted, anything = _parameters(methods)
    sections = {"train": "training_args", "eval": "eval_args", "data": "data_args", "log": "log_args"}
    for section, attribute in sections.items():
        arguments = getattr(config, attribute)
        extras = getattr(arguments, "extra_kwargs", None) or {}
        known = accepted if section in ("train", "eval") else set()
        for name in extras:
            if name not in known and not (known and anything):
                raise unknown(name, section, (set(arguments.keys()) - set(extras)) | known)


def _parameters(methods: list[Any]) -> tuple[set[str], bool]:
    """The names of the parameters of methods, and whether inference or forward takes any."""
    names: set[str] = set()
    anything = False
    for i, method in enumerate(methods):
        for parameter in inspect.signature(method).parameters.values() if method is not None else ():
            names.add(parameter.name)
            anything |= i < 2 and parameter.kind is parameter.VAR_KEYWORD
    return names, anything
