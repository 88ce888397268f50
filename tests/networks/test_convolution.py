"""Weights' gradients in parts, against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from zoo_ray.networks import build_network, convolution
from zoo_ray.networks.convolution import Conv2d, weight_gradient

# Channels of input and output, kernel, stride, padding: the networks' kinds of convolutions, rows
# that want aligning among them.
KINDS = [(3, 8, 3, 1, 0), (16, 16, 3, 1, 1), (5, 12, 3, 2, 1), (16, 8, 1, 2, 0), (1, 8, 3, 1, 1)]


@pytest.fixture
def in_parts(monkeypatch):
    monkeypatch.setattr(convolution, "has_parts", lambda _: True)


def random(*shape, dtype=torch.float32):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def gradients(inputs, outputs, kernel, stride, padding, *, batch=4, dtype=torch.float32):
    """In parts, and torch's, of the same numbers in float32."""
    x = random(batch, inputs, 7, 9, dtype=dtype)
    weight = random(outputs, inputs, kernel, kernel, dtype=dtype)
    wide = weight.float().requires_grad_()
    result = conv2d(x.float(), wide, stride=stride, padding=padding)
    grad = random(*result.shape, dtype=dtype)
    ours = weight_gradient(x, grad, weight, stride=stride, padding=padding)
    assert ours.dtype == dtype
    return ours.float(), torch.autograd.grad(result, wide, grad.float())[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 16, 23, 24])  # of one part, 16, 1 and 12
def test_gradients_are_those_of_torch(kind, batch):
    ours, theirs = gradients(*kind, batch=batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_sums_in_bfloat16_are_rounded_once():
    ours, exact = gradients(3, 8, 3, 1, 0, batch=16, dtype=torch.bfloat16)
    assert torch.equal(ours, exact.bfloat16().float())


def test_a_slice_of_a_larger_tensor_will_do():
    images = random(6, 3, 8, 8)
    weight, grad = random(8, 3, 3, 3), random(2, 8, 6, 6)
    found = weight_gradient(images[2:4], grad, weight, stride=1, padding=0)
    copied = weight_gradient(images[2:4].clone(), grad, weight, stride=1, padding=0)
    assert torch.equal(found, copied)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("bias", [True, False])
def test_a_module_trains_as_torchs_does(bias):
    ours = Conv2d(5, 12, 3, stride=2, padding=1, bias=bias).to(memory_format=torch.channels_last)
    usual = nn.Conv2d(5, 12, 3, stride=2, padding=1, bias=bias)
    usual.load_state_dict(ours.state_dict())
    x = random(4, 5, 8, 8).requires_grad_()
    results = [conv(x) for conv in (ours, usual)]
    grad = random(*results[0].shape)
    found, expected = (
        torch.autograd.grad(result, [x, *conv.parameters()], grad)
        for result, conv in zip(results, (ours, usual), strict=True)
    )
    torch.testing.assert_close(results[0], results[1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert found[1].stride() == ours.weight.stride()  # the update needs no copy


def test_where_products_of_batches_do_not_work_torch_does_without(monkeypatch, caplog):
    assert convolution.works.__wrapped__(torch.device("cpu"))

    def refuse(*_, **__):
        raise RuntimeError("no such product\nand more")

    monkeypatch.setattr("zoo_ray.networks.convolution.weight_gradient", refuse)
    assert not convolution.works.__wrapped__(torch.device("cpu"))
    assert "(no such product)" in caplog.text


@pytest.mark.parametrize("network", ["small_conv", "wrn10_1"])
def test_networks_have_no_other_convolutions_and_predict_without(monkeypatch, network):
    asked = []
    monkeypatch.setattr(convolution, "has_parts", lambda x: asked.append(x) or True)
    net = build_network(network, image_shape=(28, 28, 1), classes=[2])
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    net.train().trunk(random(2, 1, 28, 28))
    assert len(asked) == len(convolutions)
    net.eval().trunk(random(2, 1, 28, 28))
    assert len(asked) == len(convolutions)
