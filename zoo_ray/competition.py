"""The study of task competition: what each task gains from each other, pair by pair."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from zoo_ray.stored_studies import COMPETING, earlier_runs
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`: a contract that scripts rely on."""
        return {
            "competition": self.name,
            "store": self.store,
            **_plain(self.tasks, self.seeds, self.mean, self.by_seed, self.together),
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
    mean = mean_competition(by_seed)
    together = np.full((tasks, tasks), np.nan)
    for several in range(1, tasks + 1):
        of_all = [accuracy[tuple(range(several))] for accuracy in crowds]
        together[several - 1, :several] = np.mean(of_all, axis=0)
    names = [task.name for task in grown.plan.tasks]
    folder = comparison_folder(name)
    runs = [zoo.run for zoos in grown.zoos for zoo in zoos]
    record = {
        "format_version": 1,
        **_plain(names, seeds, mean, by_seed, together),
        "earlier_runs": earlier_runs(grown.store, name, runs),
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    from zoo_ray.report.study_drawings import (  # imports matplotlib
        competition_drawing,
        together_drawing,
    )

    files = [grown.store.write_file(folder, "competition.json", text.encode())]
    drawings = [competition_drawing(mean, by_seed, names), together_drawing(together, names)]
    files += write_pictures(drawings, grown.store, folder, of=name)
    return CompetitionResult(
        name=name,
        store=grown.store.address,
        seeds=seeds,
        tasks=names,
        mean=mean,
        by_seed=by_seed,
        together=together,
        asked=grown.asked,
        fitted=len(grown.tally.ours),
        read=len(grown.tally.others),
        files=files,
        wall_s=time.time() - started,
    )


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


def _plain(
    tasks: Sequence[str],
    seeds: Sequence[int],
    mean: Competition,
    by_seed: Sequence[Competition],
    together: Floats,
) -> dict[str, Any]:
    return {
        "tasks": list(tasks),
        "seeds": list(seeds),
        "alone": mean.alone.tolist(),
        "alone_by_seed": [one.alone.tolist() for one in by_seed],
        "gain": without_nan(mean.gain),
        "gain_by_seed": [without_nan(one.gain) for one in by_seed],
        "helped": mean.helped.tolist(),
        "helps": mean.helps.tolist(),
        "positive_share": mean.positive_share,
        "asymmetry": mean.asymmetry,
        "together": without_nan(together),
    }
