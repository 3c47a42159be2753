"""A pipeline's own velocity as a function with a gradient, for the steps that it has run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ._guided import rule_of
from ._recorded import RecordedTrajectory, outside_inference
from ._replayed import Call, StepCalls, all_rows, first_of, pieces_of, some_rows
from ._scalars import function
from .errors import InvalidArgument, WrongType

Combine = Callable[[list[Tensor]], Tensor]

_SCALES = ("_guidance_scale", "_guidance_scale_2", "_true_cfg_scale", "_skip_layer_guidance_scale")
"""Where pipelines keep the scale of the call that runs."""

_MOST_CALLS = 16
"""More than that in one step are another thing than guidance, and would be kept for nothing."""


class _NotReplayed(Exception):
    """Why a step cannot be replayed."""


class Watch:
    """Sees the calls of a pipeline's transformers between two steps of its scheduler, and puts them into the record."""

    def __init__(self, pipe: Any, combine: Optional[Combine]) -> None:
        self.pipe, self.combine = pipe, combine
        self.models = {name: module for name, module in pipe.components.items() if _is_model(name, module)}
        if not self.models:
            raise InvalidArgument(f"pipe has no transformer: its components are {', '.join(pipe.components)}")
        self.replaying = False
        self._open = False
        self._seen: list[tuple[str, dict[str, Any], Any, Optional[torch.dtype]]] = []
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._hooks = [
            module.register_forward_hook(functools.partial(self._called, name), with_kwargs=True)
            for name, module in self.models.items()
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def began(self) -> None:
        """A run begins."""
        self._open = True
        self._seen, self._kept = [], {}

    def _called(self, name: str, module: Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        if not self._open or self.replaying or self.pipe.scheduler._watch is not self:
            return
        device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        autocast = _autocast("cpu" if device is None else device.type)
        if len(self._seen) < _MOST_CALLS:
            self._seen.append((name, _named(module, args, kwargs), first_of(out), autocast))

    def stepped(self, record: Optional[RecordedTrajectory], velocity: Tensor, sample: Tensor) -> None:
        """The scheduler has taken a step with this velocity, from these latents."""
        seen, self._seen = self._seen, []
        if record is None or not self._open:
            self._open = False
            return
        last = record._calls[-1] if record._calls else None
        if record._reason is None:
            try:
                with outside_inference():
                    record._calls.append(self._understood(seen, velocity, sample, last))
            except _NotReplayed as reason:
                record._calls, record._reason = [], f"step {record.position - 1}: {reason}"
        self._open = not record.done

    def _understood(
        self, seen: list[Any], velocity: Tensor, sample: Tensor, last: Optional[StepCalls]
    ) -> StepCalls:
        if not seen:
            raise _NotReplayed("the pipeline did not call its transformer (velocity_of must be called before the run)")
        if len(seen) == _MOST_CALLS:
            raise _NotReplayed(f"the transformer was called {_MOST_CALLS} times or more")
        calls, outputs = [], []
        before: Any = [] if last is None else [call.beside for call in last.calls]
        for name, arguments, out, autocast in seen:
            if getattr(self.models[name], "is_cache_enabled", False):
                raise _NotReplayed(f"the {name} takes what it computes from a cache; disable_cache() for training")
            call = self._call(name, arguments, sample, autocast)
            if not isinstance(out, Tensor) or out.shape[0] != call.copies * call.batch:
                raise _NotReplayed(f"the {name} returned a {_shape(out)} for {call.copies * call.batch} samples")
            kept = next((b for b in before if _equal(b, call.beside)), None)  # an image is beside the latents in every step
            calls.append(call if call.beside is None else replace(call, beside=kept if kept is not None else call.beside.clone()))
            outputs += pieces_of(out.detach(), call.copies, sample)
        if self.combine is not None:
            return StepCalls(tuple(calls), self.combine)
        said: list[Any] = [getattr(self.pipe, name, None) for name in _SCALES]
        known = [value for value in said if _is_number(value)]
        rule = rule_of(outputs, velocity.detach(), known, None if last is None else last.rule)
        if rule is None:
            raise _NotReplayed(
                f"no guidance that is known makes the pipeline's velocity of the {len(outputs)} that its transformer "
                "returned; give velocity_of(pipe, combine=...), a function of their list"
            )
        return StepCalls(tuple(calls), rule)

    def _call(self, name: str, given: dict[str, Any], x: Tensor, autocast: Optional[torch.dtype]) -> Call:
        arguments = dict(given)
        for key, value in given.items():
            copies = _copies(value, x)
            if copies:
                del arguments[key]
                wider = value.shape[1] > x.shape[1] if x.ndim > 1 else False
                beside = value[:, x.shape[1] :].detach() if wider else None
                arguments = {other: self._kept_argument(item) for other, item in arguments.items()}
                return Call(name, key, copies, len(x), value.dtype, beside, arguments, autocast)
        raise _NotReplayed(
            f"no argument of the {name} is the latents that the scheduler got, {_shape(x)}, alone, repeated, or followed by "
            f"others along dim 1: {', '.join(f'{key} {_shape(value)}' for key, value in given.items())}"
        )

    def _kept_argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._own(value)
        if isinstance(value, dict):
            return {name: self._kept_argument(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)([self._kept_argument(item) for item in value])
        return value

    def _own(self, value: Tensor) -> Tensor:
        """One that autograd may save. The same for the same."""
        if not (value.is_inference() or value.requires_grad):
            return value
        if id(value) not in self._kept:
            self._kept[id(value)] = value, value.clone() if value.is_inference() else value.detach()
        return self._kept[id(value)][1]


class PipelineVelocity:
    """velocity(latents, sigma, step): what a pipeline predicts, guided as it guides, with the gradient of its model.

    `velocity_of` makes it; it is the velocity of `chunkgrpo.torch.streamed_backward`, of the latest run that its scheduler
    has recorded. `of(record)` is that of another record, or of some rows.
    """

    def __init__(self, watch: Watch, models: dict[str, Module], record: Optional[RecordedTrajectory] = None) -> None:
        self._watch, self._models, self._record = watch, models, record

    def of(self, record: RecordedTrajectory) -> PipelineVelocity:
        """The velocity of the samples of a record: rows of one (`record[rows]`), or of several (`chunkgrpo.concatenate`)."""
        if not isinstance(record, RecordedTrajectory):
            raise WrongType(f"record must be a RecordedTrajectory, such as scheduler.trajectory, not {type(record).__name__}")
        return PipelineVelocity(self._watch, self._models, record)

    def __call__(self, latents: Tensor, sigma: Any, step: Any) -> Tensor:
        """(B, ...) of latents (B, ...) like those of the record. step: of the schedule; or (B,), of each sample."""
        record = self._record if self._record is not None else self._watch.pipe.scheduler.trajectory
        models, watch = self._models, self._watch
        if record is None:
            raise InvalidArgument("the pipeline's scheduler has recorded no run: run the pipeline before (record=True)")
        if len(latents) != len(record):
            raise InvalidArgument(
                f"latents has {len(latents)} samples; the record that is replayed has {len(record)}: give "
                "velocity.of(record[rows])"
            )
        before, watch.replaying = watch.replaying, True
        try:
            if isinstance(step, (Tensor, np.ndarray)) and step.ndim:
                return _of_each(record, models, latents, [int(k) for k in step])
            return record._calls_of(int(step)).run(models, latents)
        finally:
            watch.replaying = before

    def close(self) -> None:
        """Ends the watching; what is recorded can still be replayed."""
        self._watch.close()

    def __repr__(self) -> str:
        return f"<velocity of {type(self._watch.pipe).__name__}>"


def _of_each(record: RecordedTrajectory, models: dict[str, Any], x: Tensor, steps: list[int]) -> Tensor:
    """Each sample at a step of its own: in one call, where the steps' calls are alike."""
    rows = {k: np.array([i for i, step in enumerate(steps) if step == k]) for k in dict.fromkeys(steps)}
    parts = [some_rows([record._calls_of(k)], rows[k]) for k in rows]
    order = torch.from_numpy(np.concatenate([*rows.values()])).to(x.device)
    try:
        outputs = [all_rows(parts)[0].run(models, x[order])]
    except InvalidArgument:  # another guidance, or another of two transformers
        own = [torch.from_numpy(index).to(x.device) for index in rows.values()]
        outputs = [part[0].run(models, x[index]) for part, index in zip(parts, own)]
    return torch.cat(outputs)[torch.argsort(order)]


def velocity_of(
    pipe: Any, model: Union[Module, Mapping[str, Module], None] = None, *, combine: Optional[Combine] = None
) -> PipelineVelocity:
    """The velocity of a pipeline of diffusers as a function with a gradient: it repeats the pipeline's own calls to its
    transformer, with their embeddings, timesteps and guidance, for any step of a recorded run and any of its samples.

        pipe.scheduler = FlowMatchSDEScheduler.from_config(pipe.scheduler.config)
        velocity = velocity_of(pipe)                                  # before the runs, once
        images = pipe(prompts, num_inference_steps=17).images         # the pipeline as it is
        traj = pipe.scheduler.trajectory
        cgt.streamed_backward(velocity, traj.sampler, traj.latents, traj.log_probs, advantages, plan)

        part = chunkgrpo.concatenate([first, second])[rows]           # a minibatch of two runs
        cgt.streamed_backward(velocity.of(part), part.sampler, part.latents, part.log_probs, advantages[rows], plan)

    pipe     whose scheduler is a FlowMatchSDEScheduler with record=True. Its components transformer, transformer_2 and unet
             are watched: one call or several per step, of the latents alone, repeated (guidance in one batch), or followed
             by others along dim 1 (image to video, editing)
    model    what is called in training instead of pipe.transformer: its wrapper of DistributedDataParallel, accelerate or
             DeepSpeed; or wrappers by the names of components. FSDP2 wraps in place and needs none
    combine  combine(outputs): the velocity of the list of what the transformer returned in a step, one for each call and
             copy of the latents. None = found at each step by trying: the output, or minus it; u + g(c - u); c + g(c - u);
             the first with the norm of c (Qwen-Image). It is taken where it gives the pipeline's velocity to the bit

    The record keeps the calls' arguments, and so its rows and copies do. A replay has the autocast of the run. With the
    weights, batch and kernels of the run it has the velocity's bits, so that ratios are 1.

    Raises, when it is called, InvalidArgument for steps that it cannot replay, and says why: latents that the pipeline
    changed before its transformer, guidance that it does not know, a cache between steps.
    """
    from .diffusers import FlowMatchSDEScheduler

    scheduler = getattr(pipe, "scheduler", None)
    if not isinstance(scheduler, FlowMatchSDEScheduler):
        raise WrongType(
            f"pipe.scheduler must be a FlowMatchSDEScheduler, not {type(scheduler).__name__}: pipe.scheduler = "
            "FlowMatchSDEScheduler.from_config(pipe.scheduler.config)"
        )
    watch = Watch(pipe, None if combine is None else function(combine, "combine"))
    models = {**watch.models, **({"transformer": model} if isinstance(model, Module) else dict(model or {}))}
    for name, module in models.items():
        if name not in watch.models or not isinstance(module, Module):
            watch.close()
            raise InvalidArgument(f"model[{name!r}] is a {type(module).__name__}; pipe has {', '.join(watch.models)}")
    if scheduler._watch is not None:
        scheduler._watch.close()
    scheduler._watch = watch
    return PipelineVelocity(watch, models)


# ----------------------------------------------------------------------------------------------------------------------


def _is_model(name: str, module: Any) -> bool:
    return isinstance(module, Module) and name.startswith(("transformer", "unet"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _named(module: Module, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by their names."""
    if not args:
        return dict(kwargs)
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _copies(value: Any, x: Tensor) -> int:
    """How often these latents are in an argument, one batch after the other; 0: it is another thing."""
    if not isinstance(value, Tensor) or value.ndim != x.ndim or not len(x) or value.shape[0] % len(x):
        return 0
    if value.shape[1] < x.shape[1] or value.shape[2:] != x.shape[2:] or not value.is_floating_point():
        return 0
    own = value if value.shape[1] == x.shape[1] else value[:, : x.shape[1]]
    expected = x.to(value.dtype)
    copies = len(value) // len(x)
    return copies if all(torch.equal(part, expected) for part in own.chunk(copies)) else 0


def _equal(a: Optional[Tensor], b: Optional[Tensor]) -> bool:
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _autocast(kind: str) -> Optional[torch.dtype]:
    """The type that autocast has on a kind of device, or None."""
    old: Any = torch
    if not hasattr(torch, "get_autocast_dtype"):  # before PyTorch 2.4
        names = ("is_autocast_enabled", "get_autocast_gpu_dtype")
        names = ("is_autocast_cpu_enabled", "get_autocast_cpu_dtype") if kind == "cpu" else names
        enabled, found = (getattr(old, name)() for name in names)
        return found if enabled else None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
