"""What a call on a CUDA device needs beside its tensors: the stream, a workspace, and the word for what is not finite."""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from typing import Any

from . import _status
from ._generated import Cuda
from ._library import lib, new
from .errors import InvalidArgument, check


class Queue:
    """What a call needs beside its tensors: a struct of the library's and the memory that it points at."""

    def __init__(self, struct: Any, memory: Any, size: int) -> None:
        self.struct, self.memory, self.size = struct, memory, size
        self.pointer = ctypes.pointer(struct)

    def with_noise(self, seed: Any, sample_ids: Any) -> Queue:
        """The same for one call, whose noise follows from numbers on the device."""
        struct = Cuda.from_buffer_copy(self.struct)
        struct.seed = None if seed is None else seed.pointer
        struct.sample_ids = None if sample_ids is None else sample_ids.pointer
        return Queue(struct, (self.memory, seed, sample_ids), self.size)


_lock = threading.Lock()
_queues: dict[tuple[str, int, int, int], Queue] = {}
"""By framework, device, stream and, in the capture of a CUDA graph, its number. The kernels of a stream run one after
the other, so that they share a workspace. A graph has one of its own, zeroed by each replay, which may be elsewhere."""


@functools.lru_cache(maxsize=1024)
def _workspace(batch: int, elements: int, steps: int) -> int:
    size = ctypes.c_size_t()
    check(lib.cgrpo_cuda_workspace(batch, elements, steps, ctypes.byref(size)))
    return size.value


def queue_of(family: Any, shape: tuple[int, ...], leading: int) -> Queue:
    steps = shape[1] if leading == 2 else 1
    size = _workspace(shape[0], math.prod(shape[leading:]), steps)
    stream, capture = family.stream(), family.capture()
    key = family.framework, family.index, stream, capture
    queue = _queues.get(key)
    if queue is None or queue.size < size:
        queue = _made(family, stream, size, capture != 0)
        for old in list(_queues):
            if old[3] not in (0, capture):  # of a capture that has ended
                _queues.pop(old, None)
        _queues[key] = queue
    return queue


@functools.lru_cache(maxsize=1)
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


_CAPTURING = 1  # CU_STREAM_CAPTURE_STATUS_ACTIVE


def capture_of(stream: int) -> int:
    """The number of the capture that a stream is in, 0 where it is in none."""
    status, number = ctypes.c_int(), ctypes.c_uint64()
    pointers = ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number)
    if _driver().cuStreamGetCaptureInfo(*pointers):
        raise InvalidArgument("the driver does not tell which CUDA graph is being captured")
    return number.value if status.value == _CAPTURING else 0


def _made(family: Any, stream: int, size: int, capturing: bool) -> Queue:
    word = family.framework, family.index
    if word not in _status.words and capturing:
        raise InvalidArgument(
            f"the first call on {family.device} is inside the capture of a CUDA graph, where kernels cannot be loaded; "
            "make one call before it"
        )
    with _lock:
        if word not in _status.words:
            zero = family.zeros(1)
            family.wait()  # once: other streams will use it
            _status.words[word] = zero
    struct, memory = new(Cuda), family.zeros((size + 7) // 8)
    struct.stream, struct.workspace, struct.workspace_size = stream, family.pointer(memory), size
    struct.status = family.pointer(_status.words[word])
    return Queue(struct, memory, size)
