import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from zoo_ray.benchmarks import load_stream
from zoo_ray.benchmarks.images import fit
from zoo_ray.config import BenchmarkConfig, validate
from zoo_ray.errors import UserError


def images(height: int, width: int, *, channels: int, count: int = 3) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_the_size_stay_as_they_are(channels: int) -> None:
    given = images(9, 7, channels=channels)
    assert fit(given, size=(9, 7)) is given
    assert fit(given[:0], size=(5, 7)).shape == (0, 5, 7, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(64, 64), (64, 100), (100, 64), (16, 24)])
def test_scaled_to_cover_and_cut_at_the_centre(shape: tuple[int, int], channels: int) -> None:
    """As torchvision's Resize and CenterCrop, where both scale by the same number."""
    given = images(*shape, channels=channels)
    theirs = functional.center_crop(
        functional.resize(torch.from_numpy(given).permute(0, 3, 1, 2), [32], antialias=True), [32]
    )
    ours = fit(given, size=(32, 32)).astype(int)
    assert ours.shape == (3, 32, 32, channels)
    assert np.abs(ours - theirs.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_height_comes_before_width() -> None:
    given = images(40, 40, channels=3)
    given[:, :10], given[:, 30:] = 0, 0  # what is cut off above and below
    assert fit(given, size=(10, 20)).min() > 0
    assert fit(given, size=(20, 10)).min() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2, 3)])
@pytest.mark.parametrize("size", [(8, 8), (8, 1024), (1024, 8)])
def test_thin_and_tiny_images(shape: tuple[int, int], size: tuple[int, int]) -> None:
    flat = np.full((1, *shape, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(fit(flat, size=size), np.full((1, *size, 3), 77))


def test_more_than_memory_holds_is_one_line() -> None:
    endless = np.broadcast_to(np.uint8(0), (10**12, 1, 1, 1))
    with pytest.raises(UserError, match="1000000000000 images of 900x800 pixels do not fit in mem"):
        fit(endless, size=(800, 900))


def test_every_image_keeps_its_place() -> None:
    given = np.arange(1000).astype(np.uint8)[:, None, None, None].repeat(12, 1).repeat(9, 2)
    np.testing.assert_array_equal(fit(given, size=(8, 8))[:, 3, 3], given[:, 3, 3])


def test_every_data_set_can_be_scaled() -> None:
    (task,) = load_stream(
        BenchmarkConfig(dataset="digits", tasks=[[3, 7]], image_size=28, validation=0.1)
    )
    (plain,) = load_stream(BenchmarkConfig(dataset="digits", tasks=[[3, 7]], validation=0.1))
    for (_, part), (_, before) in zip(task.parts(), plain.parts(), strict=True):
        np.testing.assert_array_equal(part.images, fit(before.images, size=(28, 28)))
        np.testing.assert_array_equal(part.labels, before.labels)
    # The same with every version of Pillow.
    assert task.digest == "008dc2c84070cd904bdb1ae3554fda97906664b7cf9052fdab0b63b18d801612"


@pytest.mark.parametrize(("given", "read"), [(32, (32, 32)), ([8, 1024], (8, 1024)), (None, None)])
def test_a_size_is_one_number_or_two(given, read) -> None:
    raw = {"dataset": "digits", "tasks": [[0]], "image_size": given}
    config = validate(BenchmarkConfig, raw, source="x")
    assert config.image_size == read
    assert BenchmarkConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    "size", [7, 1025, True, 32.0, "32", [32], [32, 32, 3], [32, True], [32, 2000], {}, [[32, 32]]]
)
def test_another_size_is_refused(size) -> None:
    with pytest.raises(UserError, match=r"image_size = .*: allowed is one number, or \[height, wi"):
        validate(
            BenchmarkConfig,
            {"dataset": "digits", "tasks": [[0]], "image_size": size},
            source="x",
        )
