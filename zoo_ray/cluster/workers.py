"""Workers: Ray Train ranks that pull specs from the driver, fit them and publish the members."""

import tempfile
import time
import uuid
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from zoo_ray.cluster.job import DRIVER_AWAY_S, Job
from zoo_ray.errors import UserError
from zoo_ray.members.member import FitProgress
from zoo_ray.store import Store
from zoo_ray.task import Task

GROUP_RESTARTS = 10


def run_group(job: Job, driver: Any) -> None:
    """Run a worker group until every worker was told that all is over.

    Called in a thread of the driver: the group then ends with the driver.

    Args:
        job: the driver's job.
        driver: handle of the driver.

    Raises:
        Exception: the group ended early, or could not start.
    """
    resources = {"CPU": job.workers.cpus}
    if job.workers.gpus:
        resources["GPU"] = job.workers.gpus
    # Train wants a place for checkpoints of its own; ours go to the store.
    with tempfile.TemporaryDirectory(prefix="zoo_ray-") as folder:
        trainer = DataParallelTrainer(
            pull,
            # A nested list keeps Ray from resolving the references: workers map what they need.
            train_loop_config={
                "driver": driver,
                "store": job.store,
                "call": job.call,
                "device": job.workers.device,
                "images": [job.images],
            },
            scaling_config=ScalingConfig(
                num_workers=job.workers.count,
                use_gpu=job.workers.gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                # Ray resumes a run whose name it has seen before, which is never what we want.
                name=f"zoo_ray-{uuid.uuid4().hex}",
                storage_path=folder,
                failure_config=FailureConfig(
                    max_failures=GROUP_RESTARTS, controller_failure_limit=GROUP_RESTARTS
                ),
            ),
        )
        trainer.fit()


def pull(config: dict[str, Any]) -> None:
    """A worker's life: lease, fit, publish, until there is nothing left.

    Args:
        config: `driver`, `store` (its address), `call` (see `Job`), `device` (of torch) and
            `images` (references to the tasks, nested).
    """
    # Imports torch, in the worker alone: the driver and Ray Train's controller import this module
    # too, and start faster without.
    from zoo_ray.members.fit import FitFailed, fit

    driver, store = config["driver"], Store(config["store"])
    (references,) = config["images"]
    rank = ray.train.get_context().get_world_rank()
    worker = uuid.uuid4().hex
    tasks: dict[int, Task] = {}

    while (wanted := _ask(driver.lease, rank, worker)) is not None:
        digest = wanted.spec.digest
        for position in wanted.tasks:
            if position not in tasks:
                tasks[position] = ray.get(references[position])

        def report(progress: FitProgress, digest: str = digest) -> None:
            driver.report.remote(digest, progress)

        try:
            member = fit(
                spec=wanted.spec,
                tasks=[tasks[position] for position in wanted.tasks],
                device=config["device"],
                on_progress=report,
            )
            store.publish_member(wanted.spec, member, call=config["call"])
        except (FitFailed, UserError) as error:
            _ask(driver.failed, digest, str(error))
        except Exception as error:  # in a network, or out of memory: another worker fares no better
            _ask(driver.failed, digest, f"{type(error).__name__}: {error}")
        else:
            _ask(driver.published, digest)


def _ask(method: Any, *arguments: Any) -> Any:
    """Call the driver and wait for its answer; a driver that restarts is asked again."""
    # Counted from its first absence: an answer may be hours in coming.
    away_since: float | None = None
    while True:
        try:
            return ray.get(method.remote(*arguments))
        except ActorUnavailableError:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > DRIVER_AWAY_S:
                raise
            time.sleep(0.5)
