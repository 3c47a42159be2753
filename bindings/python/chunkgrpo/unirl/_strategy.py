"""This library's samplers as a strategy of UniRL (unirl/sde/kernels.py of unirl 0.2.0)."""

from __future__ import annotations

import functools
import math
from typing import Any, Optional

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from unirl.sde.kernels import SDEStrategy

from .._generated import Dynamics
from ..errors import InvalidArgument
from ..sampler import Coefficients, Sampler
from ..schedule import Schedule

REFUSED = {
    "ode": "it has no noise; eta = 0 takes UniRL's rollouts there",
    "dpm_ode": "it has no noise; UniRL's DPM2Strategy is of its kind",
}
OWN = {"log_prob", "wan_sigma_min"}


class SamplerStrategy(SDEStrategy):
    """One step x' = a x + b v + s e with the coefficients of a `Sampler`, and its log-probability.

    dynamics  of `Sampler`: "flow_sde", "dance_sde", "cps", "wan_sde", "precise", "sage", "flash_sde", "edm_churn",
              "consistency", "dpm_sde" (of order 1), ...
    options   of `Sampler`: log_prob ("gaussian" or "squared_error") and wan_sigma_min

    eta is UniRL's, sampling.eta, per call; where it is 0 the step is Euler's, without noise. Which steps take noise is
    sampling.scheduler's to say. The coefficients are computed in float64, the step in float32 on the latents' device.
    Noise is UniRL's.

    Its rollouts are UniRL's own, in the trainer's process ("trainside"). Engines outside it (SGLang, vLLM-Omni,
    FastVideo) have samplers of their own, which they choose by a name that this has not.
    """

    def __init__(self, dynamics: Dynamics = "flow_sde", **options: Any) -> None:
        unknown = sorted(set(options) - OWN)
        if unknown:
            raise InvalidArgument(
                f"{', '.join(unknown)} cannot be given to SamplerStrategy, which takes {', '.join(sorted(OWN))}: eta, the "
                "schedule and the steps with noise are UniRL's (sampling.eta, sigmas, sampling.scheduler)"
            )
        if dynamics in REFUSED:
            raise InvalidArgument(f"dynamics is {dynamics!r}: {REFUSED[dynamics]}")
        self.dynamics, self.options = dynamics, options
        sampler = Sampler(Schedule.shifted(4, 3.0), dynamics, eta=1.0, **self._sampler_options)
        self.log_prob_no_const = sampler.options["log_prob"] == "squared_error"

    @property
    def _sampler_options(self) -> dict[str, Any]:
        first_order = {"dpm_order": 1} if self.dynamics == "dpm_sde" else {}
        return {**self.options, **first_order}

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"SamplerStrategy({self.dynamics!r}{given})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SamplerStrategy):
            return False
        return (self.dynamics, self.options) == (other.dynamics, other.options)

    def __hash__(self) -> int:
        return hash((self.dynamics, *sorted(self.options.items())))

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: Any) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and s of the steps sigma -> sigma_next, float32 of their shape."""
        first = float(sigma_max)
        here, after = sigma.expand(sigma_next.shape), sigma_next.expand(sigma.shape)
        pairs = zip(here.flatten().tolist(), after.flatten().tolist())
        rows = [_coefficients(self.dynamics, tuple(self._sampler_options.items()), *ab, eta, first) for ab in pairs]
        table = torch.tensor([(row.a, row.b, row.s) for row in rows], dtype=torch.float32, device=sigma.device)
        a, b, s = (table[:, i].reshape(here.shape) for i in range(3))
        return a, b, s

    def step(
        self,
        noise_pred: Tensor,
        sample: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        eta: float = 1.0,
        prev_sample: Optional[Tensor] = None,
        generator: Any = None,
        sigma_max: float = 0.99,
        step_index: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(next latents, their mean, the noise scale s); noise is drawn where the next latents are not given."""
        a, b, s = self.coefficients(sigma, sigma_next, eta, sigma_max)
        mean = a * sample + b * noise_pred
        if eta >= EULER and not self.log_prob_no_const and bool((s == 0).any()):
            raise InvalidArgument(
                f"step {step_index} of {self.dynamics!r} ends without noise, so that it has no log-probability; leave it "
                "out of the SDE steps (sampling.scheduler), or take log_prob='squared_error'"
            )
        if prev_sample is None:
            noise = randn_tensor(noise_pred.shape, generator=generator, device=noise_pred.device, dtype=noise_pred.dtype)
            prev_sample = mean + s * noise
        return prev_sample, mean, s

    def compute_log_prob(
        self, prev_sample: Tensor, prev_sample_mean: Tensor, std_var: Optional[Tensor] = None, **others: Any
    ) -> Tensor:
        """Of each element; UniRL takes the mean."""
        squares = (prev_sample.detach() - prev_sample_mean).square()
        if self.log_prob_no_const or std_var is None:
            return -squares
        return -squares / (2 * std_var.square()) - std_var.log() - 0.5 * math.log(2 * math.pi)

    def transition_std(self, *, sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: float = 0.99) -> Tensor:
        """s of each step."""
        return self.coefficients(sigma, sigma_next, eta, sigma_max)[2]

    def _std_dev_t(self, *, sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: float = 0.99) -> Tensor:
        """Per square root of time."""
        return self.coefficients(sigma, sigma_next, eta, sigma_max)[2] / (sigma - sigma_next).sqrt()


EULER = 1e-7
"""UniRL takes an eta below this for 0: SDEStrategy._finalize_logp."""


@functools.lru_cache(maxsize=4096)
def _coefficients(
    dynamics: Any, options: tuple[Any, ...], sigma: float, sigma_next: float, eta: float, first: float
) -> Coefficients:
    """Of one step. Some dynamics read sigma_1 of the schedule, which UniRL gives as sigma_max."""
    if eta < EULER:
        return Coefficients(1.0, sigma_next - sigma, 0.0, 0.0)
    before = [value for value in (1.0, first) if value > sigma]
    after = [sigma_next] if sigma_next == 0 else [sigma_next, 0.0]
    sampler = Sampler(Schedule([*before, sigma, *after]), dynamics, eta=eta, **dict(options))
    return sampler.coefficients(len(before))
