"""Flow-Factory: Chunk-GRPO as one of its trainers, and this library's samplers behind its schedulers.

    train:
      trainer_type: chunkgrpo.flow_factory.ChunkGRPO
      chunks: [2, 3, 4]

`ff-train config.yaml` takes this as it is: the path imports this module, which registers scheduler and arguments.
`python -m chunkgrpo.flow_factory config.yaml` also refuses a misspelt section. docs/flow-factory.md has the rest.
"""

from __future__ import annotations

from ._arguments import ChunkGRPO
from ._engine import register_scheduler
from ._scheduler import ChunkSDEScheduler
from ._trainer import ChunkGRPOTrainer

__all__ = ["ChunkGRPO", "ChunkGRPOTrainer", "ChunkSDEScheduler"]

register_scheduler("FlowMatchEulerDiscreteScheduler", f"{__name__}.ChunkSDEScheduler")
