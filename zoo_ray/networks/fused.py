"""Blocks of convolution, batch norm, 2x2 max-pooling and ReLU that take few passes over memory.

Each computes what the plain modules compute, and its backward is written out in calls of torch's
own operators: what is left between the convolutions is a handful of passes over the activations.
They are for bfloat16 on CPUs; elsewhere the modules are as fast (see `SmallConv`).

Pooling comes before ReLU, which gives the same values and is a quarter of the work, and both work
on the bits of the floats as integers. The bits of floats that are not negative order as the floats
do, and a negative one reads as a negative integer. Which of several negative values wins a window
may be wrong, but ReLU makes 0 of it all the same. ATen's integer comparisons are faster than its
float ones (several times, for bfloat16), and ties go to the first of a window in row-major order,
as in `nn.MaxPool2d`: values and gradients are the modules' bit for bit.

A NaN whose sign bit is set reads as a negative integer and becomes 0, as any negative value does.
It does not go unseen: its batch leaves NaN in the running statistics, and backward in the weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor

_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
_UNPADDED = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)  # stride 1, and all else at its default
_aten = torch.ops.aten


def conv_pool_relu(images: Tensor, weight: Tensor) -> Tensor:
    """A 3x3 convolution without padding or bias, max-pooled by 2, then ReLU.

    For few input channels: it multiplies matrices made of image patches. The images get no
    gradient.

    Args:
        images: (batch, channels, height, width), channels-last in memory; its dtype is computed in.
        weight: (outputs, channels, 3, 3).

    Returns:
        (batch, outputs, (height - 2) // 2, (width - 2) // 2), channels-last, of the images' dtype.
    """
    result: Tensor = _ConvPoolReLU.apply(images, weight)
    return result


def conv_norm_pool_relu(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """A convolution without padding, batch norm, max-pooling by 2, then ReLU.

    Args:
        x: (batch, inputs, height, width), channels-last in memory; its dtype is computed in, but
            for the norm's statistics.
        conv: 3x3 with a bias, without padding.
        norm: if it is training its running statistics are updated, else they are used.

    Returns:
        (batch, outputs, (height - 2) // 2, (width - 2) // 2), channels-last, of dtype of x.
    """
    assert conv.bias is not None
    if norm.training:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        parameters = (conv.weight, conv.bias, norm.weight, norm.bias)
        result: Tensor = _ConvNormPoolReLU.apply(x, norm, *parameters)
        return result
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # The norm's scale and shift go into the convolution's weight and bias.
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = conv.weight * scale[:, None, None, None]
    bias = (conv.bias - norm.running_mean) * scale + norm.bias
    return _Pooled(_windows(_conv(x, weight.to(x.dtype), bias.to(x.dtype)))).result


class _ConvPoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        patches = _patches(images)
        products = torch.mm(patches, _as_matrix(weight, images.dtype, rows=patches.shape[1]))
        shape = (4, batch, (height - 2) // 2, (width - 2) // 2, -1)
        pooled = _Pooled(products.view(shape).permute(0, 1, 4, 2, 3).unbind())
        ctx.weight_shape = weight.shape
        ctx.weight_dtype = weight.dtype
        ctx.save_for_backward(patches, products, *pooled.saved)
        return pooled.result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        patches, products, *saved = ctx.saved_tensors
        batch, outputs, height, width = grad.shape
        # In place: half the memory, of which more then stays in the cache.
        windows = products.view(4, batch, height, width, outputs).permute(0, 1, 4, 2, 3).unbind()
        _pool_relu_backward(windows, saved, grad, out=windows)
        by_row = torch.mm(patches.t(), products).to(ctx.weight_dtype)
        _, channels, kernel_height, kernel_width = ctx.weight_shape
        by_row = by_row[: channels * kernel_height * kernel_width]
        by_row = by_row.view(kernel_height, kernel_width, channels, outputs)
        return None, by_row.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


def _patches(images: Tensor) -> Tensor:
    """The 3x3 patches of images as rows, by their place within the 2x2 pooling window first.

    So the four members of all windows are contiguous blocks. A row is padded with zeros to an even
    length, as products of bfloat16 take pairs.

    Args:
        images: (batch, channels, height, width), channels-last.

    Returns:
        (4 * batch * ((height - 2) // 2) * ((width - 2) // 2), 9 * channels, made even).
    """
    batch, channels, height, width = images.shape
    high, wide, length = (height - 2) // 2, (width - 2) // 2, 3 * channels
    padding = 3 * length % 2
    patches = images.new_empty((2, 2, batch, high, wide, 3 * length + padding))
    sample, row, pixel = images.stride(0), images.stride(2), images.stride(3)
    shape = (2, 2, batch, high, wide, length)
    strides = (row, pixel, sample, 2 * row, 2 * pixel, 1)
    for line in range(3):
        here = images.as_strided(shape, strides, images.storage_offset() + line * row)
        patches[..., line * length : (line + 1) * length] = here
    if padding:
        patches[..., -1] = 0
    return patches.view(-1, 3 * length + padding)


def _as_matrix(weight: Tensor, dtype: torch.dtype, *, rows: int) -> Tensor:
    """(outputs, channels, 3, 3) to (rows, outputs), rows in the order of `_patches`."""
    matrix = weight.new_zeros((rows, len(weight)), dtype=dtype)
    outputs, channels, height, width = weight.shape
    matrix[: channels * height * width].view(height, width, channels, outputs).copy_(
        weight.permute(2, 3, 1, 0)
    )
    return matrix


class _ConvNormPoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor, *affine: Tensor
    ) -> Tensor:
        weight = weight.to(x.dtype)
        convolved = _conv(x, weight, bias.to(x.dtype))
        normed, mean, inverse_std = _aten.native_batch_norm(
            convolved, *affine, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
        )
        pooled = _Pooled(_windows(normed))
        ctx.eps = norm.eps
        ctx.save_for_backward(
            x, weight, bias, affine[0], convolved, normed, mean, inverse_std, *pooled.saved
        )
        return pooled.result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, convolved, normed, mean, inverse_std, *saved = ctx.saved_tensors
        odd = normed.shape[2] % 2 or normed.shape[3] % 2
        grad_normed = torch.zeros_like(normed) if odd else torch.empty_like(normed)
        _pool_relu_backward(_windows(normed), saved, grad, out=_windows(grad_normed))
        grad_convolved, grad_scale, grad_shift = _aten.native_batch_norm_backward(
            *(grad_normed, convolved, scale, None, None, mean, inverse_std),
            *(True, ctx.eps, (True, True, True)),
        )
        grad_x, grad_weight, _ = _aten.convolution_backward(
            grad_convolved, x, weight, None, *_UNPADDED, (True, True, False)
        )
        # Batch norm takes away whatever the bias adds: its gradient is 0 but for rounding.
        no_grad = torch.zeros_like(bias)
        return grad_x, None, grad_weight.to(bias.dtype), no_grad, grad_scale, grad_shift


def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = _aten.convolution(x, weight, bias, *_UNPADDED)
    return result


def _windows(x: Tensor) -> list[Tensor]:
    """The four members of each 2x2 window, as views (batch, channels, height // 2, width // 2)."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    return [x[:, :, top:height:2, left:width:2] for top in (0, 1) for left in (0, 1)]


class _Pooled:
    """The maximum of each window, after ReLU.

    Attributes:
        result: of the windows' dtype.
        saved: what `_pool_relu_backward` needs of it.
    """

    def __init__(self, windows: Sequence[Tensor]) -> None:
        a, b, c, d = (member.view(_BITS[member.dtype]) for member in windows)
        top, bottom = torch.maximum(a, b), torch.maximum(c, d)
        pooled = torch.maximum(top, bottom).clamp_min_(0)
        self.saved = (pooled, top, bottom)
        self.result = pooled.view(windows[0].dtype)


def _pool_relu_backward(
    windows: Sequence[Tensor], saved: Sequence[Tensor], grad: Tensor, *, out: Sequence[Tensor]
) -> None:
    """Write the gradient of the members of each window into `out`, which may be the windows."""
    bits = _BITS[grad.dtype]
    a, b, c, d = (member.view(bits) for member in windows)
    grad_a, grad_b, grad_c, grad_d = (member.view(bits) for member in out)
    pooled, top, bottom = saved
    grad = grad.contiguous(memory_format=torch.channels_last).view(bits)
    # Comparisons write 0 or 1 as integers: ATen's to bool are slow, and masks multiply anyway.
    won = torch.empty_like(pooled)
    grad_bottom = torch.gt(pooled, 0, out=torch.empty_like(pooled)).mul_(grad)
    grad_top = torch.ge(top, bottom, out=torch.empty_like(pooled)).mul_(grad_bottom)
    grad_bottom.sub_(grad_top)
    torch.mul(torch.ge(a, b, out=won), grad_top, out=grad_a)
    torch.sub(grad_top, grad_a, out=grad_b)
    torch.mul(torch.ge(c, d, out=won), grad_bottom, out=grad_c)
    torch.sub(grad_bottom, grad_c, out=grad_d)
