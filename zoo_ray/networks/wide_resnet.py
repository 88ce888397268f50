"""Wide residual networks (Zagoruyko & Komodakis 2016): the larger network of the paper."""

import torch
from torch import nn
from torch.nn.functional import dropout

from zoo_ray.networks import on_gpu


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks, then the mean over the image.

    Args:
        channels: of the images, which may be of any size.
        depth: 6 n + 4, for n blocks in a group.
        width: times 16, 32 and 64 channels in the groups.
        dropout: share of the activations between a block's convolutions that is set to 0 in
            training.

    Input: float, (batch, channels, height, width). Output: (batch, `features`).
    """

    def __init__(self, channels: int, *, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.features = 64 * width
        self.conv = _conv3(channels, 16)
        layers = []
        inputs = 16
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for number in range(blocks):
                layers.append(
                    _Block(inputs, outputs, stride=stride if number == 0 else 1, dropout=dropout)
                )
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _norm_relu(self.blocks(self.conv(x)), self.norm)
        return x.mean(dim=(2, 3))


class _Block(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, and a way around them."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3(inputs, outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs)
        # Only where the shapes differ: the published code has one in every block, unused.
        self.around = (
            None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        )
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = _norm_relu(x, self.norm1)
        inner = _norm_relu(self.conv1(activated), self.norm2)
        if self.dropout:
            inner = dropout(inner, p=self.dropout, training=self.training)
        around = x if self.around is None else self.around(activated)
        result: torch.Tensor = self.conv2(inner) + around
        return result


def _norm_relu(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    gpu = on_gpu.kernels(x) if norm.training else None
    result: torch.Tensor = norm(x).relu_() if gpu is None else gpu.norm_relu(x, norm, pool=False)
    return result


def _conv3(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
