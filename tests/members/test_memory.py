"""What a fit is said to take of a GPU's memory, and the room that fits wait for."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from test_fit import COLOUR, spec_of
from toys import toy_task

from zoo_ray.members import memory
from zoo_ray.members.member import CutShort, OutOfMemory

NONE = {"alone": False, "alive": lambda: None}


def said(**recipe):
    return memory.needed_memory(spec_of(COLOUR, **recipe), COLOUR)


def test_what_a_step_keeps_is_counted_by_hand():
    """Of a sample, in float32: the images and what comes out of convolutions, norms and pools;
    pools keep positions of 8 bytes, too; the last result is kept as it lies and as a row."""
    images, sums, norms = 3 * 32**2, 80 * (30**2 + 13**2 + 4**2), 80 * (13**2 + 4**2)
    pools = 80 * (15**2 + 6**2 + 2**2)
    kept = 4 * (images + sums + norms + pools) + 8 * pools
    found = memory._footprint(spec_of(COLOUR), COLOUR, lambda: None)
    assert found.largest == 4 * 80 * 30**2
    assert kept <= found.kept <= 1.05 * kept


def test_a_large_image_is_counted_by_its_pixels():
    def kept(size):
        tasks = [toy_task("rgb", classes=2, train=2, size=size, channels=3)]
        return memory._footprint(spec_of(tasks, network="wrn10_1"), tasks, lambda: None).kept

    assert kept(256) == 16 * kept(64)


def test_a_larger_batch_and_wider_numbers_take_more():
    large, wide, small = said(batch=64), said(batch=32), said(batch=32, precision="bfloat16")
    assert large.least > wide.least > small.least
    assert large.most > wide.most > small.most > small.least


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that has 1,000 bytes for us, of which 900 are of use to several fits, and is busy with
    80 at work."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (800, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    processors = SimpleNamespace(multi_processor_count=8)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: processors)
    monkeypatch.setattr(memory, "_BUSY", 10)
    monkeypatch.setattr(memory, "_devices", {})
    monkeypatch.setattr(memory, "WAIT_S", 0.01)
    return "cuda"


def under_way():
    return sum(device.fits for device in memory._devices.values())


def test_a_fit_that_never_fits_is_refused_before_it_begins(gpu):
    room = memory.room(memory.Needed(1001, 2000, 0), device=gpu, **NONE)
    with pytest.raises(OutOfMemory, match=r"0\.0 GB or more .* recipe\.batch"), room:
        pass
    assert under_way() == 0


def test_an_estimate_from_above_refuses_nobody_who_is_alone(gpu):
    with memory.room(memory.Needed(1000, 5000, 500), device=gpu, **NONE):
        assert under_way() == 1


class Beside:
    """A fit in a thread of its own, that asks for room."""

    def __init__(self, needed, device, *, alone=False, at_work=0):
        self.waits, self.is_in, self.leave = (threading.Event() for _ in range(3))
        self._ask = {"device": device, "alone": alone, "alive": self.waits.set}
        self._needed = memory.Needed(needed, needed, at_work)
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
                assert memory.is_full(gpu)
                first.end()
                assert third.is_in.wait(30)
                assert not memory.is_full(gpu)
                assert under_way() == 2
    assert under_way() == 0


def test_fits_wait_while_others_employ_all_of_a_gpu(gpu):
    with beside(100, gpu, at_work=50) as first:
        assert first.is_in.wait(30)
        with beside(100, gpu, at_work=30) as second:
            assert second.is_in.wait(30)
            with beside(100, gpu, at_work=40) as third:
                assert third.waits.wait(30)
                assert not third.is_in.is_set()
                first.end()
                assert third.is_in.wait(30)


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


def test_a_fit_that_waits_is_not_overtaken(gpu):
    with beside(500, gpu) as first:
        assert first.is_in.wait(30)
        with beside(800, gpu) as large:
            assert large.waits.wait(30)
            with beside(100, gpu) as small:
                assert small.waits.wait(30)
                assert not small.is_in.is_set()
                first.end()
                assert large.is_in.wait(30)
                assert small.is_in.wait(30)


def test_who_gives_up_waiting_holds_up_nobody(gpu):
    def give_up():
        raise CutShort

    with beside(800, gpu) as first:
        assert first.is_in.wait(30)
        waits = memory.room(memory.Needed(500, 500, 0), device=gpu, alone=False, alive=give_up)
        with pytest.raises(CutShort), waits:
            pass
        with beside(100, gpu) as second:
            assert second.is_in.wait(30)
