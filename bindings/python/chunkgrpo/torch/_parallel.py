"""Models that several processes train: their gradients must be summed once, and in the same order everywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
import weakref
from collections.abc import Iterator
from typing import Any, Callable, Optional

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from .._arrays import Doubles
from .._generated import ChunkStats
from ..chunks import ChunkPlan
from ..errors import InvalidArgument, WrongType
from ..objective import ChunkLoss

_CLASSES = {
    ("torch", "DistributedDataParallel"): "ddp",
    ("torch", "FullyShardedDataParallel"): "fsdp1",
    ("torch", "FSDPModule"): "fsdp2",
    ("deepspeed", "DeepSpeedEngine"): "deepspeed",
}


@functools.lru_cache(maxsize=4096)
def _kind(of: Any) -> Optional[str]:
    """Of a class, by names: a wrapper that is not imported has no instances."""
    return next(filter(None, (_CLASSES.get((base.__module__.split(".")[0], base.__name__)) for base in of.__mro__)), None)


# ----------------------------------------------------------------------------------------------------------------------
# no_sync


class NoSync(contextlib.AbstractContextManager["NoSync"]):
    """A context in which backward passes add to this process's gradients alone; called, it is itself. See `no_sync`."""

    def __init__(self, wrappers: list[tuple[str, Any]]) -> None:
        self._wrappers = wrappers
        self._open: list[contextlib.ExitStack] = []

    def __call__(self) -> NoSync:
        return self

    def __enter__(self) -> NoSync:
        with contextlib.ExitStack() as stack:
            for kind, module in self._wrappers:
                stack.enter_context(_CONTEXTS[kind](module))
            self._open.append(stack.pop_all())
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)


def no_sync(model: Module) -> NoSync:
    """The context in which backward passes of a model do not sum gradients over processes, and the no_sync of
    `streamed_backward`: no_sync=cgt.no_sync(model). The first backward pass after it sums what has been added up.

    model  that which is called. It, or the modules in it, may be of

           DistributedDataParallel, FullyShardedDataParallel (FSDP1): their own no_sync
           fully_shard (FSDP2): set_requires_gradient_sync. Both kinds of FSDP keep whole gradients on every process for so
           long: where those do not fit, give `streamed_backward` an every_step and no no_sync
           a DeepSpeed engine, ZeRO 1 to 3: the boundary of its gradient accumulation. Without it the engine takes each
           partial backward pass for a whole one. (ZeRO 0 knows engine.backward alone)
           Accelerator.prepare: one of these
           none of them: nothing is done
    """
    if not isinstance(model, Module):
        raise WrongType(f"model must be a torch.nn.Module, not {type(model).__name__}")
    return NoSync(_outermost(model))


def _outermost(module: Module) -> list[tuple[str, Any]]:
    of: Any = type(module)
    kind = _kind(of)
    if kind is not None:
        return [(kind, module)]
    return [found for child in module.children() for found in _outermost(child)]


_depths: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""How many contexts a module is in, where it does not know."""


@contextlib.contextmanager
def _off(module: Any, switch: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """Switched off, and by the outermost context back to a value."""
    depth = _depths.get(module, 0)
    _depths[module] = depth + 1
    try:
        if not depth:
            switch(False)
        yield
    finally:
        _depths[module] = depth
        if not depth:
            switch(value)


def _of_deepspeed(engine: Any) -> Any:
    """The boundary, and then again what it was: None, where the engine counts micro-batches by itself."""
    return _off(engine, engine.set_gradient_accumulation_boundary, getattr(engine, "_is_gradient_accumulation_boundary", True))


_CONTEXTS: dict[str, Callable[[Any], Any]] = {
    "ddp": lambda module: module.no_sync(),
    "fsdp1": lambda module: module.no_sync(),
    "fsdp2": lambda module: _off(module, module.set_requires_gradient_sync, True),
    "deepspeed": _of_deepspeed,
}


# ----------------------------------------------------------------------------------------------------------------------
# What would be trained wrongly


def wrappers_in(function: Any) -> dict[str, Any]:
    """The wrappers that a function can call, one of each kind, found by the names in its code. No hook on modules, which a
    compiler would trace."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def look(value: Any, names: frozenset[str], depth: int) -> None:
        if id(value) in seen or depth > 5:
            return
        seen.add(id(value))
        if isinstance(value, Module):
            for kind, module in _outermost(value):
                found.setdefault(kind, module)
            return
        names = names | _names(value)
        for held in _held(value, names, depth):
            look(held, names, depth + 1)

    look(function, frozenset(), 0)
    return found


def _names(value: Any) -> frozenset[str]:
    """Those in the code of a function, a method or an object that is called, and of the functions within."""
    value = getattr(value, "__func__", value)
    if not isinstance(value, types.FunctionType):
        value = getattr(type(value), "__call__", None)
    found: set[str] = set()
    codes = [value.__code__] if isinstance(value, types.FunctionType) else []
    while codes:
        code = codes.pop()
        found.update(code.co_names)
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return frozenset(found)


def _held(value: Any, names: frozenset[str], depth: int) -> list[Any]:
    """What a function, a method or an object reaches by the names."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        own = [value.__globals__[name] for name in names if name in value.__globals__]
        # Of another file's functions, those alone that are handed over.
        own = [v for v in own if not isinstance(v, types.FunctionType) or v.__globals__ is value.__globals__]
        return cells + own
    if isinstance(value, (type, types.ModuleType, Tensor, str, bytes)):
        return []
    if isinstance(value, (list, tuple, dict)):
        items = list(value.values() if isinstance(value, dict) else value)
        return [item for item in items if isinstance(item, Module)] if len(items) <= 64 else []
    return [held for name, held in getattr(value, "__dict__", {}).items() if name in names]


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents
    except ValueError:
        return True
    return False


def sharded(function: Any) -> bool:
    """Whether it runs parameters whose processes must run the same steps: they exchange something in each."""
    return _together() and _sharded(wrappers_in(function))


def _sharded(wrappers: dict[str, Any]) -> bool:
    engine = wrappers.get("deepspeed")
    return bool({"fsdp1", "fsdp2"} & wrappers.keys()) or engine is not None and engine.zero_optimization_stage() > 1


def _together() -> bool:
    """Whether there are processes to wait for."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1


def refuse_wrong(velocity: Any, no_sync: Any, every_step: bool, steps: str = "steps") -> dict[str, Any]:
    """Refuses a model that would make processes wait for each other without end, or whose gradient would be another than
    one process's. every_step: all processes run the same steps. Returns the wrappers."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return {}
    wrappers = wrappers_in(velocity)
    engine, ddp = wrappers.get("deepspeed"), wrappers.get("ddp")
    if engine is not None and engine.zero_optimization_stage() == 0:
        raise InvalidArgument(
            "the velocity's DeepSpeed engine has ZeRO stage 0, which takes no backward pass but engine.backward; choose stage "
            "1, 2 or 3, or use engine.backward(chunk_policy_loss(...).loss)"
        )
    if engine is not None and no_sync is None:
        raise InvalidArgument(
            "no_sync is missing: the velocity's DeepSpeed engine takes each backward pass for a whole one, and its gradient "
            "would be wrong; give no_sync=chunkgrpo.torch.no_sync(engine)"
        )
    if ddp is not None and getattr(ddp, "static_graph", False):
        raise InvalidArgument(
            "the velocity's DistributedDataParallel has static_graph=True, which allows one backward pass for each update; "
            "leave it out, or use chunk_policy_loss"
        )
    if every_step or not _together():
        return wrappers
    if _sharded(wrappers):
        raise InvalidArgument(
            "every_step is missing: the velocity's parameters or gradients are sharded, and processes that run other "
            f"{steps} wait for each other without end; give every_step=True, or chunkgrpo.distributed's needed_steps"
        )
    if ddp is not None and no_sync is None and ddp.require_backward_grad_sync:
        raise InvalidArgument(
            "no_sync is missing: the velocity's DistributedDataParallel sums gradients in each backward pass, and processes "
            f"that run other {steps} wait for each other without end; give no_sync=chunkgrpo.torch.no_sync(model)"
        )
    return wrappers


def refuse_unequal(wrappers: dict[str, Any], count: float, device: torch.device) -> None:
    """Refuses losses whose mean is not the loss of all: means over other counts on each process. All of those that sum
    gradients in this call ask each other."""
    if not _together():
        return
    for group in [group for kind, module in wrappers.items() for group in _groups(kind, module)]:
        where = "cpu" if torch.distributed.get_backend(group) in ("gloo", "mpi") else device
        ends = torch.tensor([count, -count], dtype=torch.int64, device=where)
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX, group)
        most, least = ends.tolist()
        if most != -least:
            raise InvalidArgument(
                f"normaliser is missing: the loss is a mean over {count:g} here, and over {-least} to {most} on the processes "
                "that sum gradients, so the mean of their losses is not that of one process; give the normaliser of "
                f"chunkgrpo.distributed's Ranks, or each process's own count, here {count:g}, to weigh processes alike"
            )


def _groups(kind: str, module: Any) -> list[Any]:
    """The process groups over which a backward pass sums gradients now; None is all."""
    if kind == "ddp":
        return [getattr(module, "process_group", None)] if module.require_backward_grad_sync else []
    if kind == "deepspeed":
        end = getattr(module, "_is_gradient_accumulation_boundary", None) is not False
        return [getattr(module, "data_parallel_group", None)] if end else []
    if kind == "fsdp1":
        return [getattr(module, "process_group", None)]
    mesh = getattr(next(module.parameters(), None), "device_mesh", None)
    return [None] if mesh is None else list(mesh.get_all_groups())


def nothing(batch: int, plan: ChunkPlan, biased: bool = False) -> ChunkLoss[Doubles]:
    """The loss of a process that has selected nothing."""
    zeros = np.zeros((batch, plan.steps))
    stats = ChunkStats(**{part.name: 0 for part in dataclasses.fields(ChunkStats)})
    return ChunkLoss(0.0, zeros, np.ones((batch, len(plan))), stats, zeros if biased else None)
