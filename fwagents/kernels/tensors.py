"""Checks that every compiled backend makes before it uses a tensor's address."""

import torch
from torch import Tensor


def plain(x: Tensor | None) -> bool:
    """Whether there is data at the tensor's address; a fake tensor has none."""
    return x is None or type(x) in (Tensor, torch.nn.Parameter)


def transformed() -> bool:
    """Whether a transform of torch.func is active, which cannot see into a compiled scan."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def float32_on_cpu(*tensors: Tensor | None) -> bool:
    """Whether the compiled scans of the CPU can run on these: float32, on the CPU, under no transform of torch.func."""
    if transformed():
        return False
    return all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in tensors)


def dense(x: Tensor | None) -> Tensor | None:
    """Return the tensor as a contiguous one, or None for None."""
    return None if x is None else x.contiguous()


def address(x: Tensor | None) -> int:
    """Return the address of the first number; 0 for None."""
    return 0 if x is None else x.data_ptr()
