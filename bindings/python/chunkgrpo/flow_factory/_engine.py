"""What this package takes from Flow-Factory, and whether the one that is installed has it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

TRIED = "X-GenGroup/Flow-Factory at commit a0b2bc5 (2 May 2026)"

if TYPE_CHECKING:

    class GRPOTrainingArguments:
        """Its dataclass, which has no types here: a program's own checks do not read Flow-Factory."""

        gradient_accumulation_steps: int
        num_inner_epochs: int
        per_device_batch_size: int
        seed: int
        max_grad_norm: float
        global_std: bool
        advantage_aggregation: str
        clip_range: tuple[float, float]
        adv_clip_range: tuple[float, float]
        kl_type: str
        kl_beta: float
        extra_kwargs: dict[str, Any]

        def __post_init__(self) -> None: ...
        def keys(self) -> Any: ...
        def __getitem__(self, key: str) -> Any: ...

    class GRPOTrainer:
        """Its trainer."""

        accelerator: Any
        adapter: Any
        advantage_processor: Any
        autocast: Any
        config: Any
        epoch: int
        optimizer: Any
        reward_buffer: Any
        step: int

        def __init__(self, **arguments: Any) -> None: ...
        def log_data(self, data: dict[str, Any], step: int) -> None: ...
        def sample(self) -> list[Any]: ...
        def prepare_feedback(self, samples: list[Any]) -> None: ...
        def compute_advantages(
            self, samples: Any, rewards: Any, store_to_samples: bool = True, aggregation_func: Any = None
        ) -> Any: ...

    class GRPOGuardTrainer(GRPOTrainer): ...

    class FlowMatchEulerDiscreteSDEScheduler:
        """Its scheduler."""

        dynamics_type: str
        is_eval: bool
        noise_level: float
        sigmas: Any
        timesteps: Any

        def __init__(self, **options: Any) -> None: ...
        def index_for_timestep(self, timestep: Any) -> int: ...
        def get_noise_level_for_sigma(self, sigma: Any) -> Any: ...

    BaseSample: Any
    SDESchedulerOutput: Any
    create_generator: Any
    filter_kwargs: Any
    reduce_loss_info: Any
    register_scheduler: Any
else:
    try:
        from flow_factory.hparams import GRPOTrainingArguments
        from flow_factory.samples import BaseSample
        from flow_factory.scheduler import FlowMatchEulerDiscreteSDEScheduler, SDESchedulerOutput, register_scheduler
        from flow_factory.trainers.grpo import GRPOGuardTrainer, GRPOTrainer
        from flow_factory.utils.base import create_generator, filter_kwargs
        from flow_factory.utils.dist import reduce_loss_info
    except ImportError as error:
        raise ImportError(
            f"chunkgrpo.flow_factory needs Flow-Factory, and {error}. Install it from its repository; "
            f"this version was tried with {TRIED}"
        ) from error

_STEP = "noise_pred timestep latents next_latents timestep_next generator noise_level compute_log_prob return_kwargs"
_ARGUMENTS = (
    "clip_range adv_clip_range kl_type kl_beta global_std advantage_aggregation num_inner_epochs per_device_batch_size "
    "gradient_accumulation_steps max_grad_norm seed extra_kwargs"
)
_METHODS = "start sample prepare_feedback compute_advantages optimize"


def check_interface() -> None:
    """Raises ImportError where Flow-Factory has no longer what this package builds on."""
    absent = [f"FlowMatchEulerDiscreteSDEScheduler.step({name}=)" for name in _missing_parameters()]
    known = {field.name for field in dataclasses.fields(GRPOTrainingArguments)}  # type: ignore[arg-type, unused-ignore]
    absent += [f"GRPOTrainingArguments.{name}" for name in _ARGUMENTS.split() if name not in known]
    absent += [f"GRPOTrainer.{name}" for name in _METHODS.split() if not hasattr(GRPOTrainer, name)]
    if absent:
        raise ImportError(
            f"this Flow-Factory has no {', '.join(absent)}, which chunkgrpo.flow_factory builds on; it was tried with "
            f"{TRIED}"
        )


def _missing_parameters() -> list[str]:
    step: Any = getattr(FlowMatchEulerDiscreteSDEScheduler, "step")
    known = inspect.signature(step).parameters
    return [name for name in _STEP.split() if name not in known]
