"""The study of task competition: what each task gains from each other, pair by pair."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo_ray.benchmarks import Source
from zoo_ray.comparison import Contender, Grown, StudyResult, Zoo, grow_all
from zoo_ray.config import RunConfig
from zoo_ray.errors import UserError
from zoo_ray.progress import SearchProgress
from zoo_ray.replay import predictions_of
from zoo_ray.run import without_nan, write_pictures
from zoo_ray.store import comparison_folder
from zoo_ray.stored_studies import COMPETING, CompetitionRecord
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.competition import Competition, competition, mean_competition


@dataclass(frozen=True, kw_only=True)
class CompetitionResult(StudyResult):
    """What the study has shown, and what it took.

    Attributes:
        tasks: names, in the order of the stream.
        mean: of the seeds' competitions.
        by_seed: each one's.
        together: together[n - 1, i], accuracy on task i of the member fitted on the first n tasks,
            mean over the seeds, shape (tasks, tasks); NaN for tasks that it was not fitted on.
    """

    tasks: Sequence[str]
    mean: Competition
    by_seed: Sequence[Competition]
    together: Floats

    def shown(self) -> dict[str, Any]:
        """What the study has shown, as plain values."""
        return {
            "tasks": list(self.tasks),
            "seeds": list(self.seeds),
            "alone": self.mean.alone.tolist(),
            "alone_by_seed": [one.alone.tolist() for one in self.by_seed],
            "gain": without_nan(self.mean.gain),
            "gain_by_seed": [without_nan(one.gain) for one in self.by_seed],
            "helped": self.mean.helped.tolist(),
            "helps": self.mean.helps.tolist(),
            "positive_share": self.mean.positive_share,
            "asymmetry": self.mean.asymmetry,
            "together": without_nan(self.together),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`: a contract that scripts rely on."""
        return {
            "competition": self.name,
            "store": self.store,
            **self.shown(),
            **self.took(),
        }


def compete(
    config: RunConfig,
    *,
    seeds: Sequence[int],
    name: str,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[SearchProgress, int], None] = lambda _progress, _asked: None,
    started: float | None = None,
) -> CompetitionResult:
    """Fit a member on each task, on each pair of tasks, and on the first 1, 2, 3 ... tasks.

    All are certain, so all are fitted at once; they are the members of two zoos, of the modes
    `pairs` and `continual` with as many tasks per member as there are, each a run in the store. The
    same command goes on where the store ends.

    Args:
        config: benchmark, recipe, workers and store.
        seeds, name, address, source, on_progress, started: as of `zoo_ray.comparison.compare`.

    Raises:
        UserError: anything outside the program is not as it must be, or a member cannot be fitted.
    """
    started = started or time.time()
    tasks = len(config.benchmark.tasks)
    if tasks < 2:
        raise UserError("benchmark.tasks: one task has none to compete with; give two at least")
    grown = grow_all(
        config,
        contenders=[_contender(config, name) for name in COMPETING],
        seeds=seeds,
        name=name,
        command="compete",
        address=address,
        source=source,
        on_progress=on_progress,
    )
    if grown.problems:
        raise UserError(next(iter(grown.problems.values())))
    pairs, crowds = ([_accuracies(zoo, grown) for zoo in zoos] for zoos in grown.zoos)
    by_seed = [competition(accuracy, tasks=tasks) for accuracy in pairs]
    together = np.full((tasks, tasks), np.nan)
    for several in range(1, tasks + 1):
        of_all = [accuracy[tuple(range(several))] for accuracy in crowds]
        together[several - 1, :several] = np.mean(of_all, axis=0)
    result = CompetitionResult(
        name=name,
        store=grown.store.address,
        seeds=seeds,
        tasks=[task.name for task in grown.plan.tasks],
        mean=mean_competition(by_seed),
        by_seed=by_seed,
        together=together,
        asked=grown.asked,
        fitted=len(grown.tally.ours),
        read=len(grown.tally.others),
        files=[],
        wall_s=0.0,
    )
    files = _write(result, grown)
    return replace(result, files=files, wall_s=time.time() - started)


def _write(result: CompetitionResult, grown: Grown) -> list[str]:
    from zoo_ray.report import study_drawings  # imports matplotlib

    runs = [zoo.run for zoos in grown.zoos for zoo in zoos]
    files = [CompetitionRecord.write(grown.store, result.name, result.shown(), runs=runs)]
    drawings = [
        study_drawings.competition_drawing(result.mean, result.by_seed, result.tasks),
        study_drawings.together_drawing(result.together, result.tasks),
    ]
    folder = comparison_folder(result.name)
    return files + write_pictures(drawings, grown.store, folder, of=result.name)


def _contender(config: RunConfig, name: str) -> Contender:
    zoo = config.zoo.in_mode("pairs" if name == "pairs" else "continual")
    if name == "together":
        keys = {"tasks_per_member": len(config.benchmark.tasks), "members_per_episode": 1}
        # Its members take all tasks: nothing is drawn.
        zoo = zoo.model_copy(update={**keys, "closing_rounds": 0, "weights": "boosting"})
    return Contender(name, config.model_copy(update={"zoo": zoo}))


def _accuracies(zoo: Zoo, grown: Grown) -> dict[tuple[int, ...], list[float]]:
    """The test accuracy of each member on each of its tasks, by the positions of its tasks."""
    found = {}
    for member in zoo.growth.members():
        stored = predictions_of(grown.store, member.digest)
        found[member.tasks] = [
            float((predicted["test"].argmax(axis=1) == grown.plan.tasks[task].test.labels).mean())
            for task, predicted in zip(member.tasks, stored.predictions, strict=True)
        ]
    return found
