"""What drivers and workers tell of themselves: metrics for Prometheus, and lines in their logs."""

import logging
import sys
import threading
import time
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from zoo_ray.zoo.growth import Wanted

_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]
log = logging.getLogger("zoo_ray")


class DriverMetrics:
    """Of a driver, whose process this is.

    Args:
        run: what it does, as `runs/quickstart`.
    """

    def __init__(self, run: str) -> None:
        self._run = {"run": _tag(run)}
        self._began_s = time.process_time()
        self._told = 0
        self._accuracies: dict[str, float] = {}
        self._fitted = Counter(
            "zoo_ray_members_fitted", "Members fitted and published.", tag_keys=("run",)
        )
        self._waiting = Gauge(
            "zoo_ray_members_waiting", "Members that wait for a worker.", tag_keys=("run",)
        )
        self._fits = Gauge("zoo_ray_fits", "Members that are being fitted.", tag_keys=("run",))
        self._driver_ms = Gauge(
            "zoo_ray_driver_ms_per_member",
            "Milliseconds of the driver's processor time for each member taken in.",
            tag_keys=("run",),
        )
        self._accuracy = Gauge(
            "zoo_ray_test_accuracy",
            "Of each task, after the last complete episode.",
            tag_keys=("run", "task"),
        )

    def tell(
        self, *, fitted: int, taken: int, waiting: int, fits: int, accuracy: Mapping[str, float]
    ) -> None:
        """Tell the present state.

        Args:
            fitted: members that this driver's workers have published.
            taken: members taken in, from workers or the store.
            waiting: members that wait for a worker.
            fits: members that are being fitted.
            accuracy: of the tasks seen, by name.
        """
        if fitted > self._told:
            self._fitted.inc(fitted - self._told, self._run)
            self._told = fitted
        self._waiting.set(waiting, self._run)
        self._fits.set(fits, self._run)
        if taken:
            spent_s = time.process_time() - self._began_s
            self._driver_ms.set(1000 * spent_s / taken, self._run)
        # A gauge keeps what it was set to, and this is asked every second.
        for task, value in accuracy.items() - self._accuracies.items():
            self._accuracy.set(value, self._run | {"task": _tag(task)})
        self._accuracies = dict(accuracy)


class FitLog:
    """Of a worker: says which fit its lines are about, and how long fits take.

    Args:
        run: what it works for, as `runs/quickstart`.
    """

    def __init__(self, run: str) -> None:
        self._name = run
        self._run = {"run": _tag(run)}
        self._fit = threading.local()  # a thread has one at a time
        self._seconds = Histogram(
            "zoo_ray_fit_seconds", "Of a member's fit.", boundaries=_SECONDS, tag_keys=("run",)
        )
        write_log(self)

    def begin(self, wanted: Wanted) -> None:
        """A member's fit begins."""
        slot = wanted.slot
        self._fit.name = f"{self._name} episode {slot.episode} member {slot.index + 1}"
        log.info("fit of %s begins, on tasks %s", wanted.spec.digest[:12], list(wanted.tasks))

    def end(self, how: str, *, seconds: float | None = None) -> None:
        """It has ended; after so long, if it gave a member."""
        log.info("fit %s", how if seconds is None else f"{how} after {seconds:.1f} s")
        if seconds is not None:
            self._seconds.observe(seconds, self._run)

    def __str__(self) -> str:
        return getattr(self._fit, "name", self._name)


def write_log(about: object) -> None:
    """Have this process's lines go to its log, each with the time and with what it is about.

    Args:
        about: its `str` at the time says what.
    """

    class About(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.about = str(about)
            return True

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(about)s: %(message)s"))
    handler.addFilter(About())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def _tag(name: str) -> str:
    """A name as a metric's tag: Ray takes ASCII."""
    return name.encode("ascii", "backslashreplace").decode()
