"""The kernels for GPUs, in Triton's interpreter, against torch's own operators."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from zoo_ray.networks import on_gpu
from zoo_ray.networks.small_conv import SmallConv
from zoo_ray.networks.wide_resnet import WideResNet

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
triton_norm = pytest.importorskip("zoo_ray.networks.triton_norm")

# Several tiles and parts of a sum, odd sizes, and channels that are no power of two.
SHAPES = [((3, 80, 7, 6), True), ((2, 16, 5, 5), False), ((2, 48, 9, 8), True)]


def random(shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def close(found, expected, dtype=torch.float32):
    """Within a rounding of the dtype."""
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    return error < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "pool"), SHAPES)
def test_norm_pool_and_relu_are_those_of_torch(monkeypatch, shape, pool, dtype):
    monkeypatch.setattr(triton_norm, "_PARTS", 2)
    x, bias = random(shape, dtype).requires_grad_(), torch.randn(shape[1], requires_grad=True)
    ours, usual = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, -1, 1)
    usual.load_state_dict(ours.state_dict())
    found = triton_norm.norm_relu(x, ours, pool=pool, bias=bias)
    expected = usual(x.float() + bias.detach()[:, None, None])
    expected = (max_pool2d(expected, 2) if pool else expected).relu()
    assert found.dtype == dtype
    assert close(found, expected, dtype)
    for buffer, other in zip(ours.buffers(), usual.buffers(), strict=True):
        assert close(buffer, other)
    grad = random(found.shape, dtype)
    gradients = torch.autograd.grad(found, [x, *ours.parameters(), bias], grad)
    theirs = torch.autograd.grad(expected, [x, *usual.parameters()], grad.float())
    for gradient, other in zip(gradients[:3], theirs, strict=True):
        assert close(gradient, other, dtype)
    assert not gradients[3].any()


def test_pooling_gives_the_bits_of_torch_ties_and_nan_included():
    x = random((2, 16, 7, 6)).round()
    x[0, :, 0, 0] = torch.nan
    x.requires_grad_()
    found, expected = triton_norm.pool_relu(x), max_pool2d(x, 2).relu()
    assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    grad = random(found.shape)
    grad[:, :, 0, 0] = 0
    ours, theirs = (torch.autograd.grad(y, x, grad)[0] for y in (found, expected))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("network", "size"), [("small_conv", 28), ("wide_resnet", 8)])
def test_networks_train_the_same_with_them(monkeypatch, network, size):
    """Where they predict, torch's operators do it."""
    monkeypatch.setattr(triton_norm, "_ROWS", 512)  # fewer tiles are faster, interpreted
    asked = []

    def kernels(_):
        asked.append(True)
        return triton_norm

    if network == "small_conv":
        trunk = SmallConv((size, size, 1))
    else:
        trunk = WideResNet(1, depth=10, width=1, dropout=0)
    trunk.to(memory_format=torch.channels_last).train()
    images = random((2, 1, size, size))
    before = copy.deepcopy(trunk.state_dict())
    found = []
    for ours in (False, True):
        trunk.load_state_dict(before)
        if ours:
            monkeypatch.setattr(on_gpu, "kernels", kernels)
        features = trunk(images)
        gradients = torch.autograd.grad(
            features.square().sum(), list(trunk.parameters()), allow_unused=True
        )
        names = [name for name, _ in trunk.named_parameters()]
        found.append({"features": features} | dict(zip(names, gradients, strict=True)))
    assert asked
    usual, with_them = found
    for name, value in usual.items():
        if name in ("conv2.bias", "conv3.bias"):  # before a norm: 0 but for rounding
            assert not with_them[name].any()
        else:
            assert (with_them[name] - value).norm() < 1e-4 * value.norm()
    asked.clear()
    trunk.eval()
    trunk(images)
    assert not asked
