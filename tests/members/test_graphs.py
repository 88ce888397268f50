"""The steps of a GPU's graphs, as the same calls on this processor: without graphs."""

import gc
import weakref
from functools import partial

import pytest
from test_fit import COLOUR, GREY, bits, spec_of

import zoo_ray.members.fit as fit_module
import zoo_ray.members.training as training_module
from zoo_ray.members.fit import fit
from zoo_ray.members.graphs import STEPS_AT_ONCE, GraphedSteps
from zoo_ray.members.training import Training, TrainingSet, _Narrow
from zoo_ray.networks import build_network

# A GPU takes the learning rate in float32, so one that is a power of two.
EXACT = {"schedule": "constant", "lr": 2**-7, "epochs": 2}
CASES = {
    "cropped": (COLOUR, spec_of(COLOUR, batch=3, crop=True, flip=True, **EXACT)),
    "whole": (GREY, spec_of(GREY, batch=5, **EXACT)),
    "bfloat16": (COLOUR, spec_of(COLOUR, batch=7, crop=True, precision="bfloat16", **EXACT)),
    "one step an epoch": (GREY, spec_of(GREY, batch=64, **EXACT)),
}


@pytest.fixture
def graphed(monkeypatch):
    """Fits take the steps of graphs; with few batches at once, so that some are in the middle."""
    monkeypatch.setattr("zoo_ray.members.graphs.STEPS_AT_ONCE", 3)
    monkeypatch.setattr(training_module, "BATCHES_AT_ONCE", 3)

    def switch(on=True):
        monkeypatch.setattr(fit_module, "can_graph", lambda *_: on)
        monkeypatch.setattr(fit_module, "GraphedSteps", partial(GraphedSteps, capture=False))

    return switch


@pytest.mark.parametrize("case", CASES)
def test_the_steps_of_graphs_are_those_taken_one_by_one(graphed, case):
    tasks, spec = CASES[case]
    one_by_one = bits(fit(spec=spec, tasks=tasks))
    graphed()
    assert bits(fit(spec=spec, tasks=tasks)) == one_by_one


def test_graphs_go_on_from_any_step(graphed):
    tasks, spec = CASES["cropped"]
    checkpoints = []
    whole = fit(spec=spec, tasks=tasks, checkpoint_s=0, on_checkpoint=checkpoints.append)
    graphed()
    for checkpoint in checkpoints[::4]:
        assert bits(fit(spec=spec, tasks=tasks, resume=checkpoint)) == bits(whole)


@pytest.mark.parametrize("network", ["small_conv", "wrn10_1"])
def test_narrow_copies_of_all_weights_are_those_of_autocast(monkeypatch, network):
    spec = spec_of(COLOUR, network=network, batch=8, precision="bfloat16")
    usual = bits(fit(spec=spec, tasks=COLOUR))
    made = []

    def narrow(net, _, parameters):
        made.append(_Narrow(net.trunk, parameters))
        return made[-1]

    monkeypatch.setattr(_Narrow, "of", staticmethod(narrow))
    assert bits(fit(spec=spec, tasks=COLOUR)) == usual
    assert made


def test_steps_hold_no_circle_that_would_keep_a_gpus_memory():
    tasks, spec = CASES["cropped"]
    net = build_network("small_conv", image_shape=(32, 32, 3), classes=[3, 2])
    steps = GraphedSteps(Training(net, spec), TrainingSet(net, spec, tasks), capture=False)
    taken = steps.epoch(epoch=0, first=0)
    assert next(taken) == min(steps._data.steps, STEPS_AT_ONCE)
    seen = weakref.ref(steps)
    gc.disable()
    try:
        taken.close()
        del steps, taken
        assert seen() is None
    finally:
        gc.enable()
