"""The calls of a pipeline to its transformer, as they were recorded: some rows of them, those of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from torch import Tensor

from ._guided import Rule
from ._rows import Rows, some, taken
from .errors import InvalidArgument

_WITHOUT_ROWS = (
    "image_rotary_emb",
    "skip_layers",  # Stable Diffusion 3: numbers of layers
    "spatio_temporal_guidance_blocks",  # LTX 2: numbers of layers
    "control_hidden_states_scale",  # Wan VACE: one per layer
    "visual_rope_pos",  # Kandinsky 5: positions of tokens, for all samples
    "text_rope_pos",
)
"""One for all samples, as many as there are of them."""
_ROWS_FROM_3D = ("img_ids", "txt_ids")
"""Positions: Flux has them once for all samples, (tokens, 3); Flux 2 for each, (B, tokens, 4)."""


@dataclass(frozen=True)
class Call:
    """One call: the latents, `copies` times one after the other, with what stood beside them, and the other arguments."""

    model: str
    latents: str
    copies: int
    batch: int
    dtype: torch.dtype
    beside: Optional[Tensor]
    arguments: dict[str, Any]
    autocast: Optional[torch.dtype]

    def run(self, models: dict[str, Any], x: Tensor) -> list[Tensor]:
        """What the model returns for these latents (B, ...), one for each copy."""
        given = torch.cat([x.to(self.dtype)] * self.copies) if self.copies > 1 else x.to(self.dtype)
        if self.beside is not None:
            given = torch.cat([given, self.beside], dim=1)
        kind = x.device.type
        with torch.autocast(kind, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            out = first_of(models[self.model](**{self.latents: given}, **self.arguments))
        return pieces_of(out, self.copies, x)

    def mapped(self, change: Callable[[str, Any], Any], batch: int) -> Call:
        """With other rows of every argument."""
        arguments = {name: change(name, value) for name, value in self.arguments.items()}
        return replace(self, batch=batch, beside=change("", self.beside), arguments=arguments)


def first_of(out: Any) -> Any:
    """A model's output of any form."""
    return out[0] if isinstance(out, tuple) else getattr(out, "sample", out)


def pieces_of(out: Tensor, copies: int, x: Tensor) -> list[Tensor]:
    """The outputs of each copy; of what stood beside the latents there is none."""
    out = out[:, : x.shape[1]] if out.ndim == x.ndim else out
    return list(out.chunk(copies)) if copies > 1 else [out]


@dataclass(frozen=True)
class StepCalls:
    """The calls of one step, and how one velocity is made of what they return."""

    calls: tuple[Call, ...]
    rule: Any

    def run(self, models: dict[str, Any], x: Tensor) -> Tensor:
        outputs = [piece for call in self.calls for piece in call.run(models, x)]
        velocity: Tensor = self.rule(outputs)
        return velocity


Memo = dict[Any, Any]
"""The embeddings are the same tensor in every step, and stay so. It keeps what its keys are the addresses of."""


def _remembered(memo: Memo, values: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    key = tuple(map(id, values))
    if key not in memo:
        memo[key] = values, make()
    return memo[key][1]


def with_rows(name: str, value: Any, call: Call) -> bool:
    """Whether an argument has one entry for each sample, or each sample of each copy."""
    total = call.copies * call.batch
    if name in _WITHOUT_ROWS:
        return False
    if isinstance(value, Tensor):
        flat = name in _ROWS_FROM_3D and value.ndim < 3
        return not flat and value.ndim > 0 and value.shape[0] in (total, call.batch)
    plain = isinstance(value, list) and not any(isinstance(item, Tensor) for item in value)
    return plain and len(value) in (total, call.batch)


def some_rows(steps: Sequence[StepCalls], rows: Rows) -> list[StepCalls]:
    memo: Memo = {}

    def of_call(call: Call) -> Call:
        chosen: list[int] = taken(range(call.batch), rows)

        def change(name: str, value: Any) -> Any:
            if with_rows(name, value, call):
                return _remembered(memo, (value,), lambda: pick(value))
            return _nested(value, lambda item: change(name, item))

        def pick(value: Any) -> Any:
            copies = len(value) // call.batch
            index = [copy * call.batch + row for copy in range(copies) for row in chosen]
            if isinstance(value, list):
                return [value[i] for i in index]
            if copies == 1 and isinstance(rows, slice):
                return value[rows]
            return some(value, torch.tensor(index, dtype=torch.int64).numpy())

        return call.mapped(change, len(chosen))

    return [replace(step, calls=tuple(map(of_call, step.calls))) for step in steps]


def _nested(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container with other tensors in it."""
    if isinstance(value, dict):
        return {name: change(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return type(value)([change(item) for item in value])
    return value


def moved(steps: Sequence[StepCalls], device: Any) -> list[StepCalls]:
    memo: Memo = {}

    def change(_: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _remembered(memo, (value,), lambda: value.to(device))
        return _nested(value, lambda item: change("", item))

    return [replace(step, calls=tuple(call.mapped(change, call.batch) for call in step.calls)) for step in steps]


def all_rows(runs: Sequence[Sequence[StepCalls]]) -> list[StepCalls]:
    """The calls of several runs as one. Raises InvalidArgument where they differ in more than their rows."""
    memo: Memo = {}
    return [_merged(steps, memo) for steps in zip(*runs)]


def _merged(steps: Sequence[StepCalls], memo: Memo) -> StepCalls:
    first = steps[0]
    for step in steps:
        if step.rule != first.rule:
            guidance = [getattr(rule, "scale", rule) for rule in (first.rule, step.rule)]
            raise InvalidArgument(f"the runs differ in guidance, {guidance[0]} and {guidance[1]}: train them one by one")
        if len(step.calls) != len(first.calls):
            raise InvalidArgument("the runs differ in the number of calls per step: train them one by one")
    return replace(first, calls=tuple(_one(calls, memo) for calls in zip(*(step.calls for step in steps))))


def _one(calls: Sequence[Call], memo: Memo) -> Call:
    first, batch = calls[0], sum(call.batch for call in calls)
    for call in calls:
        for name in ("model", "latents", "copies", "dtype", "autocast"):
            if getattr(call, name) != getattr(first, name):
                raise _differ(name, getattr(first, name), getattr(call, name))
        if call.arguments.keys() != first.arguments.keys():
            raise _differ("the names of arguments", [*first.arguments], [*call.arguments])
        if (call.beside is None) != (first.beside is None):
            raise _differ("what stands beside the latents", first.beside, call.beside)

    def join(name: str, values: Sequence[Any]) -> Any:
        return _remembered(memo, tuple(values), lambda: _joined(name, values, calls))

    arguments = {name: join(name, [call.arguments[name] for call in calls]) for name in first.arguments}
    beside = None if first.beside is None else join("", [call.beside for call in calls])
    return replace(first, batch=batch, beside=beside, arguments=arguments)


def _joined(name: str, values: Sequence[Any], calls: Sequence[Call]) -> Any:
    first = values[0]
    if all(with_rows(name, value, call) for value, call in zip(values, calls)):
        parts = [[*_copies(value, call)] for value, call in zip(values, calls)]
        rows = [part[copy] for copy in range(len(parts[0])) for part in parts]
        if isinstance(first, list):
            return [item for row in rows for item in row]
        shapes = {(tuple(row.shape[1:]), row.dtype, row.device) for row in rows}
        if len(shapes) > 1:
            ours, theirs = _two(values)
            raise _differ(name, tuple(ours.shape), tuple(theirs.shape), _PAD)
        return torch.cat(rows)
    if isinstance(first, dict) and all(isinstance(value, dict) and value.keys() == first.keys() for value in values):
        return {key: _joined(name, [value[key] for value in values], calls) for key in first}
    if isinstance(first, (list, tuple)) and all(len(value) == len(first) for value in values):
        return type(first)([_joined(name, list(items), calls) for items in zip(*values)])
    if not all(_equal(value, first) for value in values):
        raise _differ(name, *_two(values))
    return first


_PAD = ". Encode the prompts of all runs to one length"


def _two(values: Sequence[Any]) -> tuple[Any, Any]:
    """The first, and one that is not like it."""
    other = next((value for value in values if not _alike(value, values[0])), values[-1])
    return values[0], other


def _alike(a: Any, b: Any) -> bool:
    return a.shape == b.shape if isinstance(a, Tensor) and isinstance(b, Tensor) else _equal(a, b)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        return both and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _copies(value: Any, call: Call) -> list[Any]:
    copies = len(value) // call.batch
    return [value[copy * call.batch : (copy + 1) * call.batch] for copy in range(copies)]


def _differ(name: str, ours: Any, theirs: Any, hint: str = "") -> InvalidArgument:
    return InvalidArgument(
        f"the runs differ in their transformer's {name or 'latents'}, {ours} and {theirs}, and cannot be replayed in one "
        f"call{hint}, or train them one by one"
    )


__all__ = ["Call", "Rule", "StepCalls", "all_rows", "moved", "some_rows"]
