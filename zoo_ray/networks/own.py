"""A trunk of the user's own: a class of theirs, by its dotted name.

The class is a `torch.nn.Module`, called as `Class(image_shape=(height, width, channels),
**arguments)`. Its `forward` takes images, (batch, channels, height, width), normalised,
channels-last in memory, float32 (or bfloat16 under autocast, by the recipe's precision); and gives
float feature vectors, (batch, features), of a length that a trial batch tells. So that fits are
deterministic and can be resumed, weights, and whatever is drawn in training, come from torch's
global generators, and all that training changes is in the `state_dict`.
"""

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class UnusableTrunk(ValueError):
    """A user's trunk is not as it must be; the message says in which way, in one line."""


def trunk_key(name: str, arguments: Mapping[str, Any]) -> str:
    """What decides a trunk besides its name: canonical JSON of its arguments and its source.

    Args:
        name: as `package.module.ClassName`.
        arguments: plain values.

    Returns:
        `{"arguments": ..., "source": SHA-256 of the file that defines the class}`. Other files that
        it imports do not count.

    Raises:
        UnusableTrunk: there is no such class.
    """
    _, source = _find(name)
    key = {"arguments": dict(arguments), "source": source}
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


def build_trunk(name: str, *, key: str, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """A trunk with freshly drawn weights, and the length of its feature vectors.

    Args:
        name: as `package.module.ClassName`.
        key: of `trunk_key`.
        image_shape: height, width and channels of the images.

    Raises:
        UnusableTrunk: it is not the trunk of the key, or not as it must be (see the module).
    """
    wanted = json.loads(key)
    found, source = _find(name)
    if source != wanted["source"]:
        raise UnusableTrunk(
            f"the file of {name} is not the one that the run was begun with; give every machine "
            "the same, and begin again after a change"
        )
    with _their_errors(f"{name}(image_shape={image_shape}, ...)"):
        trunk = found(image_shape=image_shape, **wanted["arguments"])
        trunk.eval()
        features = {_features(trunk, image_shape, batch=batch) for batch in (3, 1, 5)}
        trunk.train()
    if len(features) > 1:
        raise UnusableTrunk(f"{name} gives feature vectors whose length depends on the batch")
    return trunk, features.pop()


@cache
def check_trunk(name: str, *, key: str, image_shape: tuple[int, int, int]) -> None:
    """Raise UnusableTrunk unless a trunk is as it must be (arguments as of `build_trunk`)."""
    states = []
    for _ in range(2):
        with _seeded():
            trunk, _ = build_trunk(name, key=key, image_shape=image_shape)
        with _their_errors(name):
            states.append(trunk.to(memory_format=torch.channels_last).state_dict())
    first, second = states
    for entry, value in first.items():
        what = f"{entry} in the state_dict of {name}"
        if not isinstance(value, Tensor):
            raise UnusableTrunk(f"{what} is no tensor, but {_type(value)}")
        with _their_errors(what):
            value.numpy()
        if not torch.isfinite(value).all():
            raise UnusableTrunk(
                f"{what} is not finite; register such a buffer with persistent=False"
            )
        if entry not in second or not torch.equal(value, second[entry]):
            raise UnusableTrunk(
                f"{what} is not decided by torch.manual_seed; draw all weights from torch's global "
                "generator"
            )


def _find(name: str) -> tuple[type[nn.Module], str]:
    """The class of a name, and the SHA-256 of its file."""
    module_name, _, class_name = name.rpartition(".")
    with _their_errors(f"importing {module_name}"):
        module, source = _load(module_name)
        found = getattr(module, class_name, None)
    if found is None:
        raise UnusableTrunk(f"{module.__file__} has no {class_name}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UnusableTrunk(f"{class_name} of {module.__file__} is no subclass of torch.nn.Module")
    if found.__module__ != module_name:
        raise UnusableTrunk(
            f"{class_name} is defined elsewhere; give {found.__module__}.{found.__qualname__}"
        )
    return found, source


@cache
def _load(name: str) -> tuple[ModuleType, str]:
    """A module and the SHA-256 of its file, as it was when this process first wanted it: what is
    loaded is not loaded again."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # its package is there, and asks for another
        found = None
    if found is None or found.origin is None or not found.has_location:
        raise UnusableTrunk(
            f"there is no module {name} in the working directory or elsewhere on Python's path"
        )
    source = hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
    with _seeded():  # what it draws shifts no weights, of the first network that needs it
        return importlib.import_module(name), source


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
        raise UnusableTrunk(
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


@contextmanager
def _their_errors(what: str) -> Iterator[None]:
    """Whatever goes wrong in a user's code, as UnusableTrunk."""
    try:
        yield
    except UnusableTrunk:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnusableTrunk(f"{what}: {said}") from error
