"""Flow-Factory's GRPO trainer with the chunk loss."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray

from .. import distributed as cgd
from .._metrics import metrics
from ..chunks import ChunkPlan
from ._arguments import ChunkGRPO, refuse_ignored
from ._engine import GRPOGuardTrainer, GRPOTrainer, create_generator, reduce_loss_info
from ._micro_batch import MicroBatch, Update, relative_l1_of


class ChunkGRPOTrainer(GRPOTrainer):
    """Chunk-GRPO by Flow-Factory's rollouts, rewards, adapters and accelerate. `ChunkGRPO` has its arguments.

    A micro-batch is trained step by step, as in Flow-Factory: one backward pass holds one step. Where a chunk has several
    steps, a pass without gradients runs first, because a chunk's ratio depends on all its steps. Steps that no sample of
    any rank has selected are not run. The gradient of an update is that of the mean of its micro-batches' chunk losses.
    """

    training_args: ChunkGRPO

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.training_args.check(self.adapter.scheduler.num_sde_steps, self.adapter.scheduler.dynamics_type)
        refuse_ignored(self.config, self.adapter)

    @cached_property
    def ranks(self) -> cgd.Ranks:
        """The processes of the job."""
        return cgd.of_accelerate(self.accelerator)

    # ------------------------------------------------------------------------------------------------------------------
    # Rollouts and advantages

    def sample(self) -> list[Any]:
        """Rollouts, with the means of their steps where the loss needs them."""
        if self.training_args.needs_old_means:
            return GRPOGuardTrainer.sample(self)  # type: ignore[arg-type, unused-ignore]
        return super().sample()

    def compute_advantages(
        self, samples: Any, rewards: Any, store_to_samples: bool = True, aggregation_func: Any = None
    ) -> Any:
        """Advantages (B,) of this rank's samples."""
        own = aggregation_func is None and self.training_args.advantages is not None
        chosen = self._advantages if own else aggregation_func
        return super().compute_advantages(samples, rewards, store_to_samples, chosen)

    def _advantages(self, processor: Any, samples: Any, rewards: Any, store: bool) -> Any:
        """`chunkgrpo.advantages` over all ranks: groups are the samples of one prompt."""
        names = list(rewards)
        values = torch.stack([torch.as_tensor(rewards[name]).double().cpu().reshape(-1) for name in names], 1).numpy()
        weights = [processor.reward_weights[name] for name in names]
        options: Any = {**(self.training_args.advantages or {}), "weights": weights}
        found = self.ranks.advantages(values, groups=[sample.unique_id for sample in samples], **options)
        advantages = torch.as_tensor(found, dtype=torch.float32, device=self.accelerator.device)
        if store:
            for sample, advantage in zip(samples, advantages):
                sample.extra_kwargs["advantage"] = advantage
        self._log_rewards(names, values, weights, found, samples)
        return advantages

    def _log_rewards(self, names: list[str], values: Any, weights: Any, found: Any, samples: Any) -> None:
        """Under the names of Flow-Factory."""
        rows = {f"reward_{name}": values[:, i] for i, name in enumerate(names)}
        rows = {**rows, "reward": values @ np.array(weights), "adv_abs": abs(found)}
        whole = self.ranks.gather(np.stack(list(rows.values()), 1))
        data: dict[str, Any] = {f"train/{name}_mean": column.mean() for name, column in zip(rows, whole.T)}
        data.update({f"train/{name}_std": column.std() for name, column in zip(rows, whole.T)})
        self.log_data({**data, "train_samples": samples[:30]}, step=self.step)

    # ------------------------------------------------------------------------------------------------------------------
    # The update

    def optimize(self, samples: list[Any]) -> None:
        """One epoch of updates from samples with advantages."""
        arguments = self.training_args
        steps = sorted(int(step) for step in self.adapter.scheduler.train_timesteps)
        self._moved = False
        plan = self._plan(samples, steps)
        size = arguments.per_device_batch_size
        for inner_epoch in range(arguments.num_inner_epochs):
            keys = arguments.seed, self.epoch, inner_epoch
            order = torch.randperm(len(samples), generator=create_generator(*keys)).numpy()
            self.adapter.train()
            self._logged: Any = defaultdict(list)
            with self.autocast():
                for rows in np.split(order, range(size, len(order), size)):
                    own = [samples[i].to(self.accelerator.device) for i in rows.tolist()]
                    batch = MicroBatch(self.adapter, arguments, own, steps, plan)
                    first = self.ranks.rank * len(samples)
                    self._train(batch, self._selection(batch, plan, keys, first + rows))

    def _plan(self, samples: list[Any], steps: list[int]) -> ChunkPlan:
        """The chunks, once found the same in every epoch."""
        plan = self.training_args.plan(len(steps))
        if plan is None and not hasattr(self, "_found"):
            own = np.stack([relative_l1_of([sample], steps)[0] for sample in samples])
            curve = self.ranks.mean(own.mean(0))
            self._found: Optional[ChunkPlan] = self.training_args.plan(len(steps), curve[None])
            self.log_data({"train/chunks": len(self._found or ())}, step=self.step)
        return plan or self._found  # type: ignore[return-value]

    def _selection(
        self, batch: MicroBatch, plan: ChunkPlan, keys: tuple[int, ...], ids: NDArray[np.int64]
    ) -> Optional[NDArray[np.bool_]]:
        """(B, K), drawn by a sample's number in the epoch, whatever rank and micro-batch it is in; None = all."""
        arguments = self.training_args
        if arguments.chunk_fraction == 1:
            return None
        weights = None if arguments.chunk_weighting == "uniform" else plan.weights(batch.relative_l1)
        seed = int(np.random.SeedSequence([key % 2**64 for key in keys]).generate_state(1, np.uint64)[0])
        chosen: NDArray[np.bool_] = plan.select(
            len(ids), fraction=arguments.chunk_fraction, weights=weights, seed=seed, sample_ids=ids
        )
        return chosen

    def _train(self, batch: MicroBatch, selection: Optional[NDArray[np.bool_]]) -> None:
        """The gradient of a micro-batch, and the update where it is the last one of it."""
        needed = [True] * len(batch.steps)
        if selection is not None:
            needed = self.ranks.needed_steps(batch.plan, selection=selection).tolist()
        update = Update(batch, selection, needed)
        if update.needs_all_steps:
            on_policy = self.training_args.skip_first_pass and not self._moved
            with self.ranks.together("the chunk loss"):
                update.judge(on_policy)
        # Those that are left out come first, so that an update ends at one that is run.
        for k in sorted(range(len(needed)), key=lambda k: needed[k]):
            with self.accelerator.accumulate(*self.adapter.trainable_components):
                if needed[k]:
                    self._backward(update, k)

    def _backward(self, update: Update, k: int) -> None:
        loss, own = update.step_loss(k)
        for name, value in own.items():
            self._logged[name].append(value)
        self.accelerator.backward(loss)
        update.done += 1
        if update.done == sum(update.needed):
            self._log(update)
        if self.accelerator.sync_gradients:
            self._step()

    def _log(self, update: Update) -> None:
        out = update.result()
        self._logged["loss"].append(torch.tensor(out.loss, device=self.accelerator.device))
        self._logged["ratio"].append(update.ratios(out).float().to(self.accelerator.device))
        self._logged["stats"].append(out.stats)

    def _step(self) -> None:
        """The optimiser's step, and its numbers to the logger."""
        norm = self.accelerator.clip_grad_norm_(
            self.adapter.get_trainable_parameters(), self.training_args.max_grad_norm
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._moved = True
        stats = self._logged.pop("stats")
        data = {f"train/{name}": value for name, value in reduce_loss_info(self.accelerator, self._logged).items()}
        chunks = metrics(self.ranks.merge_stats(stats), prefix="train/chunk_")
        self.log_data({**data, **chunks, "train/grad_norm": norm}, step=self.step)
        self.step += 1
        self._logged = defaultdict(list)
