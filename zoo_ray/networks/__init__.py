"""The networks that members are made of: a trunk by name, and a head for each task.

Importing this package is cheap; building a network imports torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo_ray.networks.heads import MultiHead

IMAGE_SIZES = {"small_conv": (28, 84)}
"""Networks by name, with the least and the most height and width of their images, in pixels."""


def check_image_shape(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless a network takes images of this height, width and channels."""
    least, most = IMAGE_SIZES[name]
    height, width, _ = image_shape
    if not least <= min(height, width) <= max(height, width) <= most:
        raise ValueError(f"takes images of {least} to {most} pixels, not of {height} x {width}")


def build_network(
    name: str, *, image_shape: tuple[int, int, int], classes: Sequence[int]
) -> "MultiHead":
    """A network with freshly drawn weights (from torch's global generator).

    Args:
        name: of the trunk, a key of `IMAGE_SIZES`.
        image_shape: height, width and channels of the images.
        classes: number of classes of each task.

    Raises:
        ValueError: the network does not take such images.
    """
    from zoo_ray.networks.heads import MultiHead
    from zoo_ray.networks.small_conv import SmallConv

    check_image_shape(name, image_shape)
    trunk = SmallConv(image_shape)
    return MultiHead(trunk=trunk, features=trunk.features, classes=classes)
