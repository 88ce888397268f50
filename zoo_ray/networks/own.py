"""A trunk of the user's own: a class of theirs, by its dotted name.

The class is a `torch.nn.Module`, called as `Class(image_shape=(height, width, channels),
**arguments)`. Its `forward` takes images, (batch, channels, height, width), normalised,
channels-last in memory, float32 (or bfloat16 under autocast, by the recipe's precision); and gives
float feature vectors, (batch, features), of a length that a trial batch tells. So that fits are
deterministic and can be resumed, weights, and whatever is drawn in training, come from torch's
global generators, and all that training changes is in the `state_dict`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from zoo_ray.own_code import OwnCode, UnusableCode, find_own, refuse_elsewhere, their_errors


def trunk_key(name: str, arguments: Mapping[str, Any]) -> str:
    """What decides a trunk besides its name: canonical JSON of its arguments and its source.

    Args:
        name: as `package.module.ClassName`.
        arguments: plain values.

    Returns:
        `{"arguments": ..., "source": SHA-256 of the file that defines the class}`. Other files that
        it imports do not count.

    Raises:
        UnusableCode: there is no such class.
    """
    key = {"arguments": dict(arguments), "source": _find(name).source}
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


def build_trunk(name: str, *, key: str, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """A trunk with freshly drawn weights, and the length of its feature vectors.

    Args:
        name: as `package.module.ClassName`.
        key: of `trunk_key`.
        image_shape: height, width and channels of the images.

    Raises:
        UnusableCode: it is not the trunk of the key, or not as it must be (see the module).
    """
    wanted = json.loads(key)
    found = _find(name, source=wanted["source"]).found
    with their_errors(f"{name}(image_shape={image_shape}, ...)"):
        trunk = found(image_shape=image_shape, **wanted["arguments"])
        trunk.eval()
        features = {_features(trunk, image_shape, batch=batch) for batch in (3, 1, 5)}
        trunk.train()
    if len(features) > 1:
        raise UnusableCode(f"{name} gives feature vectors whose length depends on the batch")
    return trunk, features.pop()


@cache
def check_trunk(name: str, *, key: str, image_shape: tuple[int, int, int]) -> None:
    """Raise UnusableCode unless a trunk is as it must be (arguments as of `build_trunk`)."""
    states = []
    for _ in range(2):
        with _seeded():
            trunk, _ = build_trunk(name, key=key, image_shape=image_shape)
        with their_errors(name):
            states.append(trunk.to(memory_format=torch.channels_last).state_dict())
    first, second = states
    for entry, value in first.items():
        what = f"{entry} in the state_dict of {name}"
        if not isinstance(value, Tensor):
            raise UnusableCode(f"{what} is no tensor, but {_type(value)}")
        with their_errors(what):
            value.numpy()
        if not torch.isfinite(value).all():
            raise UnusableCode(
                f"{what} is not finite; register such a buffer with persistent=False"
            )
        if entry not in second or not torch.equal(value, second[entry]):
            raise UnusableCode(
                f"{what} is not decided by torch.manual_seed; draw all weights from torch's global "
                "generator"
            )


def _find(name: str, *, source: str | None = None) -> OwnCode:
    """The class of a name."""
    _import(name)
    own = find_own(name, source=source)
    if not (isinstance(own.found, type) and issubclass(own.found, nn.Module)):
        last = name.rpartition(".")[2]
        raise UnusableCode(f"{last} of {own.file} is no subclass of torch.nn.Module")
    refuse_elsewhere(name, own.found)
    return own


@cache
def _import(name: str) -> None:
    with _seeded():  # what it draws shifts no weights, of the first network that needs it
        find_own(name)


def _features(trunk: nn.Module, image_shape: tuple[int, int, int], *, batch: int) -> int:
    height, width, channels = image_shape
    images = torch.zeros(batch, channels, height, width)
    with torch.no_grad():
        given = trunk(images.contiguous(memory_format=torch.channels_last))
    if (
        not isinstance(given, Tensor)
        or not given.is_floating_point()
        or given.dim() != 2
        or len(given) != batch
        or not given.shape[1]
    ):
        raise UnusableCode(
            f"{type(trunk).__name__} gives {_type(given)} for {batch} images, not a float tensor "
            f"of shape ({batch}, features)"
        )
    return given.shape[1]


def _type(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)}"


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
