"""What was not finite on a CUDA device. A kernel cannot raise: it writes where into a word in the device's memory, which
is looked at where numbers are waited for anyway."""

from __future__ import annotations

from typing import Any, Optional

from ._library import lib
from .errors import NonFinite

words: dict[tuple[str, int], Any] = {}
"""By framework and number of the device: an int64 of one element there, 0 or (step + 1) << 32 | (sample + 1)."""


def of(framework: str, index: int) -> Any:
    """The word of a device, None before the first call on it."""
    return words.get((framework, index))


_MIXED = 2**31 - 1
"""Stands for a step of a batch that mixes them."""


def note(fine: Any, step: Optional[int]) -> None:
    """Writes that the penalty of a step is not finite, where it is not and the word is 0. fine: a 0-dim tensor."""
    word = of("torch", fine.device.index)
    code = (_MIXED if step is None else step + 1) << 32
    if word is not None:
        word.copy_(word.where(fine | (word != 0), code))


def check(code: int, framework: str, index: int) -> None:
    """Raises NonFinite for a word that is not 0, and clears it."""
    if not code:
        return
    words[framework, index].fill_(0) if framework == "torch" else words[framework, index].fill(0)
    raise NonFinite(f"in an earlier call on cuda:{index}: {_sentence(code)}")


def _sentence(code: int) -> str:
    if code & 0xFFFFFFFF:
        lib.cgrpo_cuda_status(code)
        return str(lib.cgrpo_last_error().decode())
    step = (code >> 32) - 1
    return "the penalty" + ("" if step + 1 == _MIXED else f" of step {step}") + " is not finite"
