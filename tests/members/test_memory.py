"""What a fit is said to take of a GPU's memory, and the room that fits wait for."""

import threading
from contextlib import contextmanager

import pytest
import torch
from test_fit import COLOUR, spec_of

from zoo_ray.members import memory
from zoo_ray.members.member import OutOfMemory
from zoo_ray.networks import build_network

NONE = {"alone": False, "alive": lambda: None}


def said(**recipe):
    spec = spec_of(COLOUR, **recipe)
    classes = [len(task.classes) for task in COLOUR]
    with torch.random.fork_rng():
        network = build_network(spec.recipe.network, image_shape=(32, 32, 3), classes=classes)
        return memory.fit_bytes(network, spec, COLOUR)


def test_what_a_step_keeps_is_counted_by_hand():
    """Of a sample, in float32: the images and what comes out of convolutions, norms and pools;
    pools keep positions of 8 bytes, too; the last result is kept as it lies and as a row."""
    images, sums, norms = 3 * 32**2, 80 * (30**2 + 13**2 + 4**2), 80 * (13**2 + 4**2)
    pools = 80 * (15**2 + 6**2 + 2**2)
    kept = 4 * (images + sums + norms + pools) + 8 * pools
    spec = spec_of(COLOUR)
    network = build_network("small_conv", image_shape=(32, 32, 3), classes=[3, 2])
    saved, largest = memory._footprint(network, spec, (32, 32, 3))
    assert largest == 4 * 80 * 30**2
    assert kept <= saved <= 1.05 * kept


def test_a_larger_batch_and_wider_numbers_take_more():
    assert said(batch=64) > said(batch=32) > said(batch=32, precision="bfloat16")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that has 1,000 bytes for us, of which 900 are of use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (800, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 200)
    monkeypatch.setattr(memory, "_devices", {})
    monkeypatch.setattr(memory, "_WAIT_S", 0.01)
    return "cuda"


def test_a_fit_that_never_fits_is_refused_before_it_begins(gpu):
    room = memory.room(901, device=gpu, **NONE)
    with pytest.raises(OutOfMemory, match=r"about 0\.0 GB .* recipe\.batch"), room:
        pass
    assert memory.fits_under_way() == 0


class Beside:
    """A fit in a thread of its own, that asks for room."""

    def __init__(self, needed, device, *, alone=False):
        self.waits, self.is_in, self.leave = (threading.Event() for _ in range(3))
        self._ask = {"device": device, "alone": alone, "alive": self.waits.set}
        self._needed = needed
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with memory.room(self._needed, **self._ask):
            self.is_in.set()
            self.leave.wait(30)

    def end(self):
        self.leave.set()
        self._thread.join()


@contextmanager
def beside(*given, **more):
    fit = Beside(*given, **more)
    try:
        yield fit
    finally:
        fit.end()


def test_fits_wait_until_there_is_room(gpu):
    with beside(500, gpu) as first:
        assert first.is_in.wait(30)
        with beside(300, gpu) as second:
            assert second.is_in.wait(30)
            with beside(200, gpu) as third:
                assert third.waits.wait(30)
                assert not third.is_in.is_set()
                first.end()
                assert third.is_in.wait(30)
                assert memory.fits_under_way() == 2
    assert memory.fits_under_way() == 0


def test_a_fit_that_must_be_alone_waits_for_others_and_they_for_it(gpu):
    with beside(100, gpu) as first:
        assert first.is_in.wait(30)
        with beside(100, gpu, alone=True) as alone:
            assert alone.waits.wait(30)
            assert not alone.is_in.is_set()
            first.end()
            assert alone.is_in.wait(30)
            with beside(100, gpu) as third:
                assert third.waits.wait(30)
                assert not third.is_in.is_set()
                alone.end()
                assert third.is_in.wait(30)
