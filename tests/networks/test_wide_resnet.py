"""Wide residual networks."""

import pytest
import torch

from zoo_ray.networks import build_network, check_image_shape, parse_wide_resnet


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_its_parameters():
    """The published one has 86,016 more, in ways around blocks that it never takes."""
    shape, classes = (32, 32, 3), [5] * 5
    assert parameters(build_network("wrn16_4", image_shape=shape, classes=classes)) == 2_752_745
    assert parameters(build_network("small_conv", image_shape=shape, classes=classes)) == 125_865


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (84, 3), (9, 1)])
def test_it_takes_images_of_any_size(size, channels):
    network = build_network("wrn10_2", image_shape=(size, size, channels), classes=[2, 3])
    features = network.trunk(torch.rand(4, channels, size, size))
    assert features.shape == (4, 128)
    features.sum().backward()
    assert all(weight.grad is not None for weight in network.trunk.parameters())


def test_dropout_is_for_training_alone():
    torch.manual_seed(0)
    network = build_network("wrn10_1", image_shape=(8, 8, 1), classes=[2], dropout=0.5)
    images = torch.rand(3, 1, 8, 8)
    network.train()
    assert not torch.equal(network.trunk(images), network.trunk(images))
    network.eval()
    assert torch.equal(network.trunk(images), network.trunk(images))


@pytest.mark.parametrize(
    "name",
    [
        "wrn16",
        "wrn15_4",
        "wrn4_1",
        "wrn16_0",
        "wrn016_4",
        "wrn106_4",
        "wrn16_21",
        "vgg",
        "WRN16_4",
        "",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"no such network; allowed are|has a depth of 10, 16"):
        parse_wide_resnet(name)


def test_tiny_images_are_refused():
    with pytest.raises(ValueError, match="takes images of 8 to 1024 pixels, not of 7 x 9"):
        check_image_shape("wrn16_4", (7, 9, 1))
