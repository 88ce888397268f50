"""The small convolutional network of the paper (Ramesh & Chaudhari 2022, appendix A)."""

import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from zoo_ray.networks import on_gpu
from zoo_ray.networks.fused import conv_norm_pool_relu, conv_pool_relu


class SmallConv(nn.Module):
    """Three 3x3 convolutions of 80 channels without padding, each pooled by 2.

    Args:
        image_shape: height, width and channels of the images.

    Input: float, (batch, channels, height, width). Output: (batch, `features`).
    """

    WIDTH = 80

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, channels = image_shape
        for _ in range(3):
            height, width = (height - 2) // 2, (width - 2) // 2
        self.features = self.WIDTH * height * width
        self.conv1 = nn.Conv2d(channels, self.WIDTH, 3, bias=False)
        self.conv2 = nn.Conv2d(self.WIDTH, self.WIDTH, 3)
        self.norm2 = nn.BatchNorm2d(self.WIDTH)
        self.conv3 = nn.Conv2d(self.WIDTH, self.WIDTH, 3)
        self.norm3 = nn.BatchNorm2d(self.WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and x.dtype == torch.bfloat16:
            # In float32 the modules are as fast, as ATen's float comparisons then are.
            x = conv_pool_relu(x, self.conv1.weight)
            x = conv_norm_pool_relu(x, self.conv2, self.norm2)
            x = conv_norm_pool_relu(x, self.conv3, self.norm3)
        else:
            # Pooling before the ReLU gives the same values and is a quarter of the work.
            x = self.conv1(x)
            gpu = on_gpu.kernels(x) if self.training else None
            x = gpu.pool_relu(x) if gpu else max_pool2d(x, 2).relu_()
            for conv, norm in ((self.conv2, self.norm2), (self.conv3, self.norm3)):
                if gpu:
                    x = gpu.norm_relu(conv2d(x, conv.weight), norm, pool=True, bias=conv.bias)
                else:
                    x = max_pool2d(norm(conv(x)), 2).relu_()
        return x.flatten(1)
