"""What decides the bits of a member, and the digest that names it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo_ray.task import Labels

FIT_VERSION = 3
"""Raised whenever our code changes the bits of a fit: members of other versions are not used."""

Rows = npt.NDArray[np.intp]
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Recipe:
    """How a member is fitted, resolved: nothing in it is left to be decided.

    Attributes:
        network: name of the trunk (see `zoo_ray.networks`).
        epochs: passes over the member's training samples.
        batch: samples of one step; the last batch of an epoch may be smaller.
        lr: learning rate of the first step.
        l2: L2 penalty on all parameters.
        crop: random crops with zero padding 4.
        flip: random horizontal flips.
        precision: of the trunk's arithmetic; parameters, heads and losses are float32 always.
        threads: torch threads (other numbers of threads give other bits).
        dropout: share of a wide residual network's activations that are set to 0 in training.
        trunk: of a user's own network, its source and arguments
            (`zoo_ray.networks.own.trunk_key`).
        schedule: of the learning rate: a cosine takes it to 0, step by step; or it stays.
        average_flips: every prediction is the mean of those on the image and its mirror image.
    """

    network: str
    epochs: int
    batch: int
    lr: float
    l2: float
    crop: bool
    flip: bool
    precision: Precision
    threads: int
    dropout: float = 0.0
    trunk: str = ""
    schedule: Schedule = "cosine"
    average_flips: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values. What was added later is left out at its default: members keep their
        digests."""
        return {
            key: value
            for key, value in vars(self).items()
            if key not in RECIPE_DEFAULTS or value != RECIPE_DEFAULTS[key]
        }


RECIPE_DEFAULTS = {
    field.name: field.default for field in fields(Recipe) if field.default != MISSING
}
"""Of the keys of a recipe that were added later."""


@dataclass(frozen=True)
class TaskShare:
    """A task as one member sees it.

    Attributes:
        digest: the task's content digest.
        samples_per_class: for each class, the first so many training samples; None: all of them.
        repeats: how often each of these samples occurs in an epoch.
    """

    digest: str
    samples_per_class: tuple[int, ...] | None = None
    repeats: int = 1

    def rows(self, labels: Labels) -> Rows:
        """The training samples that an epoch sees, in stored order, then again for each repeat.

        Args:
            labels: of the task's training part.
        """
        rows = np.arange(len(labels))
        if self.samples_per_class is not None:
            kept = [
                np.flatnonzero(labels == label)[:count]
                for label, count in enumerate(self.samples_per_class)
            ]
            rows = np.sort(np.concatenate(kept))
        return np.tile(rows, self.repeats)

    def samples(self, labels: Labels) -> int:
        """How many `rows` there are."""
        if self.samples_per_class is None:
            return len(labels) * self.repeats
        return sum(self.samples_per_class) * self.repeats


@dataclass(frozen=True)
class MemberSpec:
    """All that decides a member, and nothing else: no run, mode, worker or position in a stream.

    Attributes:
        tasks: in stream order; the member's heads are in this order.
        recipe: how it is fitted.
        seed: of its initial weights, the order of samples and their augmentation.
        fit_version: of the code that fits it.
    """

    tasks: tuple[TaskShare, ...]
    recipe: Recipe
    seed: int
    fit_version: int = FIT_VERSION

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the spec's canonical JSON: the member's name in the store."""
        return digest_of(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` is its inverse."""
        return {
            "tasks": [dict(vars(share)) for share in self.tasks],  # asdict copies deeply
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "fit_version": self.fit_version,
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> "MemberSpec":
        """The spec that `to_dict` wrote.

        Raises:
            TypeError: a newer zoo_ray did, whose recipes have keys that are not known here.
        """
        return MemberSpec(
            tasks=tuple(_share(share) for share in raw["tasks"]),
            recipe=Recipe(**raw["recipe"]),
            seed=raw["seed"],
            fit_version=raw["fit_version"],
        )


def digest_of(raw: Mapping[str, Any]) -> str:
    """The digest of the spec whose `to_dict` gave this, be it of a newer zoo_ray."""
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _share(raw: Mapping[str, Any]) -> TaskShare:
    counts = raw["samples_per_class"]
    return TaskShare(raw["digest"], None if counts is None else tuple(counts), raw["repeats"])
