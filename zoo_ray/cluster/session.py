"""The entrypoint's side of Ray: join or start it, put the images there, watch the driver."""

import contextlib
import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import ActorUnavailableError, AuthenticationError, RayError, RayTaskError
from ray.util import placement_group_table

import zoo_ray
from zoo_ray.cluster.autoscaler import launchable
from zoo_ray.cluster.driver import Driver, RunDriver
from zoo_ray.cluster.health import end_controllers
from zoo_ray.cluster.job import DRIVER_AWAY_S, Job, RunJob
from zoo_ray.counts import counted
from zoo_ray.errors import UserError
from zoo_ray.offer import Offer, room_on, split_over_nodes, usable_cpus
from zoo_ray.own_code import is_installed
from zoo_ray.progress import Progress
from zoo_ray.stops import Stopped
from zoo_ray.store import KINDS
from zoo_ray.task import Task

NAMESPACE = "zoo_ray"
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables that name a cluster; Ray heeds them more than what it is told."""
SETTINGS = {
    # Each of these would be one more process that imports Ray Train, for seconds.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # How late Train notices that the workers are done.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}
"""Environment of all that works for a run."""
log = logging.getLogger("zoo_ray")

_POLL_S = 0.5
_GROUPS_END_S = 30.0
_PLACELESS_END_S = 5.0
_LOOK_FOR_NODES_S = 5.0
_END_TOLD_S = 10.0
_DRIVER_LIVES = 10
# The driver of a command that was killed keeps its name until Ray has noticed.
_NAME_FREE_S = 15.0
# Ray Train takes some seconds to start a worker that has a place.
_WAITS_S = 30.0
_GO_ON = "the same command goes on where it ended"


def connect(address: str) -> None:
    """Join a Ray cluster.

    Args:
        address: HOST:PORT of the head; `auto` finds the cluster that this machine belongs to.

    Raises:
        UserError: there is no such cluster, or it does not take our token.
    """
    if ray.is_initialized():
        return
    try:
        use_token()
        check_answers(address)
        _init(address=address, runtime_env=_runtime_env())
    except AuthenticationError:
        raise token_wanted(address) from None
    except (OSError, ValueError, RuntimeError, RayError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--address {address}: no Ray cluster answers ({problem}); start one with "
            "`ray start --head`, or leave --address out"
        ) from None


def use_token() -> None:
    """Have Ray use this user's token, if there is one, whatever the cluster's address.

    Raises:
        AuthenticationError: RAY_AUTH_MODE says that there must be one.
    """
    from ray._private.authentication import authentication_token_setup as setup

    _quiet()
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    # Without one some of Ray's clients end the process.
    setup.ensure_token_if_auth_enabled(create_token_if_missing=False)


def token_wanted(address: str) -> UserError:
    """The error that Ray's AuthenticationError stands for."""
    return UserError(
        f"--address {address}: this cluster asks for its token; put it into ~/.ray/auth_token "
        "(readable by you alone) or RAY_AUTH_TOKEN"
    )


def check_answers(address: str) -> None:
    """Raise OSError, ValueError or RayError soon, where Ray would go on asking for minutes.

    Raises:
        AuthenticationError: the cluster does not take our token.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if address == "local" or "://" in address:
        raise ValueError("an address is auto or HOST:PORT, of a cluster that this machine is in")
    found = canonicalize_bootstrap_address(address)
    if found is None:
        raise ValueError("this machine belongs to none")
    host, _, port = found.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        pass
    GcsClient(address=found)  # of a token that is refused, `ray.init` would not say so


def cluster_offer() -> Offer:
    """What the joined cluster has to give."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    launchable_cpus, launchable_gpus = launchable()
    return Offer(
        where="the cluster",
        cpus=free.get("CPU", 0.0),
        gpus=free.get("GPU", 0.0),
        nodes=tuple(_living().values()),
        launchable_cpus=launchable_cpus,
        launchable_gpus=launchable_gpus,
    )


def _living() -> dict[str, tuple[float, float]]:
    """CPUs and GPUs of each living node, by its id."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in nodes
        if node["Alive"]
    }


def grow_on_ray(
    job: RunJob, *, tasks: Sequence[Task], on_progress: Callable[[Progress], None]
) -> Progress | None:
    """Grow a zoo on the joined cluster, or on a local Ray that lives as long as this call.

    The members are in the store afterwards; this process reads them from there.

    Args:
        job: what to do; its store is one that every node sees.
        tasks: the stream; the images reach each node once.
        on_progress: called about twice a second.

    Returns:
        How far the run was when the driver was last seen; None: it had not begun.

    Raises:
        UserError: a fit failed, the workers ended early, or another command grows this run.
    """
    progress: Progress | None = work(job, RunDriver, tasks=tasks, on_progress=on_progress)
    return progress


def work(
    job: Job,
    kind: type[Driver],
    *,
    tasks: Sequence[Task],
    on_progress: Callable[[Any], None],
    beside: Callable[[Any], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Any:
    """Have a driver and its workers do a job; see `grow_on_ray`.

    Args:
        kind: of the driver.
        beside: given the driver, what else is done meanwhile.
    """
    with local_ray(), _address_set():
        job = replace(job, images={task.digest: ray.put(task) for task in tasks})
        driver = _start_driver(job, kind)
        groups = _Groups(job, driver)
        try:
            groups.begin()
            with beside(driver):
                problem, progress = _watch(driver, groups, job, on_progress)
            # The workers' calls for another lease are answered now: they end at once.
            groups.join()
        except Stopped:
            raise
        except BaseException:  # an interrupted cell of a notebook, too
            groups.end()
            raise
        finally:
            with contextlib.suppress(Exception):  # of a cluster that is gone
                ray.kill(driver)
    if problem:
        raise UserError(problem)
    return progress


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of this process's own, unless it has joined or started one."""
    if ray.is_initialized():
        yield
        return
    with _token_of_its_own(), _until_done():
        _start_local_ray()
        yield


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """A cluster that this process has joined (see `connect`) and leaves again.

    While it is joined, Ray prints what it has to say, also after a command's last line.
    """
    if ray.is_initialized():
        yield
        return
    with _until_done():
        connect(address)
        yield


@contextlib.contextmanager
def _address_set() -> Iterator[None]:
    """Let RAY_ADDRESS name the Ray that this process is in; Train's helpers take it from here."""
    address = ray.get_runtime_context().gcs_address
    with without(*ADDRESSES), _environment("RAY_ADDRESS", address):
        yield


@contextlib.contextmanager
def _until_done() -> Iterator[None]:
    try:
        yield
    except Stopped:
        raise  # Ray's own end would take its time
    except BaseException:
        with interrupted_later():
            ray.shutdown()
        raise
    ray.shutdown()


@contextlib.contextmanager
def _token_of_its_own() -> Iterator[None]:
    """A token for a local Ray, unless the environment has one: Ray's own would be written into the
    home folder, which may be read-only or shared."""
    if "RAY_AUTH_TOKEN" in os.environ:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        yield
    finally:
        # A cluster that this process joins later asks for another, and Ray remembers this one.
        os.environ.pop("RAY_AUTH_TOKEN", None)
        AuthenticationTokenLoader.instance().reset_cache()


def _start_local_ray() -> None:
    _quiet()
    try:
        # Its processes would ask these addresses, not their own.
        with without(*ADDRESSES), _environment("PYTHONPATH", _python_path()):
            _init(
                address="local",  # whatever else runs on this machine
                num_cpus=usable_cpus(),
                include_dashboard=True,  # Train's clean-up of reserved CPUs and GPUs asks it
            )
    except Exception as error:  # of a slow start Ray says so by just that
        raise UserError(
            f"Ray does not start on this machine ({error}); try again when it is less busy (train, "
            "compare and compete do without Ray with --workers 0)"
        ) from None


def _init(**options: Any) -> None:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with interrupted_later():
        ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
    # Ray takes SIGTERM for itself.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """Let KeyboardInterrupt wait: a Ray that it interrupts at its start or end ends the process
    soon. A command's stop does not wait (see zoo_ray.stops)."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    received = []
    signal.signal(signal.SIGINT, lambda *signal_: received.append(signal_))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt


def _quiet() -> None:
    """Settings for Ray: what this process sets, the processes of a local Ray inherit."""
    for key, value in ({"RAY_USAGE_STATS_ENABLED": "0"} | SETTINGS).items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray").setLevel(logging.ERROR)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Without some environment variables."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= before


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """With an environment variable."""
    with without(name):
        os.environ[name] = value
        try:
            yield
        finally:
            os.environ.pop(name, None)


def _python_path() -> str:
    """Where this process finds code that is not installed; of a script and the working directory
    Ray tells its processes itself, of what a notebook has put on its path nobody does."""
    # Another node's Python may have its packages elsewhere.
    paths = map(os.path.abspath, sys.path)
    return os.pathsep.join(path for path in paths if not is_installed(Path(path)))


def _runtime_env() -> dict[str, Any] | None:
    """What a cluster's processes need to find zoo_ray here; None: Ray sees to it, or it is
    installed."""
    root = Path(zoo_ray.__file__).parents[1]
    scripts = [Path(script).resolve().parent for script in sys.argv[:1]]
    if is_installed(root) or root in (Path.cwd(), *scripts):
        return None
    return {"env_vars": {"PYTHONPATH": _python_path()}}


def _start_driver(job: Job, kind: type[Driver]) -> Any:
    # One driver for a run, search or comparison in a store, whoever asks.
    key = hashlib.sha256(f"{job.store}\n{job.folder}".encode()).hexdigest()[:16]
    options = {
        "name": f"driver-{key}",
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "resources": {"node:__internal_head__": 0.001},
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": 10_000,  # every idle worker waits in a call
    }
    give_up = time.monotonic() + _NAME_FREE_S
    while True:
        try:
            return ray.remote(kind).options(**options).remote()
        except ValueError:
            if time.monotonic() > give_up:
                what, _, name = job.folder.partition("/")
                raise UserError(
                    f"--name {name}: another command is at this {KINDS[what]} on this cluster; "
                    "wait for it, or give another --name"
                ) from None
            time.sleep(_POLL_S)


class _Groups:
    """The worker groups, one for each node, run from threads of this process.

    A group ends with its node, and the others go on: one group for all would end with any node, and
    not begin again before there is another, or, elastic, a minute later (bench/groups.py). The
    threads are daemons: a group whose node is gone may never end.
    """

    def __init__(self, job: Job, driver: Any) -> None:
        self._job, self._driver = job, driver
        self._problem: str | None = None
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._workers = 0
        self._next_look = 0.0
        self._nodes: set[str] = set()
        self._grows = False

    def begin(self) -> None:
        """Start workers on the nodes that the cluster has."""
        job, nodes = self._job, _living()
        self._nodes = set(nodes)
        # Groups for nodes that an autoscaler is to launch wait for these.
        self._grows = job.most_workers > job.workers.count and not any(cluster_offer().to_come)
        for size in split_over_nodes(job.workers, nodes=list(nodes.values())):
            self._start(size)

    def welcome(self) -> None:
        """Start workers on nodes that have joined the cluster since this was asked before."""
        now = time.monotonic()
        if not self._grows or now < self._next_look:
            return
        self._next_look = now + _LOOK_FOR_NODES_S
        nodes = _living()
        for node in nodes.keys() - self._nodes:
            # A group that has lost its node may have taken it.
            free = available_resources_per_node().get(node, {})  # type: ignore[no-untyped-call]
            room = room_on((free.get("CPU", 0.0), free.get("GPU", 0.0)), self._job.workers)
            if size := min(room, self._job.most_workers - self._workers):
                log.warning("a node has joined, with room for %d workers", size)
                self._start(size)
        self._nodes |= nodes.keys()

    def _start(self, size: int) -> None:
        group = {
            "job": self._job,
            "driver": self._driver,
            "first_rank": self._workers,
            "size": size,
            "over": self._over,
        }
        self._workers += size
        self._threads.append(threading.Thread(target=self._run, kwargs=group, daemon=True))
        self._threads[-1].start()

    def _run(self, **group: Any) -> None:
        from zoo_ray.cluster.workers import run_group  # imports Ray Train, which takes a second

        try:
            run_group(**group)
        except Exception as error:  # whatever it is, these workers fit no more
            self._problem = f"{type(error).__name__}: {error}"
            log.info("a group of workers ended: %s", self._problem)

    @property
    def problem(self) -> str | None:
        """A line that says why all groups have ended, if they have."""
        if self._any_alive():
            return None
        return f"the workers ended: {self._problem or 'nothing is known of why'}; {_GO_ON}"

    def join(self) -> None:
        """Wait for the workers to end, for a while; those that never began are ended."""
        self._wait(_PLACELESS_END_S if _some_group_has_no_place() else _GROUPS_END_S)
        if self._any_alive():
            self.end()

    def end(self) -> None:
        """End all groups, whatever they do: one that still asks a Ray that this process has left
        ends the process."""
        self._over.set()
        give_up = time.monotonic() + _GROUPS_END_S
        with interrupted_later():
            while self._any_alive() and time.monotonic() < give_up:
                end_controllers()
                self._wait(_POLL_S)  # another may be about to start

    def _wait(self, for_s: float) -> None:
        deadline = time.monotonic() + for_s
        for thread in self._threads:
            thread.join(timeout=max(deadline - time.monotonic(), 0))

    def _any_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)


def _some_group_has_no_place() -> bool:
    """Whether workers wait for a node that has room for them: ours, or another command's."""
    groups = placement_group_table().values()
    return any(group["state"] == "PENDING" for group in groups)


class _Waiting:
    """Says now and then what a job waits for, while nothing is being fitted."""

    def __init__(self, job: Job) -> None:
        self._workers = job.workers
        self._since = time.monotonic()

    def look(self, progress: Any) -> None:
        """Hear how the job is."""
        now = time.monotonic()
        if progress is None or progress.fits:
            self._since = now
        elif now - self._since > _WAITS_S:
            self._since = now
            with contextlib.suppress(Exception):  # whatever it is, the watch hears of it
                if _some_group_has_no_place():  # else workers are about to begin
                    log.warning("%s", self._line(cluster_offer()))

    def _line(self, offer: Offer) -> str:
        workers = self._workers
        kinds = [("CPU", workers.cpus, offer.cpus, 0), ("GPU", workers.gpus, offer.gpus, 1)]
        asked = " and ".join(counted(each, kind) for kind, each, _, _ in kinds if each)
        free = " and ".join(
            f"{left:g} of {sum(node[place] for node in offer.nodes):g} {kind}s"
            for kind, each, left, place in kinds
            if each
        )
        more = ", and more nodes are to be launched" if any(offer.to_come) else ""
        return f"waiting for a worker with {asked}: {free} are free{more}"


def _watch(
    driver: Any, groups: _Groups, job: Job, on_progress: Callable[[Any], None]
) -> tuple[str | None, Any]:
    """Wait for the driver's end; a driver that restarts is told its job again.

    Returns:
        Why it ended early (None: it did not), and the last progress that was seen.
    """
    seen: Any = None
    most_members = -1
    away_since: float | None = None
    deaths = 0
    waiting = _Waiting(job)

    def look() -> None:
        nonlocal seen, most_members, away_since, deaths
        progress = ray.get(driver.progress.remote(), timeout=DRIVER_AWAY_S)
        away_since = None
        waiting.look(progress)
        if progress is not None:
            if progress.members_done > most_members:
                most_members, deaths = progress.members_done, 0
            seen = progress
            on_progress(progress)

    while True:
        try:
            end = driver.run.remote(job, seen)
            while not ray.wait([end], timeout=_POLL_S)[0]:
                look()
                groups.welcome()
                # If they ended because all is over, the driver is about to say so.
                if groups.problem and not ray.wait([end], timeout=_END_TOLD_S)[0]:
                    return groups.problem, seen
            problem: str | None = ray.get(end)
            look()
            return problem, seen
        except ActorUnavailableError:
            deaths += away_since is None
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > DRIVER_AWAY_S or deaths > _DRIVER_LIVES:
                raise UserError(f"the driver does not come back; {_GO_ON}") from None
            time.sleep(_POLL_S)
        except RayTaskError as error:
            problem = str(error.cause) if isinstance(error.cause, UserError) else repr(error.cause)
            raise UserError(f"the driver: {problem}; {_GO_ON}") from None
        except RayError as error:
            raise UserError(f"the driver: {type(error).__name__}: {error}; {_GO_ON}") from None
