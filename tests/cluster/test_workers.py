"""A worker's life, without Ray: what it does about its GPU's memory."""

from types import SimpleNamespace

import pytest
from test_leases import wanted, worker

import zoo_ray.cluster.workers as workers_module
import zoo_ray.fitting as fitting_module
import zoo_ray.members.fit as fit_module
import zoo_ray.members.memory as memory_module
from zoo_ray.failures import FailedFit
from zoo_ray.members.member import OutOfMemory

DRIVER = SimpleNamespace(lease="lease", failed="failed")


@pytest.fixture
def pulled(monkeypatch):
    """What a worker process asks of the driver; a fit that runs out of memory is a shortage."""
    asked, short = [], []

    def ask(method, *arguments):
        asked.append((method, *arguments[1:]))
        return wanted(len(asked)) if method == "lease" else None

    def fit(**_):
        short.append("of memory")
        raise OutOfMemory("too little")

    monkeypatch.setattr(workers_module, "ask", ask)
    monkeypatch.setattr(workers_module, "FitLog", lambda _: told)
    monkeypatch.setattr(workers_module, "Store", lambda _: None)
    monkeypatch.setattr(workers_module, "_worker", lambda _, *, rank, **__: worker(rank))
    context = SimpleNamespace(get_world_rank=lambda: 0)
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr("ray.get", lambda reference: reference)
    monkeypatch.setattr(fitting_module, "fit_from_store", fit)
    monkeypatch.setattr(fit_module, "shortages", lambda _: len(short))
    told = SimpleNamespace(begin=lambda _: None, end=lambda *_, **__: None)

    def pull(fits):
        images = [{"task": None}]
        config = {"driver": DRIVER, "store": "", "call": "", "run": "", "device": "cuda"}
        more = {"first_rank": 0, "checkpoint_s": 60.0, "images": images}
        with pytest.raises(RuntimeError, match="too little memory: a new process takes this"):
            workers_module.pull({**config, **more, "fits": fits})
        return asked

    return pull


def test_it_tells_of_the_fit_and_makes_room_for_another_process(pulled):
    (lease, failed) = pulled(1)
    assert lease == ("lease",)
    assert failed[:2] == ("failed", wanted(1).spec.digest)
    assert isinstance(failed[2], FailedFit)
    assert failed[2].out_of_memory


def test_it_takes_no_fit_that_would_wait_for_another(pulled, monkeypatch):
    waiting = [True, True, False]
    monkeypatch.setattr(memory_module, "is_full", lambda _: waiting.pop(0))
    assert [method for method, *_ in pulled(1)] == ["lease", "failed"]
    assert waiting == []


def test_no_thread_of_it_begins_another_fit(pulled):
    asked = [method for method, *_ in pulled(3)]
    assert asked.count("lease") == asked.count("failed") <= 3
