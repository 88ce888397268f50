"""Commands that run on a cluster, as jobs of Ray's."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import requests
from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from zoo_ray.cluster.packing import Submission, pack
from zoo_ray.cluster.session import (
    ADDRESSES,
    SETTINGS,
    check_answers,
    token_wanted,
    use_token,
    without,
)
from zoo_ray.errors import UserError
from zoo_ray.lines import Line, last_line
from zoo_ray.stops import JOB_VARIABLE

_TUNNEL = "http://127.0.0.1:8265"
_ANSWERS_WITHIN_S = 10.0
_DASHBOARD_WITHIN_S = 5.0
_STARTS_WITHIN_S = 60.0
_STOPS_WITHIN_S = 30.0
_LOGS_AT_ONCE = 8
_MESSAGE_CHARS = 500
_MESSAGE_BEGINS = 100


@dataclass(frozen=True)
class SubmittedJob:
    """A job that a `submit` has made.

    Attributes:
        id: of the job.
        submission: what it does.
        state: `pending`, `running`, `stopped`, `succeeded` or `failed`.
        message: of Ray's about the state; if it has failed, with the end of its log below.
        line: how far it is, by its log; None: that was not read, or does not say.
        started, ended: in seconds since the epoch; None: not yet.
    """

    id: str
    submission: Submission
    state: str
    message: str
    line: Line | None
    started: float | None
    ended: float | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in {"stopped", "succeeded", "failed"}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`: `accuracy` is a fraction, `message` one line."""
        accuracy = self.line and self.line.accuracy
        return {
            "id": self.id,
            "command": self.submission.command,
            "run": self.submission.name,
            "store": self.submission.store,
            "state": self.state,
            "message": _one_line(self.message) or None,
            "done": self.line and self.line.done,
            # Of a percentage with at most two decimals.
            "accuracy": None if accuracy is None else round(float(accuracy) / 100, 4),
            "left": self.line and self.line.left,
            "started": self.started,
            "ended": self.ended,
        }


class Jobs:
    """The jobs of a cluster.

    Args:
        address: `http://HOST:PORT` of its dashboard; HOST:PORT of its head, or `auto`, on a machine
            that belongs to it. None: what RAY_API_SERVER_ADDRESS or RAY_ADDRESS says; or the
            cluster that this machine belongs to; or http://127.0.0.1:8265, where
            `ray dashboard cluster.yaml` makes a cloud's appear.

    Attributes:
        url: of the dashboard.
        here: whether this machine belongs to the cluster.

    Raises:
        UserError: no cluster answers, or it does not take our token.
    """

    def __init__(self, address: str | None = None) -> None:
        for name in ("dashboard_sdk", "job.sdk"):  # which set a level of their own
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        self.url, self.here = _resolve(address)
        _check_url_answers(self.url, here=self.here)
        with self._errors(), without(*ADDRESSES):
            self._client = JobSubmissionClient(self.url)

    def submit(self, submission: Submission, *, script: Path) -> str:
        """Have a command run; returns the job's id.

        The job depends on nobody here: this process may end.

        Args:
            submission: what to run.
            script: the command line, run_cluster.py.

        Raises:
            UserError: it is under way already, it cannot run there, or the cluster does not
                answer.
        """
        self._refuse_other_ray()
        submission = submission.with_paths(here=self.here)
        for job in self._ours():
            other = job.submission
            same = (other.command, other.name, other.store)
            if not job.is_over and same == (submission.command, submission.name, submission.store):
                raise UserError(
                    f"--name {submission.name}: job {job.id} is at it; `logs -f {job.id}` shows "
                    "how, or give another --name"
                )
        entrypoint = submission.entrypoint()
        if self.here:
            # Ray may have been started without its environment being activated.
            entrypoint = (
                f'PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH" {entrypoint}'
            )
        identity = _identity(submission.name)
        with tempfile.TemporaryDirectory(prefix="zoo_ray-") as folder:
            pack(submission, Path(folder), script=script)
            with self._errors():
                return self._submit(
                    # It asks for no CPU and no GPU: Ray runs it on the head.
                    entrypoint=entrypoint,
                    submission_id=identity,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": SETTINGS | {JOB_VARIABLE: identity},
                    },
                    metadata=submission.to_metadata(),
                )

    def resume(self, run: str, *, script: Path) -> str:
        """Submit again what a job was to do; returns the new job's id.

        Args:
            run: the job's id, or the run's name, whose latest job is meant.
            script: the command line, run_cluster.py.

        Raises:
            UserError: as of `submit`; or the cluster knows no such job.
        """
        return self.submit(self.find(run).submission, script=script)

    def all(self) -> list[SubmittedJob]:
        """Every job that `submit` has made on this cluster, the latest last."""
        jobs = self._ours()
        with ThreadPoolExecutor(_LOGS_AT_ONCE) as pool:
            return list(pool.map(self._with_line, jobs))

    def find(self, name: str, *, with_line: bool = False) -> SubmittedJob:
        """A job by its id, or the latest of a run.

        Args:
            name: the job's id, or the run's name.
            with_line: whether to read its log for how far it is.

        Raises:
            UserError: there is none.
        """
        jobs = self._ours()
        found = [job for job in jobs if job.id == name] or [
            job for job in jobs if job.submission.name == name
        ]
        if not found:
            raise UserError(
                f"{name}: the cluster at {self.url} knows no such job or run; `jobs` lists what "
                "there is (a cluster that was started anew knows nothing of the jobs before: "
                "submit the same command again, it goes on where it ended)"
            )
        return self._with_line(found[-1]) if with_line else found[-1]

    def log(self, identity: str) -> str:
        """What a job has printed so far."""
        with self._errors():
            log: str = self._client.get_job_logs(identity)
            return log

    def follow(self, identity: str, *, show: Callable[[str], object]) -> None:
        """Pass on what a job prints, from its beginning, until it ends.

        Raises:
            UserError: the log ends and the job has not ended, or the cluster does not answer.
        """
        texts = self._client.tail_job_logs(identity)

        async def following() -> str | None:
            return await anext(texts, None)

        problem = None
        with asyncio.Runner() as runner:
            while True:
                try:
                    text = runner.run(following())
                except (aiohttp.ClientError, OSError, RuntimeError) as error:
                    problem = (str(error).splitlines() or [type(error).__name__])[0]
                    break
                if text is None:
                    break
                show(text)  # whose own errors are none of the cluster's
        # Ray ends the log in the same way when the cluster is stopped.
        again = f"`logs -f {identity}` shows it again"
        try:
            _check_url_answers(self.url, here=self.here)
            job = next((job for job in self._ours() if job.id == identity), None)
        except UserError:
            raise UserError(
                f"{identity}: its log has ended, and the cluster at {self.url} does not answer any "
                f"more; once it does, {again}"
            ) from None
        state = job.state if job else "unknown to the cluster"
        if problem is not None or job is None or not job.is_over:
            because = "" if problem is None else f" ({problem})"
            raise UserError(
                f"{identity}: its log has ended{because}, and the job is {state}; {again}"
            )

    def stop(self, identity: str) -> bool:
        """Stop a job and wait until it has ended; returns whether there was anything to stop."""
        with self._errors():
            stopped: bool = self._client.stop_job(identity)
            give_up = time.monotonic() + _STOPS_WITHIN_S
            while not self._client.get_job_status(identity).is_terminal():
                if time.monotonic() > give_up:
                    raise UserError(
                        f"{identity}: it was told to stop, and has not; look again with `jobs`"
                    )
                time.sleep(0.2)
        return stopped

    # ---- within

    def _ours(self) -> list[SubmittedJob]:
        with self._errors():
            found = self._client.list_jobs()
        jobs = [job for details in found if (job := _job(details)) is not None]
        return sorted(jobs, key=lambda job: job.started or time.time())

    def _with_line(self, job: SubmittedJob) -> SubmittedJob:
        with self._errors():
            try:
                return replace(job, line=last_line(self._client.get_job_logs(job.id)))
            except RuntimeError:  # its node may be gone, and the log with it
                return job

    def _submit(self, **job: Any) -> str:
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                identity: str = self._client.submit_job(**job)
                return identity
            except RuntimeError as error:
                # A Ray that has only just been started takes jobs some seconds later.
                if "No available agent" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(1)

    def _refuse_other_ray(self) -> None:
        ours, theirs = version("ray"), str(self._client._server_ray_version)
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise UserError(
                f"--address {self.url}: this cluster runs Ray {theirs}, where Ray {ours} is needed "
                "(requirements.txt); give its nodes the same"
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError:
            raise token_wanted(self.url) from None
        except (OSError, requests.RequestException) as error:
            _no_cluster(self.url, str(error))
        except RuntimeError as error:
            raise UserError(f"--address {self.url}: {error}") from None


def _resolve(address: str | None) -> tuple[str, bool]:
    """URL of a cluster's dashboard, and whether this machine belongs to the cluster."""
    given = address or next(filter(None, map(os.environ.get, ADDRESSES)), None)
    found = given or "auto"
    try:
        use_token()
        if re.match("https?://", found):
            parts = urlsplit(found)
            return f"{parts.scheme}://{parts.netloc}", False
        check_answers(found)
    except AuthenticationError:
        raise token_wanted(found) from None
    except (OSError, ValueError, RayError) as error:
        if given is None:
            return _TUNNEL, False
        _no_cluster(found, str(error))
    try:
        dashboard = _dashboard(found)
    except Exception as error:  # what there is to be raised, Ray does not say
        _no_cluster(found, str(error))
    if dashboard is None:
        _no_dashboard(found, "it has told no address")
    return f"http://{dashboard}", True


def _dashboard(address: str) -> str | None:
    """HOST:PORT of a cluster's dashboard, which is there when `ray start` returns, or never."""
    client = GcsClient(address=canonicalize_bootstrap_address_or_die(address))
    give_up = time.monotonic() + _DASHBOARD_WITHIN_S
    while True:
        found = client.internal_kv_get(DASHBOARD_ADDRESS.encode(), KV_NAMESPACE_DASHBOARD)
        if found or time.monotonic() > give_up:
            return found and str(found, "utf-8")
        time.sleep(0.2)


def _check_url_answers(url: str, *, here: bool) -> None:
    refuse = _no_dashboard if here else _no_cluster
    # Ray's own requests have no time limit, and a tunnel that was stopped takes connections.
    try:
        requests.get(f"{url}/api/version", timeout=_ANSWERS_WITHIN_S, allow_redirects=False)
    except requests.Timeout:
        refuse(url, f"nothing was said in {_ANSWERS_WITHIN_S:g} s")
    except requests.RequestException as error:
        refuse(url, type(error).__name__)


def _no_dashboard(address: str, problem: str) -> NoReturn:
    raise UserError(
        f"--address {address}: the Ray of this machine has no dashboard that answers ({problem}); "
        "was its port, 8265, taken when it started, as by a run without --address? Once that has "
        "ended: `ray stop`, then `ray start --head` again"
    ) from None


def _no_cluster(address: str, problem: str) -> NoReturn:
    line = (problem.splitlines() or [""])[0]
    raise UserError(
        f"--address {address}: no Ray cluster answers ({line}); start one with `ray start --head` "
        "or `ray up cluster.yaml`, whose dashboard `ray dashboard cluster.yaml </dev/null &` "
        f"brings to {_TUNNEL} (without </dev/null, ssh is stopped in the background)"
    ) from None


def _one_line(message: str) -> str:
    """A message's beginning, which says what happened, and its end, which says why."""
    line = " ".join(message.split())
    if len(line) <= _MESSAGE_CHARS:
        return line
    begin = line[:_MESSAGE_BEGINS] + " ... "
    return begin + line[len(begin) - _MESSAGE_CHARS :]


def _identity(name: str) -> str:
    readable = re.sub("[^A-Za-z0-9._-]+", "-", name)[:60].strip("-") or "zoo"
    return f"{readable}-{secrets.token_hex(3)}"


def _job(details: JobDetails) -> SubmittedJob | None:
    submission = Submission.from_metadata(details.metadata)
    if submission is None or details.submission_id is None:
        return None
    return SubmittedJob(
        id=details.submission_id,
        submission=submission,
        state=JobStatus(details.status).value.lower(),
        message=(details.message or "").strip(),
        line=None,
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
    )
