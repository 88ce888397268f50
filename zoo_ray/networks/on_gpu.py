"""Whether networks of ours train with kernels of ours: on a GPU that Triton compiles for."""

import logging
import os
import threading
from functools import cache
from types import ModuleType

import torch
from torch import nn

log = logging.getLogger("zoo_ray")

_trying = threading.Lock()
_MOST = 2**31 - 1  # elements: the kernels count in 32 bits


def kernels(x: torch.Tensor) -> ModuleType | None:
    """`zoo_ray.networks.triton_norm`, if it takes a tensor; None: torch's own operators do."""
    return _kernels(x.device, x.dtype) if x.is_cuda and x.numel() <= _MOST else None


def name(device: torch.device, dtype: torch.dtype) -> str | None:
    """What to call those of a precision in the record of what decides bits; None without."""
    module = _kernels(device, dtype) if device.type == "cuda" else None
    return None if module is None else f"triton {module.triton.__version__}"


def _kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    with _trying:  # by one thread
        return _tried(device, dtype)


@cache
def _tried(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    if os.environ.get("TRITON_INTERPRET") == "1":  # whose bits are others, and cannot be captured
        return None
    try:
        from zoo_ray.networks import triton_norm

        # It compiles with a C compiler that may not be there, for GPUs that may be too old; for
        # each precision some seconds.
        norm = nn.BatchNorm2d(16, device=device)
        with torch.enable_grad():
            x = torch.ones(2, 16, 4, 4, device=device, dtype=dtype, requires_grad=True)
            pooled = triton_norm.norm_relu(triton_norm.pool_relu(x), norm, pool=True)
            y = triton_norm.norm_relu(pooled, norm, pool=False)
            torch.autograd.grad(y.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = str(error).splitlines() or [type(error).__name__]
        log.warning("Triton does not work here (%s): a fit is slower without", said[0])
        return None
    return triton_norm
