"""A recorded zoo: what a replay needs of it, and nothing that would have to be fitted again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zoo_ray.members.spec import Recipe
from zoo_ray.rules import Rules
from zoo_ray.task import Predictions, TaskLabels
from zoo_ray.zoo.growth import Growth, Wanted


@dataclass(frozen=True)
class RecordedMember:
    """A member's predictions on the training parts of its tasks, and what its fit took."""

    train: Sequence[np.ndarray]
    fit_s: float


@dataclass(frozen=True)
class Recording:
    """A zoo that was grown.

    Attributes:
        tasks: its stream; validation and test parts are empty.
        rules, recipe: of the zoo.
        members: by digest.
    """

    tasks: Sequence[TaskLabels]
    rules: Rules
    recipe: Recipe
    members: dict[str, RecordedMember]

    def growth(self) -> Growth:
        """The zoo, without members."""
        return Growth(tasks=self.tasks, rules=self.rules, recipe=self.recipe)

    def cost(self, wanted: Wanted) -> int:
        """What a fit costs: images times epochs."""
        images = sum(len(self.tasks[position].train) for position in wanted.tasks)
        return images * self.recipe.epochs

    def deliver(self, growth: Growth, digest: str) -> None:
        """Fold in a recorded member."""
        growth.deliver(digest, self._predictions(digest), predictions_sha256=digest)

    def spread(self) -> float:
        """Standard deviation of the tasks' losses in the end, relative to their mean."""
        growth = self.growth()
        while not growth.finished:
            self.deliver(growth, growth.wanted()[0].spec.digest)
        losses = growth.episodes[-1].losses
        return float(losses.std() / losses.mean())

    def save(self, path: Path) -> None:
        """Write the recording, as an npz file."""
        facts = {
            "rules": asdict(self.rules),
            "recipe": asdict(self.recipe),
            "tasks": [[task.name, task.classes, task.digest] for task in self.tasks],
            "fit_s": {digest: member.fit_s for digest, member in self.members.items()},
        }
        arrays = {f"labels {i}": task.train for i, task in enumerate(self.tasks)}
        for digest, member in self.members.items():
            arrays |= {f"{digest} {i}": array for i, array in enumerate(member.train)}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, facts=np.array(json.dumps(facts)), **arrays)

    @staticmethod
    def load(path: Path) -> "Recording":
        """Read what `save` wrote."""
        with np.load(path) as file:
            facts = json.loads(str(file["facts"]))
            arrays = {name: file[name] for name in file.files if name != "facts"}
        nobody = np.zeros(0, dtype=np.int64)
        tasks = [
            TaskLabels(name, tuple(classes), digest, arrays[f"labels {i}"], nobody, nobody)
            for i, (name, classes, digest) in enumerate(facts["tasks"])
        ]
        members = {
            digest: RecordedMember(_numbered(arrays, digest), fit_s)
            for digest, fit_s in facts["fit_s"].items()
        }
        return Recording(tasks, Rules(**facts["rules"]), Recipe(**facts["recipe"]), members)

    def _predictions(self, digest: str) -> list[Predictions]:
        return [
            {"train": train, "validation": train[:0], "test": train[:0]}
            for train in self.members[digest].train
        ]


def _numbered(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    names = (f"{prefix} {number}" for number in range(len(arrays)))
    return [arrays[name] for name in names if name in arrays]
