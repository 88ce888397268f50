"""What a cluster's autoscaler may launch.

Ray 2.60 has a call for it that nobody answers (`get_max_resources_from_cluster_config` is always
None), so the autoscaler's own configuration is read, on the head, where jobs run.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from pydantic import BaseModel, NonNegativeInt

_CONFIG = "--autoscaling-config="
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _NodeType(BaseModel):
    resources: dict[str, float] = {}
    max_workers: NonNegativeInt | None = None


class Autoscaling(BaseModel):
    """What matters here of an autoscaler's configuration, as cluster.yaml has it."""

    available_node_types: dict[str, _NodeType]
    head_node_type: str
    max_workers: NonNegativeInt

    def most(self, resource: str) -> float:
        """How much of a resource there may be at once, on the head and on all workers."""
        kinds = dict(self.available_node_types)
        total = kinds.pop(self.head_node_type).resources.get(resource, 0.0)
        left = self.max_workers
        for kind in sorted(kinds.values(), key=lambda kind: -kind.resources.get(resource, 0.0)):
            nodes = left if kind.max_workers is None else min(left, kind.max_workers)
            total += nodes * kind.resources.get(resource, 0.0)
            left -= nodes
        return total


def launchable() -> tuple[float, float]:
    """CPUs and GPUs that the autoscaler of the joined cluster may have running, in all.

    Returns:
        Nothing of either where there is no autoscaler, where it cannot be asked, and on other
        machines than the head.
    """
    for read in (_of_ray_up, _of_kuberay):
        # Whatever is wrong with it, there may be nodes enough.
        with contextlib.suppress(Exception):
            if config := read():
                return config.most("CPU"), config.most("GPU")
    return 0.0, 0.0


def _of_ray_up() -> Autoscaling | None:
    """The file that the autoscaler was started with, if it runs on this machine."""
    address = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            words = path.read_bytes().decode(errors="replace").split("\0")
            files = [word.removeprefix(_CONFIG) for word in words if word.startswith(_CONFIG)]
            if files and address in words:
                text = Path(files[0]).expanduser().read_text(encoding="utf-8")
                return Autoscaling.model_validate(yaml.safe_load(text))
    return None


def _of_kuberay() -> Autoscaling | None:
    """The RayCluster that this pod belongs to, if its autoscaler is on."""
    name = os.environ.get("RAY_CLUSTER_NAME")
    if not name or not _NAMESPACE.is_file():
        return None
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    namespace = _NAMESPACE.read_text(encoding="utf-8").strip()
    return of_raycluster(KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}"))


def of_raycluster(resource: Mapping[str, Any]) -> Autoscaling | None:
    """The same of a RayCluster, as Kubernetes has it; None: its autoscaler is off."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    if not resource["spec"].get("enableInTreeAutoscaling"):
        return None
    return Autoscaling.model_validate(_derive_autoscaling_config_from_ray_cr(dict(resource)))
