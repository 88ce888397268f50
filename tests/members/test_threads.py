"""Several fits at once in one process, as on a GPU."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_fit import COLOUR, GREY, bits, spec_of

from zoo_ray.members.fit import fit
from zoo_ray.members.member import CutShort
from zoo_ray.members.predict import own_generators, torch_settings

FITS = [
    (GREY, spec_of(GREY, seed=1, epochs=2)),
    (COLOUR, spec_of(COLOUR, seed=2, network="wrn10_1", dropout=0.3)),
    (COLOUR, spec_of(COLOUR, seed=3, network="wrn10_1", dropout=0.3)),
    (GREY, spec_of(GREY, seed=4, precision="bfloat16")),
]


def test_fits_in_threads_have_the_bits_of_fits_alone():
    """Those with dropout draw from torch's generators, of which a process has one."""
    alone = [bits(fit(spec=spec, tasks=tasks)) for tasks, spec in FITS]
    with ThreadPoolExecutor(len(FITS)) as threads:
        members = threads.map(lambda one: fit(spec=one[1], tasks=one[0]), FITS)
        assert [bits(member) for member in members] == alone


def test_settings_last_until_the_last_thread_has_done_with_them():
    before = torch.are_deterministic_algorithms_enabled()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with torch_settings(threads=1):
            inside.set()
            leave.wait(30)

    with torch_settings(threads=1):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(30)
    assert torch.are_deterministic_algorithms_enabled()
    leave.set()
    thread.join()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_fit_that_waits_for_the_generators_tells_that_it_lives_and_can_be_cut_short(monkeypatch):
    monkeypatch.setattr("zoo_ray.members.fit._PROGRESS_INTERVAL_S", 0.01)
    monkeypatch.setattr("zoo_ray.members.predict.WAIT_S", 0.02)
    told = []

    def stop(progress):
        told.append(progress)
        raise CutShort

    taken, leave = threading.Event(), threading.Event()

    def hold():
        with own_generators():
            taken.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    try:
        tasks, spec = FITS[0]
        with pytest.raises(CutShort):
            fit(spec=spec, tasks=tasks, on_progress=stop)
    finally:
        leave.set()
        thread.join()
    assert told == [(0, spec.recipe.epochs, None)]
