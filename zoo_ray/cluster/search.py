"""A search on Ray: Tune's trials are clients of one driver, whose workers fit for all of them."""

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from zoo_ray.cluster.ask import ask
from zoo_ray.cluster.job import Job
from zoo_ray.cluster.session import interrupted_later, work
from zoo_ray.cluster.zoos import ZooJob, ZoosDriver
from zoo_ray.errors import UserError
from zoo_ray.progress import SearchProgress
from zoo_ray.search.config import SearchConfig
from zoo_ray.search.trials import EpisodeReport, Status, Trial, Trials, zoo_report
from zoo_ray.stops import Stopped, temporary_folder
from zoo_ray.task import Task

log = logging.getLogger("zoo_ray")

# A trial's process that dies is followed by another, which asks again for what it has missed.
_TRIAL_RESTARTS = 3
_TUNE_ENDS_S = 30.0
_TELL_AGAIN_S = 0.1


# ---- the driver


class SearchDriver(ZoosDriver):
    """The driver of a search: it grows the zoos of the trials that ask it to."""

    def _begin(self, job: Job, seen: SearchProgress | None) -> None:
        super()._begin(job, seen)
        self._ended = False

    async def episode(
        self, trial: int, zoos: Sequence[ZooJob], episode: int
    ) -> EpisodeReport | str:
        """Grow a trial's zoos to the end of an episode.

        Args:
            trial: its number; specs of lower ones are fitted first.
            zoos: what it is for each of its seeds.
            episode: from 1.

        Returns:
            What the zoos are then, or a line that says why they cannot be.
        """
        await self._started.wait()
        if trial not in self._zoos and trial not in self._problems:
            self._take_in(trial, zoos)
            await self._advance()
        async with self._changed:
            await self._changed.wait_for(lambda: self._stands(trial, episode))
        growths = self._zoos.get(trial, [])
        if self._over() or trial in self._problems or not growths:
            return self._error or self._problems.get(trial) or "the search has ended"
        return tuple(
            zoo_report(growth, episode=episode, epochs=zoo.recipe.epochs, ours=self._ours)
            for growth, zoo in zip(growths, zoos, strict=True)
        )

    async def leave(self, trial: int) -> None:
        """Forget a trial; what nobody else wants is not fitted any more."""
        await self._started.wait()
        self._forget(trial)
        await self._notify()

    async def end(self) -> None:
        """Hear that no trial is to come."""
        self._ended = True
        await self._notify()

    def _stands(self, trial: int, episode: int) -> bool:
        growths = self._zoos.get(trial, [])
        done = all(len(growth.episodes) >= episode for growth in growths)
        return done or self._over() or trial in self._problems

    def _over(self) -> bool:
        return self._ended or self._error is not None


# ---- Tune


class Client(tune.Trainable):
    """A trial as Tune sees it: a step is an episode that the driver grows."""

    def setup(self, config: dict[str, Any], *, driver: Any = None, metric: str = "") -> None:
        """Take what all trials share, and what this one is."""
        self._driver, self._metric = driver, metric
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial: processes are dear, and this one holds nothing."""
        self._trial: int = new_config["trial"]
        self._zoos: Sequence[ZooJob] = new_config["zoos"]
        self._done: list[EpisodeReport] = []
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next episode's end, or hear why there is none."""
        report = ask(self._driver.episode, self._trial, self._zoos, len(self._done) + 1)
        if report is None or isinstance(report, str):
            problem = report or "the search has ended"
            return {self._metric: math.nan, "done": True, "report": None, "problem": problem}
        self._done.append(report)
        trial = Trial(self._trial, {}, reports=self._done)
        return {
            self._metric: trial.score(self._metric),
            "members": len(trial.digests),
            "images": trial.images,
            "done": trial.episodes == self._zoos[0].rules.episodes,
            "report": (trial.episodes, report),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the store holds all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the driver tells all again."""


@dataclass
class _Here:
    """What Tune's thread shares with the others of this process.

    Tune pickles what it is given, into a file. This it does not get.
    """

    trials: Trials
    zoos: Callable[[Trial], Sequence[ZooJob]]
    over: threading.Event = field(default_factory=threading.Event)
    problem: str | None = None

    def __deepcopy__(self, memo: object) -> "_Here":
        return self

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Next(Searcher):
    """Hands the trials to Tune as they come."""

    def __init__(self, here: "_Here") -> None:
        super().__init__()
        self._here = here

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Say that what Tune was told of the search is known here."""
        return True

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        """A trial's configuration; None: not now."""
        while not (self._here.over.is_set() or self._here.trials.all_begun):
            trial = self._here.trials.begin()
            if trial is None:
                return None
            try:
                # The values by themselves, too: TensorBoard shows them.
                return {"trial": trial.number, "zoos": self._here.zoos(trial), **trial.values}
            except UserError as error:  # values that do not go together
                trial.problem, trial.status = str(error), "failed"
        return Searcher.FINISHED

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """Nothing: `_Listener` hears it."""


class _Listener(tune.Callback):
    """Notes what trials report, and has the driver forget those that end."""

    def __init__(self, here: _Here, driver: Any) -> None:
        self._here = here
        self._driver = driver

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        """Hear of an episode's end, or of why there is none."""
        ours = self._of(trial)
        if result["report"] is None:
            ours.problem = result["problem"]
            return
        episode, report = result["report"]
        if episode == ours.episodes + 1:  # else its process has died, and says it again
            ours.reports.append(report)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """Hear that a trial has come to its end, or was stopped."""
        ours = self._of(trial)
        if ours.problem is not None:
            self._end(ours, "failed")
        else:
            episodes = trial.config["zoos"][0].rules.episodes
            self._end(ours, "complete" if ours.episodes == episodes else "stopped")

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """Hear that a trial's process has died too often, or cannot go on."""
        ours = self._of(trial)
        lines = str(trial.get_error() or "").strip().splitlines()
        ours.problem = (
            f"its process has ended ({lines[-1] if lines else 'nothing is known of why'})"
        )
        self._end(ours, "failed")

    def _of(self, trial: Any) -> Trial:
        number: int = trial.config["trial"]
        return self._here.trials.all[number]

    def _end(self, trial: Trial, status: Status) -> None:
        if self._here.over.is_set():
            return  # it has not ended, everything has
        if status == "failed":
            trial.reports.clear()  # how many there are depends on which member failed first
            log.warning("trial %d failed: %s", trial.number + 1, trial.problem)
        trial.status = status
        self._driver.leave.remote(trial.number)


def search_on_ray(
    config: SearchConfig,
    job: Job,
    *,
    tasks: Sequence[Task],
    trials: Trials,
    zoos: Callable[[Trial], Sequence[ZooJob]],
    keep: Callable[[str], None],
    on_progress: Callable[[SearchProgress], None],
) -> SearchProgress | None:
    """Have all trials grown, on the joined cluster or on a local Ray.

    Args:
        config: the search.
        job: for the driver and the workers.
        tasks: the stream.
        trials: where trials are taken from, and what they report goes to.
        zoos: a trial's zoos.
        keep: called in the end with the folder of Tune's TensorBoard files.
        on_progress: called about twice a second.

    Returns:
        What was last heard of the driver.

    Raises:
        UserError: the workers ended early, a worker cannot work, the store fails, or another
            command is at this search.
    """
    here = _Here(trials, zoos)

    @contextlib.contextmanager
    def tuning(driver: Any) -> Iterator[None]:
        # In a thread: Tune would take Ctrl-C for itself, and the driver is watched meanwhile.
        def tune_and_tell() -> None:
            _tune(config, driver, here, folder)
            while not here.over.wait(timeout=_TELL_AGAIN_S):  # it may restart just when it was told
                with contextlib.suppress(Exception):  # with the driver, say
                    ask(driver.end)

        thread = threading.Thread(target=tune_and_tell, daemon=True)
        thread.start()
        try:
            yield
        except Stopped:
            raise
        except BaseException:  # an interrupted cell of a notebook, too
            _stop(here, driver, thread)
            raise
        _stop(here, driver, thread)

    with temporary_folder() as folder:
        progress: SearchProgress | None = work(
            job, SearchDriver, tasks=tasks, on_progress=on_progress, beside=tuning
        )
        if here.problem is not None:
            raise UserError(
                f"the trials ended: {here.problem}; the same command goes on where it ended"
            )
        for trial in trials.running:  # the hours are over
            trial.status = "stopped"
        keep(folder)
    return progress


def _stop(here: _Here, driver: Any, thread: threading.Thread) -> None:
    """Let Tune's thread end before Ray does."""
    here.over.set()
    with interrupted_later():
        with contextlib.suppress(Exception):  # it may be gone
            driver.end.remote()
        thread.join(timeout=_TUNE_ENDS_S)


def _tune(config: SearchConfig, driver: Any, here: _Here, folder: str) -> None:
    hours = config.budget.hours
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # CSV and JSON: trials.parquet has it all
        RAY_AIR_NEW_OUTPUT="0",
        TUNE_GLOBAL_CHECKPOINT_S="1000000",  # the state to go on from is our store
        TUNE_MAX_PENDING_TRIALS_PG="16",  # else of a searcher's trials one starts after the other
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # we say what is to be said
    # What is passed on to trials is in Ray's logs; and they know no store.
    class_cache.ENV_VARS_TO_PROPAGATE -= {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")
    }
    try:
        client = tune.with_parameters(Client, driver=driver, metric=config.metric)
        # The workers hold the CPUs. Trials wait, and need but a crumb of the head's node.
        crumb = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
        tune.Tuner(
            tune.with_resources(client, crumb),
            tune_config=tune.TuneConfig(
                metric=config.metric,
                mode="max" if config.maximised else "min",
                search_alg=_Next(here),
                scheduler=_scheduler(config),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_folder_name,
                trial_name_creator=_folder_name,
                time_budget_s=None if hours is None else hours * 3600,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                verbose=0,
                callbacks=[
                    _Listener(here, driver),
                    TBXLoggerCallback(),  # type: ignore[no-untyped-call]
                ],
                failure_config=tune.FailureConfig(max_failures=_TRIAL_RESTARTS),
            ),
        ).fit()
    except Exception as error:  # with the cluster, say; whatever it is, no trial goes on
        line = (str(error).splitlines() or [""])[0]
        here.problem = here.problem or f"{type(error).__name__}: {line}"


def _folder_name(trial: Any) -> str:
    return f"trial-{trial.config['trial'] + 1}"


def _scheduler(config: SearchConfig) -> TrialScheduler:
    if config.scheduler == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(
        time_attr="training_iteration", max_t=config.most_episodes, grace_period=config.grace
    )
