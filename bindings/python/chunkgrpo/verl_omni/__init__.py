"""verl-omni: Chunk-GRPO as a loss of its diffusion actor.

verl-omni judges one step at a time, and a chunk's ratio needs all of its steps. So its FSDP engine runs the steps of a
micro-batch once more before, without a gradient; the chunk loss of their log-probabilities then gives each step's slope.
Nothing of verl-omni is changed: three overrides of its configuration name the loss, and importing this module puts the
engine in the place of its own, which it extends:

    actor_rollout_ref.actor.diffusion_loss._target_=chunkgrpo.verl_omni.ChunkLossConfig
    actor_rollout_ref.actor.diffusion_loss.loss_mode=chunk_grpo
    +actor_rollout_ref.actor.diffusion_loss.plan=[2,3,4,7]

docs/verl-omni.md has the options, and what was compared. Needs verl-omni 0.2 with its FSDP or FSDP2 backend.
"""

import verl_omni as _verl_omni

from ..errors import InvalidArgument as _InvalidArgument

TRIED = ("0.2.0rc1",)
"""The versions of verl-omni that the tests ran with."""

if isinstance(_verl_omni.__version__, str) and _verl_omni.__version__.split(".")[:2] != ["0", "2"]:  # a stand-in has none
    raise _InvalidArgument(
        f"verl_omni is {_verl_omni.__version__}; chunkgrpo.verl_omni is made for 0.2, and was tried with {', '.join(TRIED)}"
    )

from ._config import ChunkLossConfig  # noqa: E402
from ._engine import ChunkFSDPEngine  # noqa: E402
from ._loss import ChunkGRPOLoss  # noqa: E402

__all__ = ["TRIED", "ChunkFSDPEngine", "ChunkGRPOLoss", "ChunkLossConfig"]
