import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from zoo_ray.networks.fused import conv_norm_pool_relu, conv_pool_relu
from zoo_ray.networks.small_conv import SmallConv

SHAPES = [
    (16, 3, 32, 32),
    (5, 1, 28, 28),
    (2, 3, 84, 84),
    (3, 3, 29, 33),
    (3, 2, 31, 28),
    (1, 3, 37, 32),
]


def trunk_and_images(shape, dtype, *, seed=0):
    torch.manual_seed(seed)
    _, channels, height, width = shape
    trunk = SmallConv((height, width, channels)).to(dtype, memory_format=torch.channels_last)
    for norm in (trunk.norm2, trunk.norm3):  # scales of both signs
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    images = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return trunk, images


def fused(trunk, x):
    """What `SmallConv` does in bfloat16 on a CPU."""
    x = conv_pool_relu(x, trunk.conv1.weight)
    x = conv_norm_pool_relu(x, trunk.conv2, trunk.norm2)
    x = conv_norm_pool_relu(x, trunk.conv3, trunk.norm3)
    return x.flatten(1)


def plain(trunk, x):
    x = max_pool2d(trunk.conv1(x).relu(), 2)
    x = max_pool2d(trunk.norm2(trunk.conv2(x)).relu(), 2)
    x = max_pool2d(trunk.norm3(trunk.conv3(x)).relu(), 2)
    return x.flatten(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_modules_step(shape):
    trunk, images = trunk_and_images(shape, torch.float64)
    expected = copy.deepcopy(trunk)
    outputs = fused(trunk, images), plain(expected, images)
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    gradient = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(gradient)
    parameters = zip(trunk.named_parameters(), expected.parameters(), strict=True)
    for (name, parameter), other in parameters:
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-10, atol=1e-10, msg=name)
        assert parameter.grad.stride() == parameter.stride()  # else each step would copy it
    torch.testing.assert_close(trunk.state_dict(), expected.state_dict(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_is_the_modules(shape, dtype, tolerance):
    trunk, images = trunk_and_images(shape, dtype)
    fused(trunk, images + 1)  # running statistics other than 0 and 1
    trunk.eval()
    with torch.no_grad():
        output, expected = fused(trunk, images), plain(trunk, images)
        torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_is_about_what_autocast_gives(training):
    trunk, images = trunk_and_images((16, 3, 32, 32), torch.float32)
    trunk.train(training)
    expected = copy.deepcopy(trunk)
    output = trunk(images.bfloat16())
    assert output.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        other = plain(expected, images)
    assert (output - other).norm() < 0.01 * other.norm()
    if training:
        gradient = torch.randn_like(output)
        output.backward(gradient)
        other.backward(gradient)
        for parameter, twin in zip(trunk.parameters(), expected.parameters(), strict=True):
            assert parameter.grad.dtype == torch.float32
            if parameter is not trunk.conv2.bias and parameter is not trunk.conv3.bias:
                assert (parameter.grad - twin.grad).norm() < 0.1 * twin.grad.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ties_go_to_the_first_of_a_window(dtype):
    """With few values to take there are ties in most windows."""
    torch.manual_seed(0)
    images = torch.randint(-1, 2, (4, 3, 32, 32)).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    # Small whole numbers: no product is rounded, in any order.
    weight = torch.randint(-1, 2, (8, 3, 3, 3)).float()
    weights = [weight.clone().requires_grad_() for _ in range(2)]
    outputs = [
        conv_pool_relu(images, weights[0]),
        max_pool2d(torch.conv2d(images.float(), weights[1]), 2).relu(),
    ]
    assert torch.equal(outputs[0].float(), outputs[1])
    gradient = torch.randint(0, 2, outputs[0].shape).float() / 16
    for output in outputs:
        output.backward(gradient.to(output.dtype))
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6  # the sum alone is rounded
    torch.testing.assert_close(weights[0].grad, weights[1].grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_reaches_the_statistics_and_the_weights(dtype, sign):
    conv, norm = nn.Conv2d(80, 80, 3), nn.BatchNorm2d(80)
    x = torch.rand(2, 80, 15, 15).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = torch.copysign(torch.tensor(torch.nan), torch.tensor(float(sign)))
    conv_norm_pool_relu(x, conv, norm).float().sum().backward()
    assert not torch.isfinite(norm.running_mean).any()
    assert not torch.isfinite(conv.weight.grad).any()


def test_small_conv_takes_the_blocks_in_bfloat16_and_the_modules_in_float32():
    trunk, images = trunk_and_images((4, 3, 32, 32), torch.float32)
    for module_or_blocks, x in ((plain, images), (fused, images.bfloat16())):
        assert torch.equal(trunk(x), module_or_blocks(trunk, x))
