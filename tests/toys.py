"""Small made-up tasks, specs and predictions, each a function of its arguments."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_ray.members.member import Member
from zoo_ray.members.spec import MemberSpec, Recipe, TaskShare
from zoo_ray.replay import Tally, replay
from zoo_ray.rules import Rules
from zoo_ray.store import RunRecord
from zoo_ray.task import PARTS, Part, Predictions, Task, TaskLabels
from zoo_ray.zoo.growth import Growth, Wanted

RECIPE = Recipe(
    network="small_conv",
    epochs=1,
    batch=8,
    lr=0.01,
    l2=1e-5,
    crop=False,
    flip=False,
    precision="float32",
    threads=1,
)

TRUNK = """
from torch import nn


class Tiny(nn.Module):
    def __init__(self, image_shape, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[2], width, 5, stride=4), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Dropout(0.3), nn.Flatten(),
        )

    def forward(self, images):
        return self.layers(images)
"""
"""The module of a user's own trunk, with statistics and dropout."""

RULE = """
import numpy as np


def easiest(losses, members):
    return np.exp(-5 * losses) / (1 + members)
"""
"""The module of a user's own rule of weights."""


def toy_part(samples: int, *, classes: int, size: int, channels: int, seed: int) -> Part:
    """Noise whose brightness tells the class; classes take turns."""
    labels = np.arange(samples) % classes
    noise = np.random.default_rng(seed).integers(0, 60, (samples, size, size, channels))
    steps = (np.arange(classes) * 180 // classes)[labels]
    return Part((noise + steps[:, None, None, None]).astype(np.uint8), labels.astype(np.int64))


def toy_task(
    name: str = "toy",
    *,
    classes: int = 2,
    train: int = 16,
    validation: int = 0,
    test: int = 6,
    size: int = 28,
    channels: int = 1,
    seed: int = 0,
) -> Task:
    def part(samples: int, number: int) -> Part:
        return toy_part(
            samples, classes=classes, size=size, channels=channels, seed=10 * seed + number
        )

    return Task(
        name=name,
        classes=tuple(f"{name} {number}" for number in range(classes)),
        train=part(train, 0),
        validation=part(validation, 1),
        test=part(test, 2),
    )


def toy_stream(length: int) -> list[TaskLabels]:
    """Tasks without images, with 2, 3, 4, 2 ... classes; every other one without validation."""
    rng = np.random.default_rng(3)
    stream = []
    for position in range(length):
        classes = 2 + position % 3
        train, validation, test = (
            rng.integers(0, classes, samples)
            for samples in (9 + position, 4 * (position % 2), 5 + position)
        )
        names = tuple(str(number) for number in range(classes))
        stream.append(
            TaskLabels(f"task {position}", names, f"{position:064x}", train, validation, test)
        )
    return stream


def toy_predictions(spec: MemberSpec, tasks: Sequence[TaskLabels]) -> list[Predictions]:
    """What a made-up fit of the spec predicts on its tasks: some members know more than others."""
    rng = np.random.default_rng(int(spec.digest[:16], 16))
    result = []
    for task in tasks:
        skill = rng.uniform(0, 2)
        parts: Predictions = {}
        for part in PARTS:
            labels = task.labels(part)
            logits = rng.normal(size=(len(labels), len(task.classes)))
            logits[np.arange(len(labels)), labels] += skill
            odds = np.exp(logits)
            parts[part] = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        result.append(parts)
    return result


def toy_rules(
    tasks: int,
    *,
    mode: str = "continual",
    tasks_per_member: int = 2,
    members_per_episode: int = 1,
    seed: int = 0,
    **others: Any,
) -> Rules:
    return Rules(tasks, mode, tasks_per_member, members_per_episode, seed, **others)


def toy_growth(rules: Rules) -> Growth:
    return Growth(tasks=toy_stream(rules.tasks), rules=rules, recipe=RECIPE)


def deliver_toy(growth: Growth, wanted: Wanted) -> None:
    """Deliver a member that is wanted, or may be, as its made-up fit gives it."""
    predictions = toy_predictions(wanted.spec, [growth.tasks[task] for task in wanted.tasks])
    growth.deliver(wanted.spec.digest, predictions, predictions_sha256=wanted.spec.digest)


def sequential(rules: Rules) -> Growth:
    """A zoo grown to its end, member by member, of made-up fits."""
    growth = toy_growth(rules)
    while not growth.finished:
        deliver_toy(growth, growth.wanted()[0])
    return growth


def toy_spec(*, classes: Sequence[int] = (2,), seed: int = 0) -> MemberSpec:
    """A spec of tasks that nobody has."""
    return MemberSpec(tuple(TaskShare(f"{number:064x}") for number in classes), RECIPE, seed)


def toy_member(
    *, classes: Sequence[int] = (2,), sizes: Sequence[int] = (5, 0, 3), seed: int = 0
) -> Member:
    """A made-up member with parts of these sizes in each task."""
    rng = np.random.default_rng(seed)
    return Member(
        weights={"a": rng.normal(size=(2, 3)).astype(np.float32), "n": np.array(7, np.int64)},
        predictions=[
            {
                part: rng.dirichlet(np.ones(number), size).astype(np.float32)
                for part, size in zip(PARTS, sizes, strict=True)
            }
            for number in classes
        ],
        epoch_losses=[0.5, 0.25],
        first_step=0,
        fit_s=1.25,
        hardware={"device": "toy", "torch": "0"},
    )


def toy_record(tasks: int = 1) -> RunRecord:
    """The record of a run on so many tasks."""
    task = {"name": "a", "classes": ["0", "1"]}
    return RunRecord.model_validate(
        {
            "config": {"store": "x"},
            "recipe": {"lr": 0.01},
            "zoo": {"seed": 0},
            "tasks": [task | {"digest": f"{number:064x}"} for number in range(tasks)],
            "versions": {"python": "3"},
        }
    )


def toy_tables(digests: Sequence[str], *, mark: str = "x") -> dict[str, dict[str, list[object]]]:
    """A run's tables, for `Store.write_results`: an episode for each member."""
    episodes = list(range(1, len(digests) + 1))
    marks = [mark] * len(digests)
    return {
        "episodes": {"episode": episodes, "digest": list(digests), "mark": marks},
        "results": {"episode": episodes, "mark": marks},
    }


def write_idx_dataset(folder: Path, *, classes: int, train: int, test: int) -> None:
    """A data set in MNIST's files, 28x28, with so many samples of each class."""
    folder.mkdir(parents=True)
    for split, per_class, seed in (("train", train, 0), ("t10k", test, 1)):
        part = toy_part(classes * per_class, classes=classes, size=28, channels=1, seed=seed)
        images, labels = part.images[..., 0], part.labels.astype(np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            file = folder / f"{split}-{kind}-idx{array.ndim}-ubyte"
            file.write_bytes(header + array.tobytes())


def replayed(growth, store) -> int:
    """Replay a store into a zoo; how many members it held."""
    tally = Tally(call="another")
    replay(growth, store, tally=tally)
    return len(tally.others)


def late(losses: np.ndarray, members: np.ndarray) -> np.ndarray:
    """A user's rule of weights that fails once three tasks are there, though not at first."""
    assert len(members) != 3 or members.sum() <= 3, "too late"
    return losses + 1
