"""The chunk loss of a micro-batch of Flow-Factory, one step's graph at a time."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import objective
from ..chunks import ChunkPlan
from ..errors import InvalidArgument
from ..torch._drawn import Drawn
from ..trajectory import relative_l1
from ._arguments import ChunkGRPO
from ._engine import BaseSample, filter_kwargs


class MicroBatch:
    """Samples with their trajectories, and the policy that is trained on them. Step k is the k-th one that is trained."""

    def __init__(
        self, adapter: Any, arguments: ChunkGRPO, samples: list[Any], steps: list[int], plan: ChunkPlan
    ) -> None:
        self.adapter, self.arguments, self.steps, self.plan = adapter, arguments, steps, plan
        self.samples = samples
        self.batch: dict[str, Any] = BaseSample.stack(samples)
        low, high = arguments.adv_clip_range
        self.advantages = self.batch["advantage"].double().clamp(low, high).cpu().numpy()
        columns = [int(self.batch["log_prob_index_map"][step]) for step in steps]
        self.old_log_probs: Tensor = self.batch["log_probs"][:, columns].double()

    @property
    def relative_l1(self) -> NDArray[np.float64]:
        """(B, S)."""
        return relative_l1_of(self.samples, self.steps)

    def forward(self, k: int, outputs: list[str]) -> Any:
        """What the adapter returns for the step, of a model with its graph."""
        step, times = self.steps[k], self.batch["timesteps"]
        places = self.batch["latent_index_map"]
        last = step + 1 == times.shape[1]
        given = {
            **self.arguments,  # guidance_scale and the like
            "t": times[:, step],
            "t_next": torch.tensor(0, device=times.device) if last else times[:, step + 1],
            "latents": self.batch["all_latents"][:, places[step]],
            "next_latents": self.batch["all_latents"][:, places[step + 1]],
            "compute_log_prob": "log_prob" in outputs,
            "noise_level": self.adapter.scheduler.noise_level,
            **self.batch,
        }
        return self.adapter.forward(**{**filter_kwargs(self.adapter.forward, **given), "return_kwargs": outputs})

    def old_mean(self, k: int) -> Tensor:
        """That of the policy that sampled."""
        place = self.batch["callback_index_map"][0][self.steps[k]]
        mean: Tensor = self.batch["next_latents_mean"][:, place]
        return mean

    def reference(self, k: int, outputs: list[str]) -> Any:
        """The step under the reference's parameters."""
        torch.clear_autocast_cache()  # which holds the policy's
        with torch.no_grad(), self.adapter.use_ref_parameters():
            output = self.forward(k, outputs)
        torch.clear_autocast_cache()
        return output


class Update:
    """The gradient of one micro-batch's chunk loss, and its numbers.

    selection  (B, K), or None = every chunk
    needed     (S,): the steps that are run, the same on all ranks
    """

    def __init__(self, batch: MicroBatch, selection: Optional[NDArray[np.bool_]], needed: list[bool]) -> None:
        self.batch, self.selection, self.needed = batch, selection, needed
        arguments = batch.arguments
        self.options = arguments.loss_options
        self.guards = arguments.ratio_norm == "grpo_guard"
        self.masks = arguments.loss.get("surrogate") == "divergence_mask"
        self.refers = arguments.kl_reference == "reference"
        self.new = batch.old_log_probs.cpu().numpy().copy()
        self.biases, self.references = np.zeros_like(self.new), self.new.copy()
        self.scales = np.ones(len(batch.steps))
        self.drawn = Drawn(batch.old_log_probs)
        self.judged: Any = None
        self.done = 0

    @property
    def needs_all_steps(self) -> bool:
        """A chunk's ratio takes all its steps; of chunks of one step each is on its own."""
        return len(self.batch.plan) < len(self.batch.steps)

    @property
    def outputs(self) -> list[str]:
        """What the adapter is to return for a step."""
        arguments = self.batch.arguments
        names = ["log_prob", "dt"]
        if self.guards or self.masks:
            names += ["next_latents_mean", "std_dev_t"]
        if arguments.kl_beta > 0:
            names.append("noise_pred" if arguments.kl_type == "v-based" else "next_latents_mean")
        return list(dict.fromkeys(names))

    @torch.no_grad()
    def judge(self, on_policy: bool = False) -> None:
        """The pass without gradients: all log-probabilities, then the loss of them and its gradient. on_policy: the old
        ones are these."""
        for k, needed in enumerate(self.needed):
            if needed and not on_policy:
                with self.drawn.first(k):
                    output = self.batch.forward(k, self.outputs)
                self._note(k, output)
        torch.clear_autocast_cache()  # which holds weights without their graph
        self.judged = self.result()

    def step_loss(self, k: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A tensor whose gradient is the step's part of the loss, times the number of steps: the backward passes of all
        steps are averaged by the engine, as those of micro-batches are. And numbers for the logger."""
        with self.drawn.again(k):
            output = self.batch.forward(k, self.outputs)
        if self.judged is None:
            self._note(k, output)
        out = self.judged or self.result()
        count = len(self.batch.steps)
        loss = count * (self._row(out.grad_log_probs, k, output.log_prob) * output.log_prob).sum()
        if self.guards:
            bias = self._bias(k, output)
            loss = loss + count * (self._row(out.grad_ratio_bias, k, bias) * bias).sum()
        if self.batch.arguments.kl_beta > 0:
            distance = self._distance(k, output)
            share = count / sum(self.needed)  # a mean over the steps that are run, however many ranks need
            loss = loss + self.batch.arguments.kl_beta * share * distance
            return loss, {"kl_div": distance.detach(), "kl_loss": self.batch.arguments.kl_beta * distance.detach()}
        return loss, {}

    def result(self) -> Any:
        """The chunk loss of the log-probabilities that are known; the old ones where they are not."""
        given: dict[str, Any] = {"selection": self.selection, **self.options}
        if self.guards:
            given.update(ratio_bias=self.biases, ratio_scale=self.scales)
        if self.masks:
            given.update(divergence=self.biases)
        if self.refers:
            given.update(reference_log_probs=self.references)
        old = self.batch.old_log_probs.cpu().numpy()
        return objective.chunk_loss(self.new, old, self.batch.advantages, self.batch.plan, **given)

    def ratios(self, out: Any) -> Tensor:
        """(n,): those of the chunks that are trained."""
        return torch.as_tensor(out.ratios[slice(None) if self.selection is None else self.selection]).reshape(-1)

    # ------------------------------------------------------------------------------------------------------------------

    def _note(self, k: int, output: Any) -> None:
        self.new[:, k] = output.log_prob.detach().double().cpu().numpy()
        if self.guards or self.masks:
            self.scales[k] = self._scale(output)
            self.biases[:, k] = self._bias(k, output).detach().double().cpu().numpy()
        if self.refers:
            self.references[:, k] = self.batch.reference(k, ["log_prob"]).log_prob.double().cpu().numpy()

    def _scale(self, output: Any) -> float:
        """s of the step: Flow-Factory gives it over sqrt(-dt), but for CPS."""
        whole = self.batch.adapter.scheduler.dynamics_type == "CPS"
        spread = output.std_dev_t if whole else output.std_dev_t * torch.sqrt(-output.dt)
        values = spread.detach().double().flatten().cpu()
        if (values - values[0]).abs().max() > 1e-6 * values[0]:
            raise InvalidArgument("the samples of a micro-batch have other schedules, and ratio_norm needs one for all")
        return float(values[0])

    def _bias(self, k: int, output: Any) -> Tensor:
        """(B,): the Gaussian divergence from the policy that sampled, |m - m_old|^2 / (2 s^2), mean over D."""
        moved = (output.next_latents_mean.float() - self.batch.old_mean(k).float()).flatten(1)
        bias: Tensor = moved.square().mean(1) / (2 * self._scale(output) ** 2)
        return bias

    def _distance(self, k: int, output: Any) -> Tensor:
        """Flow-Factory's KL: the mean squared difference from the reference's velocity or mean."""
        name = "noise_pred" if self.batch.arguments.kl_type == "v-based" else "next_latents_mean"
        reference = getattr(self.batch.reference(k, [name]), name)
        distance: Tensor = (getattr(output, name) - reference).square().mean()
        return distance

    def _row(self, rows: Any, k: int, like: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(rows)[:, k], device=like.device).to(like.dtype)


def relative_l1_of(samples: list[Any], steps: list[int]) -> NDArray[np.float64]:
    """(B, S): how far each trained step moves its latents."""
    rows = []
    for sample in samples:
        places, latents = sample.latent_index_map, sample.all_latents
        pairs = [torch.stack([latents[places[step]], latents[places[step + 1]]]) for step in steps]
        rows.append(np.asarray(relative_l1(torch.stack(pairs).float().cpu().numpy()))[:, 0])
    return np.stack(rows)
