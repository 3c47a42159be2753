"""The names that published training scripts call today, with their signatures, over this library.

One module per code base: `flow_grpo`, `dance_grpo`, `gcpo`. docs/migration.md has the lines to change.
"""

from .._extras import needed

needed("torch", __name__, "torch")
