"""The library on the host, called from a JAX program."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

Struct: Any = jax.ShapeDtypeStruct

_trial = threading.local()


def on_trial() -> bool:
    """Whether a function runs for its errors alone, on numbers that are not the caller's."""
    return getattr(_trial, "on", False)


def call(function: Callable[..., Any], results: Any, traced: dict[str, Any]) -> Any:
    """function(**traced) with numpy arrays, as a pytree like `results`: outside of a trace at once, so that its
    exceptions come out as they are; else in a callback."""
    host = partial(_on_host, function, results, {name: array.ndim for name, array in traced.items()})
    if not any(isinstance(array, jax.core.Tracer) for array in traced.values()):
        return jax.tree.map(jnp.asarray, host(traced))
    # Errors that do not depend on the numbers are raised now. Integers are left alone: not every one makes sense.
    if all(array.ndim and not jnp.issubdtype(array.dtype, jnp.integer) for array in traced.values()):
        _trial.on = True
        try:
            function(**{name: np.broadcast_to(np.ones(a.shape[1:], a.dtype), a.shape) for name, a in traced.items()})
        finally:
            _trial.on = False
    # expand_dims: what is the same in all lanes is not copied for each.
    return jax.pure_callback(host, results, traced, vmap_method="expand_dims")


def _on_host(function: Callable[..., Any], results: Any, ranks: dict[str, int], traced: dict[str, Any]) -> Any:
    # numpy at once: JAX in a callback of JAX may wait for itself.
    arrays = {name: np.asarray(array) for name, array in traced.items()}
    shapes = {name: array.shape[array.ndim - ranks[name] :] for name, array in arrays.items()}
    lanes = np.broadcast_shapes(*(a.shape[: a.ndim - ranks[name]] for name, a in arrays.items()))  # () without vmap
    arrays = {name: np.broadcast_to(array, lanes + shapes[name]) for name, array in arrays.items()}

    def run(lane: tuple[int, ...]) -> Any:
        outputs = function(**{name: array[lane] for name, array in arrays.items()})
        return jax.tree.map(lambda output, like: np.asarray(output, like.dtype), outputs, results)

    if not lanes:
        return run(())
    outputs = [run(lane) for lane in np.ndindex(*lanes)]
    return jax.tree.map(lambda *each: np.stack(each).reshape(lanes + each[0].shape), *outputs)
