"""The forward-process methods by their published names, with the numbers of their authors' scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from .schedule import Schedule


@dataclass(frozen=True)
class Method:
    """What a method's scripts set. `METHODS` has them by name.

    name           the published one
    source         repository and file
    steps          of the rollout, by an ODE
    group_size     samples per prompt
    draws          times and noises per sample
    learning_rate  of AdamW
    beta           of `distances`: NFT's v+ and v-; None for other methods
    shares_noise   whether the samples of a group, or of a pair, have one id: one noise, one set of times
    notes          sentences: what its scripts do beside
    """

    name: str
    source: str
    steps: int
    group_size: int
    draws: int
    learning_rate: float
    beta: Optional[float] = None
    shares_noise: bool = False
    notes: tuple[str, ...] = ()
    _loss: tuple[tuple[str, Any], ...] = ()
    _times: tuple[tuple[str, Any], ...] = ()
    _steps: Optional[tuple[int, int]] = field(default=None)

    @property
    def loss(self) -> dict[str, Any]:
        """Keywords for the loss of the name: `nft_loss`, `awm_loss` (AWM, FPO), `dgpo_loss`, `crd_loss`, `dpo_loss`."""
        return dict(self._loss)

    def times(self, schedule: Schedule) -> dict[str, Any]:
        """Keywords for `times`, of a rollout by this schedule."""
        values = {} if self._steps is None else {"values": schedule.sigmas[slice(*self._steps)].tolist()}
        return {**dict(self._times), **values}


_DISCRETE = (("distribution", "discrete"),)

METHODS = {
    method.name: method
    for method in (
        Method(
            "nft",
            "NVlabs/DiffusionNFT config/nft.py, sd3_geneval",
            *(10, 24, 9, 3e-4),
            beta=1.0,
            notes=("v_old is of the policy that sampled, an average of the trained one whose decay rises to 0.5",),
            _loss=(("advantage_clip", 5.0), ("kl", 1e-4)),
            _times=_DISCRETE,
            _steps=(0, 9),
        ),
        Method(
            "awm",
            "scxue/advantage_weighted_matching config/dgx_awm.py, geneval_sd3_no_cfg_1node",
            *(14, 24, 6, 3e-4),
            notes=(
                "advantages are clamped to +-5 and divided by 5",
                "a velocity KL of weight 1 to an average of the trained policy, whose decay rises to 0.3",
            ),
            _loss=(("weighting", "generalised_huber"), ("power", 0.25), ("clip", 1.0), ("reference_kl", 1e-3)),
            _times=_DISCRETE,
            _steps=(1, 13),
        ),
        Method(
            "fpo",
            "akanazawa/fpo playground/src/flow_policy/fpo.py, FpoConfig",
            *(10, 1, 8, 3e-4),
            notes=("actions of a robot: advantages of a critic, not of a group",),
            _loss=(("plan", (8,)), ("clip", 0.05)),
        ),
        Method(
            "dgpo",
            "Luo-Yihong/DGPO config/dgpo.py, geneval_sd3_4gpu",
            *(10, 16, 4, 3e-4),
            shares_noise=True,
            notes=("the old policy is an average whose decay rises to 0.3; it samples after 500 steps",),
            _loss=(("beta", 100.0), ("group_size", 16), ("clip", 1e-2), ("kl", 0.02)),
            _times=_DISCRETE,
            _steps=(0, 4),
        ),
        Method(
            "crd",
            "X-GenGroup/Flow-Factory examples/crd/lora/sd3_5/default.yaml",
            *(10, 24, 20, 3e-4),
            notes=("the reference of the KL has guidance 4.5", "v_old is of an average whose decay rises to 0.999"),
            _loss=(("beta", 1.0), ("adaptive", True), ("kl", 0.1), ("kl_least", 1e-4)),
            _times=_DISCRETE,
            _steps=(0, 10),
        ),
        Method(
            "dpo",
            "X-GenGroup/Flow-Factory examples/dpo/lora/sd3_5/default.yaml",
            *(40, 4, 1, 1e-5),
            shares_noise=True,
            notes=("the best and the worst of each group are a pair",),
            _loss=(("beta", 100.0),),
            _times=(("distribution", "logit_normal"),),
        ),
    )
}
"""nft, awm, fpo, dgpo, crd, dpo."""
