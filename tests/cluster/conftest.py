"""One Ray for all tests that need one."""

import logging
import os
import secrets
from pathlib import Path

import pytest

# For the commands that tests start, which join this Ray. Ray reads it when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with two CPUs."""
    from zoo_ray.cluster.session import NAMESPACE, _quiet

    _quiet()
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    import ray

    ray.init(
        address="local",  # whatever runs on this machine, or ran
        num_cpus=2,
        namespace=NAMESPACE,
        include_dashboard=True,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200_000_000,
        # For the driver of a zoo whose rule of weights is one of toys.
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
    )
    yield
    ray.shutdown()
