"""A run as the store holds it: what it has learned, and what it predicts."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_ray.benchmarks.names import printable
from zoo_ray.config import ZooConfig, shown, validate
from zoo_ray.counts import counted
from zoo_ray.diary import FitTime
from zoo_ray.errors import UserError
from zoo_ray.outcomes import percent
from zoo_ray.rules import Rules
from zoo_ray.store import CorruptMember, RunRecord, Store, TaskRecord, run_folder, zoo_name
from zoo_ray.store.store import CONFUSION, EPISODES, OWN_CODE, RESULTS
from zoo_ray.task import Images
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.metrics import Metrics, metrics

_MOST_NAMED = 12
_READERS = 16  # a bucket answers slowly, but many at once


@dataclass(frozen=True)
class StoredMember:
    """A member of a stored zoo: its episode, the positions of its tasks, and its digest."""

    episode: int
    tasks: tuple[int, ...]
    digest: str


class StoredRun:
    """A run, read from the store; no data set is needed, nor Ray. One that has not grown to its end
    is as far as it has grown: the run of a shorter stream.

    Attributes:
        name: of the run.
        record: what it is to be.
        grown: whether it is.
        tasks: the stream, in order, as far as it has arrived.
        rules: which members it has so far.
        members: in the order in which they are averaged.
        weights: for each member, the boosting weights that its draw saw, in stream order.
        counts: counts[e, i], members of task i after episode e, float64, shape (episodes, tasks);
            NaN where task i had not arrived.
        accuracy: A[e, i], test accuracy of task i after episode e, likewise.
        validation_accuracy: the same of the validation part; NaN where there is none.
        losses: of task i's training part after episode e, which boosting weighs, likewise.
    """

    def __init__(self, store: Store, name: str, *, grown: bool = True) -> None:
        """Read a run.

        Args:
            store: which exists.
            name: of the run.
            grown: whether it must be grown to its end; else one episode will do.

        Raises:
            UserError: there is no such run, it is not grown yet, or it cannot be read.
        """
        folder = f"{store.shown}/{run_folder(name)}"
        record = store.read_run(name)
        if record is None:
            raise UserError(
                f"store {store.shown}: no run {name!r}; run_cluster.py runs shows what there is"
            )
        episodes = store.read_table(name, EPISODES)
        results = store.read_table(name, RESULTS)
        if not episodes or not results:
            raise UserError(
                f"{folder}: the run has no episode yet; the command that began it goes on"
            )
        self.name = name
        self.record: RunRecord = record
        zoo = validate(ZooConfig, record.zoo, source=f"{folder}/run.json: zoo")
        rules = zoo.rules(tasks=len(record.tasks))
        rules = replace(rules, weights_source=record.weights_source)
        self._store = store
        try:
            # Of two tables that are being written one may be ahead.
            last = int(min(max(episodes["episode"]), max(results["episode"])))
            episodes, results = (_until(last, table) for table in (episodes, results))
            self.members = [
                StoredMember(int(episode), tuple(map(int, tasks)), str(digest))
                for episode, tasks, digest in zip(
                    episodes["episode"], episodes["tasks"], episodes["digest"], strict=True
                )
            ]
            self.weights = [[float(w) for w in row] for row in episodes["weights"]]
            self.rules: Rules = rules.so_far(min(last, rules.episodes))
            self.grown = self.rules == rules
            self.tasks: list[TaskRecord] = record.tasks[: self.rules.tasks]
            self._check_positions(results)
            self.accuracy = self._matrix(results, "test_accuracy")
            self.validation_accuracy = self._matrix(results, "validation_accuracy")
            self.losses = self._matrix(results, "loss")
            self.counts = self._matrix(results, "members")
        except (KeyError, ValueError, TypeError, IndexError):
            raise UserError(
                f"{folder}: its tables are not those of a run of {len(record.tasks)} tasks; the "
                "command that grew the run writes them anew"
            ) from None
        if grown and not self.grown:
            raise UserError(
                f"{folder}: the run is not grown to its end yet ({self.rules.episodes} of "
                f"{rules.episodes} episodes); the command that began it goes on"
            )

    def __repr__(self) -> str:
        return (
            f"run {self.name}: {counted(len(self.tasks), 'task')}, "
            f"{counted(len(self.members), 'member')}, average accuracy "
            f"{percent(self.metrics.average_accuracy)}"
        )

    def _check_positions(self, results: dict[str, list[Any]]) -> None:
        """Raise IndexError if a table names a task or an episode that the run does not have, or
        lacks a member."""
        # numpy would take -1 for the last.
        tasks = [*results["task"], *(task for member in self.members for task in member.tasks)]
        episodes = [*results["episode"], *(member.episode for member in self.members)]
        if (
            not all(0 <= task < len(self.tasks) for task in tasks)
            or not all(1 <= episode <= self.rules.episodes for episode in episodes)
            or any(len(row) > len(self.tasks) for row in self.weights)
            or len(self.members) != self.rules.members
        ):
            raise IndexError

    def _matrix(self, results: dict[str, list[Any]], key: str) -> Floats:
        matrix = np.full((max(results["episode"]), len(self.tasks)), np.nan)
        rows = np.array(results["episode"]) - 1
        matrix[rows, results["task"]] = np.array(results[key], dtype=np.float64)
        return matrix

    def records(self) -> list[dict[str, Any]]:
        """What the zoo is after each episode on each task that it has seen, a row each, as
        `pandas.DataFrame` takes them."""
        return [
            {
                "episode": int(episode) + 1,
                "task": self.tasks[task].name,
                "test_accuracy": float(self.accuracy[episode, task]),
                "loss": float(self.losses[episode, task]),
                "members": int(self.counts[episode, task]),
            }
            for episode, task in np.argwhere(~np.isnan(self.accuracy))
        ]

    @property
    def metrics(self) -> Metrics:
        """The field's metrics of the grown zoo."""
        return metrics(self.accuracy, arriving=self.rules.arriving)

    def confusion(self) -> list[npt.NDArray[np.int64]] | None:
        """For each task, how many test samples of each class (rows) the zoo takes for each
        (columns); None if the run is not grown to its end, or was before this was recorded.

        Raises:
            UserError: the table cannot be read.
        """
        table = self._store.read_table(self.name, CONFUSION)
        if table is None or not self.grown:
            return None
        if table["episode"] and max(table["episode"]) != len(self.accuracy):
            return None  # it is that of a shorter stream
        found = [np.zeros((len(t.classes),) * 2, dtype=np.int64) for t in self.tasks]
        try:
            for task, label, taken_for, samples in zip(
                *(table[key] for key in ("task", "label", "taken_for", "samples")), strict=True
            ):
                found[task][label, taken_for] = samples
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(
                f"{self._store.shown}/{run_folder(self.name)}/{CONFUSION}: not of this run; "
                "the command that grew the run writes it anew"
            ) from None
        return found

    def timeline(self) -> list[FitTime]:
        """Who fitted what and when; empty if nothing was recorded.

        Raises:
            UserError: it cannot be read.
        """
        return self._store.read_timeline(run_folder(self.name))

    def isolated(self) -> "StoredRun | None":
        """A run in the same store that is Isolated, with the same tasks, recipe, seed and members
        per episode as this one, if there is one."""
        if self.rules.mode == "isolated" or not self.rules.arriving:
            return None
        study = ".".join(self.name.split(".")[:-2])
        sibling = zoo_name(study, "isolated", self.rules.seed)  # where `compare` grew both
        if study and self._is_isolated_of_us(sibling):
            with contextlib.suppress(UserError):  # it is not grown yet
                return StoredRun(self._store, sibling)
        names = [run.name for run in self._store.named("runs")]
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(self._is_isolated_of_us, names)
            for name in (name for name, fits in zip(names, found, strict=True) if fits):
                with contextlib.suppress(UserError):
                    return StoredRun(self._store, name)
        return None

    def _is_isolated_of_us(self, name: str) -> bool:
        record = None
        with contextlib.suppress(UserError):  # whatever it is, it is not ours
            record = self._store.read_run(name)
        return (
            record is not None
            and record.zoo.get("mode") == "isolated"
            and record.recipe == self.record.recipe
            and [t.digest for t in record.tasks] == [t.digest for t in self.record.tasks]
            and all(
                record.zoo.get(key) == self.record.zoo.get(key)
                for key in ("seed", "members_per_episode")
            )
        )

    def task(self, name: str | int) -> int:
        """The position of a task, by its name or its number (from 1).

        Raises:
            UserError: there is none.
        """
        names = [task.name for task in self.tasks]
        if name in names:
            return names.index(str(name))
        number = shown(name) if isinstance(name, int) else str(name)
        # Of thousands of digits Python makes no number.
        if number.isdecimal() and len(number) < 10 and 1 <= int(number) <= len(names):
            return int(number) - 1
        some = "; ".join(f"{n}: {task}" for n, task in enumerate(names[:_MOST_NAMED], start=1))
        more = f"; and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        raise UserError(
            f"--task {printable(number)}: run {self.name} has no such task"
            f"{'' if self.grown else ' so far'}; give the number or the name of one: {some}{more}"
        )

    def predict(self, *, images: Images, task: str | int, device: str = "cpu") -> Floats:
        """Class probabilities, averaged over the members that were fitted on a task.

        Args:
            images: uint8, shape (samples, height, width, channels), as the task's images are.
            task: its name, or its number from 1.
            device: a torch device.

        Returns:
            float64, shape (samples, classes of the task), in the order of the task's classes; on
            the task's test images what the run recorded (float32 rounding apart where the batches
            or the hardware differ).

        Raises:
            UserError: there is no such task or device, the images are not as its are, or a member
                cannot be read.
        """
        position = self.task(task)
        shape = self.tasks[position].image_shape
        if not isinstance(images, np.ndarray):
            raise UserError(
                f"images: a {type(images).__name__}; give an array, uint8 of shape (samples, "
                "height, width, channels)"
            )
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UserError(
                f"images: an array of {images.dtype} and shape {images.shape}; give uint8 of shape "
                "(samples, height, width, channels)"
            )
        if shape is not None and images.shape[1:] != shape:
            raise UserError(
                f"images: of shape {images.shape[1:]}, where those of task "
                f"{self.tasks[position].name} have {shape} (height, width, channels); bring them "
                "to it"
            )
        from zoo_ray.members.predict import check_device  # imports torch, which takes seconds

        try:
            check_device(device)
        except ValueError as error:
            raise UserError(str(error)) from None
        total = np.zeros((len(images), len(self.tasks[position].classes)))
        weights = 0.0
        for member in self.members:
            if position in member.tasks:
                weight = self.rules.weight(position, member.episode)
                total += weight * self._predict(member, position, images, device)
                weights += weight
        return total / weights if weights else np.full_like(total, 1 / total.shape[1])

    def _predict(self, member: StoredMember, position: int, images: Images, device: str) -> Floats:
        from zoo_ray.members.predict import predict  # imports torch

        try:
            found = self._store.read_network(member.digest)
        except CorruptMember as error:
            raise UserError(f"{error}; verify --repair and train mend it") from None
        if found is None:
            raise UserError(
                f"store {self._store.shown}: member {member.digest[:12]} of run {self.name} is "
                "missing; the command that grew the run fits it again"
            )
        spec, weights = found
        try:
            return predict(
                spec=spec,
                weights=weights,
                classes=[len(self.tasks[task].classes) for task in member.tasks],
                head=member.tasks.index(position),
                images=images,
                device=device,
            ).astype(np.float64)
        except ValueError as error:
            code = f"{run_folder(self.name)}/{OWN_CODE}"
            kept = any(self._store.files.list(code))
            raise UserError(
                f"member {member.digest[:12]} cannot predict these: {error}"
                + (f"; {self._store.shown}/{code} has the file as it was" if kept else "")
            ) from None


def _until(episode: int, table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows of a run's table that are of an episode or earlier."""
    kept = [row for row, its in enumerate(table["episode"]) if its <= episode]
    return {key: [column[row] for row in kept] for key, column in table.items()}
