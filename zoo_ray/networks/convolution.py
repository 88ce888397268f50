"""Convolutions whose weights' gradients fill a GPU.

The gradient of a weight sums over all pixels of a batch. There are few weights, so few of a GPU's
processors have a sum to make, and each of these is long: of 14,400 terms in the small network's
first layer at batch 16. A library shares a sum out by adding atomically, in an order that changes
from step to step, or, where the same bits are asked for, not at all. Here each part of the batch
has sums of its own, which are added up in their order.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from zoo_ray.networks.may_fail import may_fail

PARTS = 16
"""Of a batch, at most."""
_ALIGNED = 8  # columns: products of bfloat16 are slow where rows begin at other multiples
_aten = torch.ops.aten


def has_parts(x: Tensor) -> bool:
    """Whether the gradients of weights that are applied to a tensor are summed in parts."""
    return x.is_cuda and works(x.device)


@cache
def works(device: torch.device) -> bool:
    """Whether a device has the products that this takes."""
    with may_fail("products of batches do"):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.ones(2, 16, 4, 4, device=device, dtype=dtype)
            weight_gradient(x, x, x.new_ones(16, 16, 1, 1), stride=1, padding=0)
        return True
    return False


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of one stride and padding in both directions, without dilation, groups."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.bias)

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another bias, or none."""
        stride, padding = self.stride[0], int(self.padding[0])
        if self.training and has_parts(x):
            result: Tensor = _InParts.apply(x, self.weight.to(x.dtype), bias, stride, padding)
            return result
        return conv2d(x, self.weight, bias, stride, padding)


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return conv2d(x, weight, None if bias is None else bias.to(x.dtype), stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        grad = grad.contiguous(memory_format=torch.channels_last)
        needs_x, _, needs_bias = ctx.needs_input_grad[:3]
        grad_x = None
        if needs_x:
            grad_x, _, _ = _aten.convolution_backward(
                *(grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1),
                (True, False, False),
            )
        grad_weight = weight_gradient(x, grad, weight, stride=stride, padding=padding)
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None


def weight_gradient(
    x: Tensor, grad: Tensor, weight: Tensor, *, stride: int, padding: int
) -> Tensor:
    """Of the layout and dtype of the weight, which are channels-last."""
    batch, outputs, high, wide = grad.shape
    _, inputs, rows, columns = weight.shape
    parts = next(count for count in range(min(PARTS, batch), 0, -1) if batch % count == 0)
    padded = pad(x, [padding] * 4) if padding else x
    image, channel, line, pixel = padded.stride()
    windows = padded.as_strided(
        (batch, high, wide, rows, columns, inputs),
        (image, stride * line, stride * pixel, line, pixel, channel),
    )
    length = rows * columns * inputs
    # What is added to align them is not written, nor is what comes of it read.
    aligned = x.new_empty((batch * high * wide, -(-length // _ALIGNED) * _ALIGNED))
    aligned[:, :length].view(windows.shape).copy_(windows)
    products = _products(
        grad.permute(0, 2, 3, 1).reshape(parts, -1, outputs).transpose(1, 2),
        aligned.view(parts, -1, aligned.shape[1]),
    )
    total = products[:, :, :length].sum(0).to(weight.dtype)
    return total.view(outputs, rows, columns, inputs).permute(0, 3, 1, 2)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """In float32, of matrices in the trunk's precision."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
