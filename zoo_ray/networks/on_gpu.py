"""How networks of ours train on a GPU: with kernels of ours, if Triton compiles for it."""

import os
import threading
from functools import cache
from types import ModuleType

import torch
from torch import nn

from zoo_ray.networks import convolution
from zoo_ray.networks.may_fail import may_fail

_trying = threading.Lock()
_MOST = 2**31 - 1  # elements: the kernels count in 32 bits


def kernels(x: torch.Tensor) -> ModuleType | None:
    """`zoo_ray.networks.triton_norm`, if it takes a tensor; None: torch's own operators do."""
    return _kernels(x.device) if x.is_cuda and x.numel() <= _MOST else None


def name(device: torch.device) -> str | None:
    """What to call all this in the record of what decides bits; None on a processor."""
    if device.type != "cuda":
        return None
    module = _kernels(device)
    found = ["parts"] if convolution.works(device) else []
    found += [] if module is None else [f"triton {module.triton.__version__}"]
    return ", ".join(found) or None


def _kernels(device: torch.device) -> ModuleType | None:
    with _trying:  # by one thread
        return _tried(device)


@cache
def _tried(device: torch.device) -> ModuleType | None:
    if os.environ.get("TRITON_INTERPRET") == "1":  # whose bits are others, and cannot be captured
        return None
    with may_fail("Triton does"):
        from zoo_ray.networks import triton_norm

        # It compiles with a C compiler that may not be there, for GPUs that may be too old.
        norm = nn.BatchNorm2d(16, device=device)
        for dtype in (torch.float32, torch.bfloat16):
            with torch.enable_grad():
                x = torch.ones(2, 16, 4, 4, device=device, dtype=dtype, requires_grad=True)
                pooled = triton_norm.norm_relu(triton_norm.pool_relu(x), norm, pool=True)
                y = triton_norm.norm_relu(pooled, norm, pool=False)
                torch.autograd.grad(y.sum(), x)
        return triton_norm
    return None
