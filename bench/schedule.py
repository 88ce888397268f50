"""How much faster do more workers grow one zoo? Recorded zoos, replayed on simulated workers.

    python bench/record.py bench/streams/short.yaml recordings/short
    python bench/schedule.py recordings/short --json

The replay runs the driver's own state machine; a fit takes time in proportion to its images times
epochs, and a fit that yields goes on later where it was. A speculative fit of a member that the
recorded zoo does not have takes its time and is of no use, as it would be.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recording import Recording
from rich.console import Console
from rich.progress import track
from rich.table import Table

from zoo_ray.cluster.desk import Desk
from zoo_ray.cluster.leases import Worker
from zoo_ray.zoo.forecast import (
    Forecast,
    Predictor,
    Standing,
    mean_change,
    past_changes,
    with_prior,
)
from zoo_ray.zoo.growth import Wanted


def last_value(standings: Sequence[Standing]) -> Forecast:
    """Losses stay as they are; a new task's is the mean of the others."""
    run = past_changes(standings)
    _, gain_error = with_prior([-abs(gain) for gain in run.gains], mean=0.0, deviation=0.2)
    first = float(np.log(max(run.losses.mean(), 1e-9)))
    return Forecast.at(run.losses, gains=0.0, gain_error=gain_error, newest=(first, 0.5, 0.0))


def by_members(standings: Sequence[Standing]) -> Forecast:
    """A fit over the run: the change is linear in one over the task's number of members."""
    run = past_changes(standings)
    change = mean_change(standings)
    if len(run.gains) < 6:
        return change
    inverse = 1 / np.array(run.members)
    slope, intercept = np.polyfit(inverse, run.gains, 1)
    error = float(np.std(np.array(run.gains) - intercept - slope * inverse))
    gains = intercept + slope / np.array(standings[-1].members)
    first, first_error, _ = change.newest
    newest = (first, first_error, float(intercept + slope))
    return Forecast.at(run.losses, gains=gains, gain_error=max(error, 0.01), newest=newest)


PREDICTORS = {"mean_change": mean_change, "last_value": last_value, "by_members": by_members}


@dataclass
class Replay:
    """A recorded zoo, grown again by simulated workers.

    Attributes:
        time: when it was complete, in images times epochs of one worker.
        fitted: fits that ended.
        speculative, used: those of them that began before they were certain, and of these the ones
            that the zoo has.
    """

    time: float = 0.0
    fitted: int = 0
    speculative: int = 0
    used: int = 0


@dataclass
class _Fit:
    wanted: Wanted
    left: float
    speculative: bool
    began: float = field(default=0.0)


def replay(recording: Recording, *, workers: int, predict: Predictor = mean_change) -> Replay:
    """Grow a recorded zoo with so many workers."""
    growth = recording.growth()
    desk = Desk(growth, speculate=True, predict=predict)
    team = [Worker(rank=i, id=str(i), node="", place=str(i)) for i in range(workers)]
    for worker in team:
        desk.leases.join(worker, now=0.0)
    fits: dict[str, _Fit] = {}
    busy: dict[Worker, _Fit] = {}
    result = Replay()
    while True:
        while new := desk.to_look_up():
            for wanted in new:
                desk.missing(wanted)
        if growth.finished:
            return result
        _assign(desk, team, fits, busy, recording, now=result.time)
        worker = min(busy, key=lambda worker: busy[worker].began + busy[worker].left)
        fit = busy.pop(worker)
        result.time = fit.began + fit.left
        digest = fit.wanted.spec.digest
        result.fitted += 1
        result.speculative += fit.speculative
        result.used += fit.speculative and digest in recording.members
        desk.published(digest)
        if digest in recording.members:
            recording.deliver(growth, digest)
        else:
            desk.leases.avoid(digest)


def _assign(desk, team, fits, busy, recording, *, now: float) -> None:
    """Have workers report and ask, until nothing changes."""
    settled = False
    while not settled:
        settled = True
        for worker in team:
            fit = busy.get(worker)
            if fit is not None and desk.answer(worker, fit.wanted.spec.digest) != "go on":
                fit.left -= now - fit.began
                del busy[worker]
                desk.give_back(worker, fit.wanted.spec.digest)
                settled = False
            if worker not in busy and (wanted := desk.leases.take(worker, now=now)):
                digest = wanted.spec.digest
                certain = desk.wants(digest)
                fit = fits.setdefault(digest, _Fit(wanted, recording.cost(wanted), not certain))
                fit.began = now
                busy[worker] = fit
                settled = False


def main(argv: Sequence[str] | None = None) -> int:
    """Replay every recording and show medians."""
    arguments = _parser().parse_args(argv)
    recordings: dict[str, list[Recording]] = {}
    for path in sorted(arguments.folder.glob("*.npz")):
        recording = Recording.load(path)
        recordings.setdefault(f"b{recording.rules.tasks_per_member}", []).append(recording)
    if not recordings:
        print(
            f"error: {arguments.folder} holds no recordings; bench/record.py makes them",
            file=sys.stderr,
        )
        return 2
    console = Console(stderr=True)
    table = Table(
        "b", "spread", "workers", "speedup", "worst", "early fits used", "fits per used fit"
    )
    result: dict[str, dict[str, float]] = {}
    for name, zoos in sorted(recordings.items(), reverse=True):
        alone = [replay(zoo, workers=1).time for zoo in zoos]
        spread = statistics.median(zoo.spread() for zoo in zoos)
        for workers in arguments.workers:
            runs = [
                replay(zoo, workers=workers, predict=PREDICTORS[arguments.predictor])
                for zoo in track(
                    zoos, f"{name}, {workers} workers", console=console, transient=True
                )
            ]
            speedups = [time / run.time for time, run in zip(alone, runs, strict=True)]
            early = sum(run.speculative for run in runs)
            members = sum(zoo.rules.members for zoo in zoos)
            speedup = statistics.median(speedups)
            table.add_row(
                name[1:],
                f"{spread:.2f}",
                str(workers),
                f"{speedup:.2f}",
                f"{min(speedups):.2f}",
                f"{sum(run.used for run in runs) / early:.0%}" if early else "-",
                f"{sum(run.fitted for run in runs) / members:.2f}",
            )
            result.setdefault(name, {})[str(workers)] = round(speedup, 4)
    console.print(table)
    if arguments.json:
        print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of recordings")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--predictor", choices=PREDICTORS, default="mean_change")
    parser.add_argument("--json", action="store_true", help="the medians as stdout's last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
