"""Checks that every compiled backend makes before it uses a tensor's address."""

import torch
from torch import Tensor


def plain(x: Tensor | None) -> bool:
    """Return whether the tensor has data at its address, which a fake tensor has not."""
    return x is None or type(x) in (Tensor, torch.nn.Parameter)


def transformed() -> bool:
    """Return whether a transform of torch.func is active, which cannot trace a compiled scan."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def float32_on_cpu(*tensors: Tensor | None) -> bool:
    """Return whether the tensors are float32 on the CPU and no transform of torch.func is active."""
    if transformed():
        return False
    return all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in tensors)


def dense(x: Tensor | None) -> Tensor | None:
    """Return a contiguous tensor, or None for None."""
    return None if x is None else x.contiguous()


def address(x: Tensor | None) -> int:
    """Return the address of the first element; 0 for None."""
    return 0 if x is None else x.data_ptr()
