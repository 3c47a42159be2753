"""UniRL: Chunk-GRPO beside its FlowGRPO, and this library's samplers as its SDE strategies.

A recipe of UniRL names them by `_target_`; nothing of UniRL is changed:

    algorithm:
      _target_: chunkgrpo.unirl.ChunkGRPO
      plan: [1, 2, 2, 4]              # sizes of the chunks
      fraction: 0.5                   # of each sample's chunks are trained
      clip: 5.0e-5
      old_logp_source: replay
      conditions_cls: ...             # as for UniRL's FlowGRPO
      params: ${sampling}

    pipeline:
      strategy:
        _target_: chunkgrpo.unirl.SamplerStrategy
        dynamics: cps

docs/unirl.md has the options, and what was compared. Needs unirl 0.2.
"""

from .._extras import needed as _needed

_needed("unirl", __name__, "unirl")

import unirl as _unirl  # noqa: E402

from ..errors import InvalidArgument as _InvalidArgument  # noqa: E402

TRIED = ("0.2.0",)
"""The versions of UniRL that the tests ran with."""

if isinstance(_unirl.__version__, str) and _unirl.__version__.split(".")[:2] != ["0", "2"]:  # a stand-in has none
    raise _InvalidArgument(
        f"unirl is {_unirl.__version__}; chunkgrpo.unirl is made for 0.2, and was tried with {', '.join(TRIED)}: "
        "pip install 'unirl==0.2.*'"
    )

from ._algorithm import ChunkGRPO  # noqa: E402
from ._strategy import SamplerStrategy  # noqa: E402

__all__ = ["TRIED", "ChunkGRPO", "SamplerStrategy"]
