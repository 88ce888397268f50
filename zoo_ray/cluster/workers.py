"""Workers: Ray Train ranks that pull specs from the driver, fit them and publish the members."""

import os
import threading
import time
import uuid
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import ControllerError, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from zoo_ray.cluster.ask import ask
from zoo_ray.cluster.job import Job
from zoo_ray.cluster.leases import Answer, Worker
from zoo_ray.cluster.watching import FitLog
from zoo_ray.errors import UserError
from zoo_ray.failures import FailedFit
from zoo_ray.members.member import CutShort, FitProgress
from zoo_ray.stops import temporary_folder
from zoo_ray.store import Store
from zoo_ray.task import Task

# Of one group. A spec that costs worker after worker ends the run long before.
WORKER_RESTARTS = 1000
GROUP_START_FAILURES = 10
GROUP_RESTARTS = 10
_FULL_S = 0.2  # how often a thread looks whether its GPU has room again
# Train's guard of reserved places asks whether the controller lives. By default it asks the cluster
# that was last started on this machine, and if that is another one it ends all workers.
ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
_PASSING = (RayActorError, WorkerGroupStartupTimeoutError)


class _Independent(Backend):
    """Each rank is a replica of its own: one that dies is replaced, and the others go on.

    By default Train restarts the whole group, and all fits under way are lost. So, with two workers
    on two busy cores, a killed one had a successor after 3 s and the other noticed nothing.
    """

    has_replica_groups = True


class _IndependentWorkers(BackendConfig):
    @property
    def backend_cls(self) -> type[Backend]:
        return _Independent


def run_group(*, job: Job, driver: Any, first_rank: int, size: int, over: threading.Event) -> None:
    """Run a group of workers until every one of them was told that all is over.

    The group ends with the process that called this. That is the entrypoint rather than the
    driver, so that a driver that dies takes no worker with it.

    Args:
        job: the driver's job.
        driver: handle of the driver.
        first_rank: of the group's workers among all of the run.
        size: how many workers the group has.
        over: set when no group is to begin any more.

    Raises:
        Exception: the group ended early, or could not start.
    """
    restarts = 0
    while not over.is_set():
        try:
            _run_group(job, driver, first_rank=first_rank, size=size)
            return
        except (RayActorError, ControllerError) as error:
            # Train's controller has died; or a worker died while it was replacing another, where
            # it gives up.
            died = error.controller_failure if isinstance(error, ControllerError) else error
            # Nodes that are to be launched, or another's workers, take as long as they take.
            restarts += not isinstance(died, WorkerGroupStartupTimeoutError)
            # Without a Ray all is over, and another try would start one.
            given_up = restarts > GROUP_RESTARTS or not ray.is_initialized()
            if not isinstance(died, _PASSING) or given_up:
                raise


def _run_group(job: Job, driver: Any, *, first_rank: int, size: int) -> None:
    resources = {"CPU": job.workers.cpus}
    if job.workers.gpus:
        resources["GPU"] = job.workers.gpus
    # Train wants a place for checkpoints of its own; ours go to the store.
    with temporary_folder() as folder:
        trainer = DataParallelTrainer(
            pull,
            # A nested list keeps Ray from resolving the references: workers map what they need.
            train_loop_config={
                "driver": driver,
                "store": job.store,
                "call": job.call,
                "run": job.folder,
                "device": job.workers.device,
                "fits": job.workers.fits,
                "first_rank": first_rank,
                "checkpoint_s": job.checkpoint_s,
                "images": [job.images],
            },
            backend_config=_IndependentWorkers(),
            scaling_config=ScalingConfig(
                num_workers=size,
                use_gpu=job.workers.gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                # Ray resumes a run whose name it has seen before, which is never what we want.
                name=f"zoo_ray-{uuid.uuid4().hex}",
                storage_path=folder,
                failure_config=FailureConfig(
                    max_failures=WORKER_RESTARTS, controller_failure_limit=GROUP_START_FAILURES
                ),
            ),
        )
        trainer.fit()


class _Dropped(Exception):
    """The fit under way is of no use any more."""


def pull(config: dict[str, Any]) -> None:
    """The life of a worker's process: one worker, or several in threads that share its GPU.

    Args:
        config: `driver`, `store` (its address), `call` and `checkpoint_s` (see `Job`), `run` (the
            job's folder), `device` (of torch), `fits` (at once), `first_rank` (see `run_group`) and
            `images` (references to the tasks, nested).
    """
    # Imports torch, in the worker alone: the entrypoint and Ray Train's controller import this
    # module too, and start faster without.
    driver = config["driver"]
    try:
        from zoo_ray.members.fit import shortages

        store = Store(config["store"])
    except Exception as error:  # packages or credentials that this node lacks
        ask(driver.cannot_work, FailedFit.of(error).message)
        return
    fits: int = config["fits"]
    rank = (config["first_rank"] + ray.train.get_context().get_world_rank()) * fits
    process = uuid.uuid4().hex
    workers = [
        _worker(config["device"], rank=rank + number, process=process) for number in range(fits)
    ]
    told = FitLog(config["run"])
    if fits == 1:
        _pull(workers[0], config, store, told)
    else:
        threads = ThreadPoolExecutor(fits)
        slots = [threads.submit(_pull, worker, config, store, told) for worker in workers]
        # Where one slot fails the process ends, and is replaced: all of them would fail.
        for slot in wait(slots, return_when=FIRST_EXCEPTION).done:
            slot.result()
    if shortages(config["device"]):
        raise RuntimeError("a GPU had too little memory: a new process takes this one's place")


def _pull(worker: Worker, config: dict[str, Any], store: Store, told: FitLog) -> None:
    """A worker's life: lease, fit, publish, until there is nothing left, or a GPU's memory was too
    little for once: the bits of this process's fits may be others from then on."""
    from zoo_ray.fitting import fit_from_store
    from zoo_ray.members.fit import is_device_lost, release_memory, shortages
    from zoo_ray.members.memory import is_full

    driver = config["driver"]
    (references,) = config["images"]
    tasks: dict[str, Task] = {}
    device = config["device"]
    while not shortages(device):
        if is_full(device):  # what would wait here, too, is better off with another worker
            time.sleep(_FULL_S)
            continue
        wanted = ask(driver.lease, worker)
        if wanted is None:
            break
        digest = wanted.spec.digest
        told.begin(wanted)
        wants = [share.digest for share in wanted.spec.tasks]
        for task in wants:
            if task not in tasks:
                tasks[task] = ray.get(references[task])
        answers: list[Any] = []

        def report(
            progress: FitProgress, digest: str = digest, answers: list[Any] = answers
        ) -> None:
            """Say how the fit goes, and do as the answers to earlier reports say."""
            answers.append(driver.report.remote(worker, digest, progress))
            answered, answers[:] = ray.wait(answers, num_returns=len(answers), timeout=0)
            heard = [_answer(reference) for reference in answered]
            if "drop" in heard:
                raise _Dropped
            if "yield" in heard:
                raise CutShort

        try:
            member = fit_from_store(
                spec=wanted.spec,
                tasks=[tasks[task] for task in wants],
                store=store,
                device=device,
                checkpoint_s=config["checkpoint_s"],
                on_progress=report,
            )
            store.publish_member(wanted.spec, member, call=config["call"])
        # What was dropped leaves its checkpoints to be collected: another run may want the member.
        except (CutShort, _Dropped):
            told.end("left")
            ask(driver.give_back, worker, digest)
        except UserError as error:  # of the store: it would say the same of the next spec
            told.end("failed")
            ask(driver.cannot_work, str(error))
            return
        except Exception as error:  # in a network, say: another worker fares no better
            told.end("failed")
            if is_device_lost(error):
                raise  # it would fail every fit of this process
            ask(driver.failed, worker, digest, FailedFit.of(error))
        else:
            told.end("is published", seconds=member.fit_s)
            ask(driver.published, digest)
        # After the exception and what its traceback holds are gone.
        release_memory()


def _worker(device: str, *, rank: int, process: str) -> Worker:
    context = ray.get_runtime_context()
    node = context.get_node_id()
    computes_on = os.environ.get("CUDA_VISIBLE_DEVICES") if device == "cuda" else process
    return Worker(
        rank=rank,
        id=uuid.uuid4().hex,
        node=node,
        place=f"{node} {computes_on}",
        handle=context.current_actor,
    )


def _answer(reference: Any) -> Answer:
    try:
        answer: Answer = ray.get(reference)
        return answer
    except ray.exceptions.RayError:  # the driver restarts: it will want the fit
        return "go on"
