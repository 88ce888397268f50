import pytest
import torch

from zoo_ray.networks import build_network, check_image_shape


def build(*, size=28, channels=1, classes=(2, 3, 1)):
    return build_network("small_conv", image_shape=(size, size, channels), classes=classes)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_small_conv_has_the_papers_number_of_parameters():
    assert parameters(build(size=32, channels=3, classes=[5] * 5)) == 125_865


def test_a_head_costs_a_row_and_a_bias_per_class():
    assert parameters(build(classes=[2, 3])) - parameters(build(classes=[2])) == 3 * 81


@pytest.mark.parametrize(("size", "side"), [(28, 1), (32, 2), (37, 2), (38, 3), (64, 6), (84, 8)])
def test_feature_length_is_that_of_three_convolutions_and_pools(size, side):
    network = build(size=size)
    with torch.no_grad():
        assert network.trunk(torch.zeros(2, 1, size, size)).shape == (2, 80 * side * side)
    assert network.heads.in_features == 80 * side * side


@pytest.mark.parametrize("size", range(28, 85, 7))
def test_every_size_from_28_to_84_works(size):
    with torch.no_grad():
        features = build(size=size).trunk(torch.zeros(1, 1, size, size))
    assert features.shape[1] == build(size=size).trunk.features


def test_oblong_images_work():
    network = build_network("small_conv", image_shape=(28, 84, 3), classes=[2])
    with torch.no_grad():
        assert network.trunk(torch.zeros(1, 3, 28, 84)).shape == (1, 80 * 1 * 8)


@pytest.mark.parametrize(
    "shape", [(27, 28, 1), (28, 27, 1), (85, 84, 3), (28, 85, 3), (8, 8, 1), (0, 0, 1)]
)
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"28 to 84 pixels, not of {shape[0]} x {shape[1]}"):
        check_image_shape("small_conv", shape)
    with pytest.raises(ValueError, match="28 to 84 pixels"):
        build_network("small_conv", image_shape=shape, classes=[2])


def test_each_sample_sees_its_own_head_alone():
    network = build(classes=(2, 3, 1))
    features = torch.randn(4, 80)
    logits = network.logits(features, heads=torch.tensor([1, 0, 2, 1]))
    is_open = torch.isfinite(logits).int().tolist()
    assert is_open == [[0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], is_open[0]]
    assert (logits[~torch.isfinite(logits)] == -torch.inf).all()


def test_a_head_alone_gives_the_logits_of_its_rows():
    network = build(classes=(2, 3, 1))
    features = torch.randn(4, 80)
    for head, classes in enumerate((2, 3, 1)):
        alone = network.head_logits(features, head=head)
        together = network.logits(features, heads=torch.full((4,), head))
        assert alone.shape == (4, classes)
        torch.testing.assert_close(alone, together[:, network.rows[head]])


def test_closed_heads_get_no_gradient():
    network = build(classes=(2, 3, 1))
    logits = network.logits(torch.randn(5, 80), heads=torch.ones(5, dtype=torch.int64))
    torch.nn.functional.cross_entropy(logits, torch.tensor([2, 3, 4, 2, 3])).backward()
    touched = network.heads.weight.grad.abs().sum(dim=1) > 0
    assert touched.tolist() == [False, False, True, True, True, False]


def test_heads_compute_in_float32_whatever_the_trunk_gives():
    network = build()
    features = torch.randn(2, 80).bfloat16()
    assert network.head_logits(features, head=0).dtype == torch.float32
    assert network.logits(features, heads=torch.tensor([0, 1])).dtype == torch.float32


def test_the_mask_is_not_stored_with_the_weights():
    assert "closed" not in build().state_dict()


def test_initial_weights_come_from_the_global_generator():
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build().state_dict()["trunk.conv1.weight"])
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])
