"""The element types of PyTorch, and how its tensors lie. The caller has imported it."""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple, Optional

from ._layouts import Placed, placed
from ._storage import CARRIED, NAMED, Storage


class TypesOfTorch(NamedTuple):
    types: dict[Any, Any]
    """PyTorch's, by the dtypes that carry them."""
    bits: dict[Any, Any]
    """(the integers, the dtype) of those that numpy has not."""
    storages: dict[Any, Storage]
    plain: tuple[Any, ...]
    """The classes of tensors that are nothing but their elements."""
    is_grad_enabled: Any
    in_transform: Any
    """Whether a transform of torch.func runs, whose tensors stand for others."""

    def place(self, tensor: Any, leading: int) -> Optional[Placed]:
        """How a plain tensor lies whose elements the library can read there, and may; None where it takes a closer look
        to copy or to refuse it."""
        storage = self.storages.get(tensor.dtype)
        if storage is None or tensor.is_neg() or self.in_transform():
            return None
        if tensor.requires_grad and self.is_grad_enabled():
            return None
        try:
            found = placed(tensor.shape, tensor.stride(), storage, leading)
            memory = tensor.untyped_storage().nbytes()
        except RuntimeError:  # of sparse and nested tensors
            return None
        begin = tensor.storage_offset() * storage.dtype.itemsize
        return found if found is not None and begin + found.extent <= memory else None


@functools.lru_cache(maxsize=1)
def types_of_torch() -> TypesOfTorch:
    torch: Any = sys.modules["torch"]
    types = {storage.dtype: getattr(torch, storage.name) for storage in NAMED.values()}
    bits = {
        types[storage.dtype]: (getattr(torch, storage.bits), storage.dtype)
        for storage in NAMED.values()
        if storage.bits
    }
    storages = {types[dtype]: storage for dtype, storage in CARRIED.items()}
    in_transform = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
    return TypesOfTorch(types, bits, storages, (torch.Tensor, torch.nn.Parameter), torch.is_grad_enabled, in_transform)
