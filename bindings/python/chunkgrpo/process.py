"""Settings of the whole process: threads and vectors."""

from __future__ import annotations

from ._library import lib
from ._scalars import int32
from .errors import check


def set_thread_limit(limit: int) -> None:
    """The most threads that any call takes, the caller's own among them: 1 ... 256; 1 = the library starts none. At
    first 256: each sampler's `threads` decides.

    Threads come from one pool, which starts anew in a forked process; they stay awake for 50 microseconds after a
    call, then sleep. A call that finds the pool taken runs on its own thread, so that the workers of a data loader or a
    server do not take more threads than one. Results never depend on any of this.
    """
    check(lib.cgrpo_set_thread_limit(int32(limit, "limit")))


def instruction_set() -> str:
    """ "baseline", "avx2" or "avx512": the widest vectors that the processor and the build of the library have, or less
    where the environment variable CHUNKGRPO_SIMD names it. Results are the same bits with any, but for those of
    `Trainer`, which are others with "baseline"."""
    name: bytes = lib.cgrpo_instruction_set()
    return name.decode()
