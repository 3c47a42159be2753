"""What users run today: a Flow-SDE step, its log-probability and the gradient of that, in PyTorch, numpy and JAX.

`sigma` and `next_sigma` are those of one step. Every function takes x, v, ... (B, ...) and computes what the library's
does; bf16 is computed in f32 and stored in bf16, as the training scripts do.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def coefficients(sigma: float, next_sigma: float, eta: float) -> tuple[float, float, float]:
    """a, b, s of x' = a x + b v + s e (Flow-SDE, sigma < 1)."""
    d = sigma - next_sigma
    g = eta * math.sqrt(sigma / (1 - sigma))
    return 1 - g * g * d / (2 * sigma), -d * (1 + g * g * (1 - sigma) / (2 * sigma)), g * math.sqrt(d)


class Eager:
    """The arithmetic of Flow-GRPO's `sde_step_with_logprob` and GCPO's `flow_grpo_step`, in their order: sigmas as a
    tensor of one per sample, everything elementwise over the latents."""

    def __init__(self, sigma: float, next_sigma: float, eta: float, batch: int, ndim: int) -> None:
        import torch

        self.torch, self.eta = torch, eta
        shape = (batch,) + (1,) * (ndim - 1)
        self.sigma, self.next_sigma = torch.full(shape, sigma), torch.full(shape, next_sigma)
        self.sigma_max = 0.98

    def _parts(self, x: Any, v: Any) -> tuple[Any, Any]:
        torch, sigma = self.torch, self.sigma
        dt = self.next_sigma - sigma
        std = torch.sqrt(sigma / (1 - torch.where(sigma == 1, self.sigma_max, sigma))) * self.eta
        mean = x * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
        return mean, std * torch.sqrt(-1 * dt)

    def _log_prob(self, next_x: Any, mean: Any, scale: Any) -> Any:
        torch = self.torch
        value = (
            -((next_x.detach() - mean) ** 2) / (2 * scale**2)
            - torch.log(scale)
            - torch.log(torch.sqrt(2 * torch.as_tensor(math.pi)))
        )
        return value.mean(dim=tuple(range(1, value.ndim)))

    def step(self, x: Any, v: Any) -> tuple[Any, Any]:
        with self.torch.no_grad():
            kind = x.dtype
            x, v = x.float(), v.float()
            mean, scale = self._parts(x, v)
            next_x = mean + scale * self.torch.randn(x.shape, dtype=x.dtype)
            return next_x.to(kind), self._log_prob(next_x, mean, scale)

    def log_prob(self, x: Any, v: Any, next_x: Any) -> Any:
        x, v, next_x = x.float(), v.float(), next_x.float()
        return self._log_prob(next_x, *self._parts(x, v))

    def log_prob_no_grad(self, x: Any, v: Any, next_x: Any) -> Any:
        with self.torch.no_grad():
            return self.log_prob(x, v, next_x)

    def gradient(self, x: Any, v: Any, next_x: Any, grad: Any) -> tuple[Any, Any]:
        """v requires grad."""
        value = self.log_prob(x, v, next_x)
        return value, self.torch.autograd.grad(value, v, grad)[0]


class Compiled:
    """The same rewritten for the compiler: scalar coefficients, one expression. dynamic=False, for one shape and type."""

    def __init__(self, sigma: float, next_sigma: float, eta: float) -> None:
        import torch

        a, b, s = coefficients(sigma, next_sigma, eta)

        def log_prob(x: Any, v: Any, next_x: Any) -> Any:
            distance = next_x.float() - (a * x.float() + b * v.float())
            return distance.square().flatten(1).mean(1) * (-0.5 / s**2) - (math.log(s) + LOG_SQRT_2PI)

        def step(x: Any, v: Any, noise: Any) -> tuple[Any, Any]:
            next_x = (a * x.float() + b * v.float() + s * noise.float()).to(x.dtype)
            return next_x, log_prob(x, v, next_x)

        def step_with_noise_inside(x: Any, v: Any) -> tuple[Any, Any]:
            return step(x, v, torch.randn(x.shape, dtype=torch.float32))

        # Another shape would be one recompilation more, and after eight of them PyTorch falls back to eager.
        torch._dynamo.reset()
        self.torch = torch
        self._log_prob = torch.compile(log_prob, dynamic=False, fullgraph=True)
        self._step = torch.compile(step, dynamic=False, fullgraph=True)
        self._inside = torch.compile(step_with_noise_inside, dynamic=False, fullgraph=True)

    def step(self, x: Any, v: Any) -> tuple[Any, Any]:
        with self.torch.no_grad():
            return self._step(x, v, self.torch.randn(x.shape, dtype=self.torch.float32))

    def step_with_noise_inside(self, x: Any, v: Any) -> tuple[Any, Any]:
        with self.torch.no_grad():
            return self._inside(x, v)

    def step_given(self, x: Any, v: Any, noise: Any) -> tuple[Any, Any]:
        with self.torch.no_grad():
            return self._step(x, v, noise)

    def log_prob(self, x: Any, v: Any, next_x: Any) -> Any:
        with self.torch.no_grad():
            return self._log_prob(x, v, next_x)

    def gradient(self, x: Any, v: Any, next_x: Any, grad: Any) -> tuple[Any, Any]:
        """v requires grad."""
        value = self._log_prob(x, v, next_x)
        return value, self.torch.autograd.grad(value, v, grad)[0]


class Numpy:
    """The rewritten math by a careful hand: f32 throughout, temporaries used again."""

    def __init__(self, sigma: float, next_sigma: float, eta: float) -> None:
        self.a, self.b, self.s = (np.float32(c) for c in coefficients(sigma, next_sigma, eta))
        self.random = np.random.default_rng(0)

    def _distance(self, x: Any, v: Any, next_x: Any) -> Any:
        distance = np.multiply(x, -self.a)
        distance += next_x
        distance -= self.b * v
        return distance

    def _log_prob(self, distance: Any) -> Any:
        flat = distance.reshape(len(distance), -1)
        squares = np.einsum("bd,bd->b", flat, flat)
        return squares * (-0.5 / (flat.shape[1] * self.s**2)) - (math.log(self.s) + LOG_SQRT_2PI)

    def step(self, x: Any, v: Any) -> tuple[Any, Any]:
        next_x = self.random.standard_normal(x.shape, np.float32)
        next_x *= self.s
        next_x += self.a * x
        next_x += self.b * v
        return next_x, self.log_prob(x, v, next_x)

    def log_prob(self, x: Any, v: Any, next_x: Any) -> Any:
        return self._log_prob(self._distance(x, v, next_x))

    def gradient(self, x: Any, v: Any, next_x: Any, grad: Any) -> tuple[Any, Any]:
        distance = self._distance(x, v, next_x)
        value = self._log_prob(distance)
        scale = (grad * (self.b / (distance[0].size * self.s**2))).astype(np.float32)
        distance *= scale.reshape((-1,) + (1,) * (x.ndim - 1))
        return value, distance


def jax_functions(sigma: float, next_sigma: float, eta: float) -> dict[str, Callable[..., Any]]:
    """Jitted step(key, x, v), log_prob(x, v, next_x) and gradient(x, v, next_x, grad)."""
    import jax
    import jax.numpy as jnp

    a, b, s = coefficients(sigma, next_sigma, eta)

    def log_prob(x: Any, v: Any, next_x: Any) -> Any:
        f32 = jnp.float32
        distance = next_x.astype(f32) - (a * x.astype(f32) + b * v.astype(f32))
        return jnp.mean(distance.reshape(len(x), -1) ** 2, 1) * (-0.5 / s**2) - (math.log(s) + LOG_SQRT_2PI)

    @jax.jit
    def step(key: Any, x: Any, v: Any) -> Any:
        noise = jax.random.normal(key, x.shape, jnp.float32)
        next_x = (a * x.astype(jnp.float32) + b * v.astype(jnp.float32) + s * noise).astype(x.dtype)
        return next_x, log_prob(x, v, next_x)

    @jax.jit
    def gradient(x: Any, v: Any, next_x: Any, grad: Any) -> Any:
        value, back = jax.vjp(lambda v: log_prob(x, v, next_x), v)
        return value, back(grad)[0]

    return {"step": step, "log_prob": jax.jit(log_prob), "gradient": gradient}
