"""Batch norm, 2x2 max-pooling and ReLU on GPUs, in as few kernels as their sums allow.

A step of a small network at batch 16 is a chain of kernels that each take longer to begin than to
work: what counts is how many there are. ATen takes some fourteen, forward and backward, for what
these take four for. They are written in Triton, which torch brings along on Linux.

Each sums in an order that its shapes decide, so the same bits come again; other bits than ATen's,
whose rounding to bfloat16 between norm and ReLU is left out.
"""

from typing import Any

import torch
import triton
from torch import Tensor, nn

from zoo_ray.networks import triton_kernels as kernels

_LAST = torch.channels_last
_ROWS = 64  # of a tile
_PARTS = 128  # at most, of a sum


def norm_relu(x: Tensor, norm: nn.BatchNorm2d, *, pool: bool, bias: Tensor | None = None) -> Tensor:
    """Batch norm in training, 2x2 max-pooling if asked for, then ReLU.

    Args:
        x: (batch, channels, height, width), channels-last, on a GPU.
        norm: its running statistics are updated.
        pool: whether to pool.
        bias: of the convolution before it, which need not be added: norm takes it away. It counts
            for the running mean, and has a gradient of 0.

    Returns:
        (batch, channels, height or half of it, ...), channels-last, of dtype of x.
    """
    result: Tensor = _NormReLU.apply(x, norm.weight, norm.bias, norm, pool, bias)
    return result


def pool_relu(x: Tensor) -> Tensor:
    """2x2 max-pooling, then ReLU; of channels-last tensors on a GPU."""
    result: Tensor = _PoolReLU.apply(x)
    return result


class _Shape:
    """How the kernels go over a tensor, and over the results that are half as high and wide."""

    def __init__(self, x: Tensor, *, pool: bool) -> None:
        self.batch, self.channels, self.height, self.width = x.shape
        self.high, self.wide = self.height, self.width
        if pool:
            self.high, self.wide = self.height // 2, self.width // 2
        self.rows = self.batch * self.height * self.width
        self.results = self.batch * self.high * self.wide
        # The largest power of two in the number of channels, up to 64.
        self.block = min(64, self.channels & -self.channels)
        self.blocks = triton.cdiv(self.channels, self.block)

    def sizes(self) -> tuple[int, int, int, int]:
        return self.height, self.width, self.high, self.wide

    def parts(self, rows: int) -> tuple[int, int]:
        """How many rows a part of a sum has, and how many parts there are."""
        each = triton.cdiv(triton.cdiv(rows, _PARTS), _ROWS) * _ROWS
        return each, triton.cdiv(rows, each)

    def grid(self, rows: int) -> tuple[int, int]:
        return triton.cdiv(rows, _ROWS), self.blocks

    def tile(self) -> dict[str, int]:
        return {"TILE": _ROWS, "BLOCK_C": self.block}

    def result_like(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        shape = (self.batch, self.channels, self.high, self.wide)
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=_LAST)


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, shift: Tensor, norm: nn.BatchNorm2d, pool: bool,
        bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        assert norm.num_batches_tracked is not None
        x = x.contiguous(memory_format=_LAST)
        shape = _Shape(x, pool=pool)
        each, parts = shape.parts(shape.rows)
        means, squares = x.new_empty((2, parts, shape.channels), dtype=torch.float32)
        sizes = (shape.rows, shape.channels, each)
        kernels.statistics[parts, shape.blocks](x, means, squares, *sizes, **shape.tile())
        y = shape.result_like(x, x.dtype)
        won = shape.result_like(x, torch.int8) if pool else y
        saved = x.new_empty((2, shape.channels), dtype=torch.float32)
        kernels.forward[shape.grid(shape.results)](
            *(x, y, won, means, squares, saved, weight, shift),
            *(weight if bias is None else bias, norm.running_mean, norm.running_var),
            *(norm.num_batches_tracked, shape.rows, shape.results, shape.channels, *shape.sizes()),
            *(each, parts, norm.eps, norm.momentum),
            NORM=True,
            POOL=pool,
            BIAS=bias is not None,
            PARTS=triton.next_power_of_2(parts),
            **shape.tile(),
        )
        ctx.pool, ctx.has_bias = pool, bias is not None
        ctx.save_for_backward(x, won, saved, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, won, saved, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_LAST)
        shape = _Shape(x, pool=ctx.pool)
        each, parts = shape.parts(shape.results)
        sums, products = x.new_empty((2, parts, shape.channels), dtype=torch.float32)
        sizes = (shape.channels, *shape.sizes())
        kernels.gradient_sums[parts, shape.blocks](
            *(x, grad, won, saved, sums, products, shape.results, *sizes, each),
            POOL=ctx.pool,
            **shape.tile(),
        )
        grad_x = torch.empty_like(x)
        grad_weight, grad_shift = torch.empty_like(weight), torch.empty_like(weight)
        kernels.backward[shape.grid(shape.rows)](
            *(x, grad, won, saved, sums, products, weight, grad_x, grad_weight, grad_shift),
            *(shape.rows, *sizes, parts),
            NORM=True,
            POOL=ctx.pool,
            PARTS=triton.next_power_of_2(parts),
            **shape.tile(),
        )
        no_grad = torch.zeros_like(weight) if ctx.has_bias else None
        return grad_x, grad_weight, grad_shift, None, None, no_grad


class _PoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=_LAST)
        shape = _Shape(x, pool=True)
        y, won = shape.result_like(x, x.dtype), shape.result_like(x, torch.int8)
        kernels.forward[shape.grid(shape.results)](
            *(x, y, won, *[x] * 9, shape.rows, shape.results, shape.channels, *shape.sizes()),
            *(1, 1, 0.0, 0.0),
            NORM=False,
            POOL=True,
            BIAS=False,
            PARTS=1,
            **shape.tile(),
        )
        ctx.like = x.shape
        ctx.save_for_backward(won)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (won,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_LAST)
        grad_x = torch.empty(ctx.like, dtype=grad.dtype, device=grad.device, memory_format=_LAST)
        shape = _Shape(grad_x, pool=True)
        kernels.backward[shape.grid(shape.rows)](
            *(grad, grad, won, *[grad] * 4, grad_x, grad, grad),
            *(shape.rows, shape.channels, *shape.sizes(), 1),
            NORM=False,
            POOL=True,
            PARTS=1,
            **shape.tile(),
        )
        return grad_x
