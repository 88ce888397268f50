"""The networks that members are made of: a trunk by name, and a head for each task.

Importing this package is cheap; building a network imports torch.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo_ray.own_code import is_own

if TYPE_CHECKING:
    from zoo_ray.networks.heads import MultiHead

_SMALL_CONV = (28, 84)
_WIDE_RESNET = (8, 1024)


def check_image_shape(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless a network of ours takes images of this height, width and channels."""
    least, most = _SMALL_CONV if name == "small_conv" else _WIDE_RESNET
    height, width, _ = image_shape
    if not least <= min(height, width) <= max(height, width) <= most:
        raise ValueError(f"takes images of {least} to {most} pixels, not of {height} x {width}")


def parse_wide_resnet(name: str) -> tuple[int, int]:
    """Depth and width of a wide residual network by its name, as `wrn16_4`.

    Raises:
        ValueError: it is no such name.
    """
    found = re.fullmatch(r"wrn([1-9][0-9]{0,2})_([1-9][0-9]?)", name)
    if found is None:
        raise ValueError(
            "no such network; allowed are small_conv, wrn16_4 (any wrnDEPTH_WIDTH) and a class of "
            "your own, as package.module.ClassName"
        )
    depth, width = int(found[1]), int(found[2])
    if not 10 <= depth <= 100 or (depth - 4) % 6 or width > 20:
        raise ValueError(
            "a wide residual network has a depth of 10, 16, 22 ... 100 and a width of 1 to 20"
        )
    return depth, width


def build_network(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    classes: Sequence[int],
    dropout: float = 0.0,
    trunk_key: str = "",
) -> "MultiHead":
    """A network with freshly drawn weights (from torch's global generator).

    Args:
        name: of the trunk: `small_conv`, as `parse_wide_resnet` takes it, or of a user's own.
        image_shape: height, width and channels of the images.
        classes: number of classes of each task.
        dropout: of a wide residual network; others have none.
        trunk_key: of a user's own trunk (see `zoo_ray.networks.own.trunk_key`).

    Raises:
        ValueError: there is no such network, or it does not take such images.
    """
    from zoo_ray.networks.heads import MultiHead
    from zoo_ray.networks.own import build_trunk
    from zoo_ray.networks.small_conv import SmallConv
    from zoo_ray.networks.wide_resnet import WideResNet

    if is_own(name):
        own, features = build_trunk(name, key=trunk_key, image_shape=image_shape)
        return MultiHead(trunk=own, features=features, classes=classes)
    check_image_shape(name, image_shape)
    trunk: SmallConv | WideResNet
    if name == "small_conv":
        trunk = SmallConv(image_shape)
    else:
        depth, width = parse_wide_resnet(name)
        trunk = WideResNet(image_shape[2], depth=depth, width=width, dropout=dropout)
    return MultiHead(trunk=trunk, features=trunk.features, classes=classes)
