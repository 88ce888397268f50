"""What Ray knows of workers, and of those that are gone."""

import contextlib
from typing import Any

import ray
from ray import ActorID
from ray._private.worker import global_worker
from ray.util.state import get_actor, get_log, list_actors

_LOG_LINES = 200


def is_alive(node: str) -> bool:
    """Whether a node, by its id, is still part of the cluster."""
    # While Ray cannot tell, the node may live.
    with contextlib.suppress(Exception):
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return any(known["NodeID"] == node and known["Alive"] for known in nodes)
    return True


def end(worker: Any) -> None:
    """End a worker that hangs, by the handle of its actor."""
    with contextlib.suppress(Exception):  # it may be gone
        ray.kill(worker)


def end_controllers() -> None:
    """End what runs the worker groups of this process: actors of Ray Train's, on its machine."""
    here = ray.get_runtime_context()
    ours: Any = [
        ("class_name", "=", "TrainController"),
        ("job_id", "=", here.get_job_id()),
        ("node_id", "=", here.get_node_id()),
        ("state", "=", "ALIVE"),
    ]
    with contextlib.suppress(Exception):  # they may be gone, or all of Ray
        for actor in list_actors(_gcs_address(), filters=ours, timeout=10):
            # `ray.kill` takes a handle, which Train has. Of a process that is killed without Ray,
            # Ray prints a paragraph.
            kill: Any = global_worker.core_worker.kill_actor  # type: ignore[attr-defined]
            kill(ActorID.from_hex(actor.actor_id), True)


def is_dead(worker: Any, node: str) -> bool:
    """Whether Ray knows that a worker has ended.

    Args:
        worker: handle of its actor.
        node: where it ran.
    """
    if not is_alive(node):
        return True
    # While Ray cannot tell, the worker may live.
    with contextlib.suppress(Exception):
        actor: Any = get_actor(worker._actor_id.hex(), _gcs_address(), timeout=10)
        return actor is not None and actor.state == "DEAD"
    return False


def worker_log(worker: Any) -> str:
    """The last lines that a worker's process wrote, as far as Ray can still tell.

    Args:
        worker: handle of its actor.
    """
    parts = []
    for stream in ("out", "err"):
        lines = [f"---- worker's std{stream}"]
        # Its node may be gone, and the log with it.
        with contextlib.suppress(Exception):
            lines += get_log(
                address=_gcs_address(),
                actor_id=worker._actor_id.hex(),
                suffix=stream,
                tail=_LOG_LINES,
                timeout=10,
            )
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _gcs_address() -> str:
    # By default Ray asks the cluster that was last started on this machine, whichever that is.
    address: str = ray.get_runtime_context().gcs_address
    return address
