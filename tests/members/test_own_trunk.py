"""Fits with a trunk of the user's own."""

import hashlib
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from test_checkpoint import EPOCHS, TASKS, assert_same, checkpoints_of, next_checkpoint
from test_checkpoint import through_bytes as stored
from test_fit import bits, spec_of
from toys import TRUNK

import zoo_ray.members.training as training_module
from zoo_ray.members.fit import FitFailed, fit
from zoo_ray.networks.own import trunk_key


def own_spec(module, *, width=4, **recipe):
    name = f"{module}.Tiny"
    keys = {"network": name, "trunk": trunk_key(name, {"width": width}), "batch": 2, "lr": 0.05}
    return spec_of(TASKS, **keys | {"epochs": EPOCHS} | recipe)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fit_resumed_after_any_step_gives_the_same_bits(write_module, monkeypatch, precision):
    monkeypatch.setattr(training_module, "BATCHES_AT_ONCE", 3)
    spec = own_spec(write_module(TRUNK), precision=precision, crop=True, flip=True)
    state = torch.get_rng_state()
    member, kept = checkpoints_of(spec, TASKS)
    torch.rand(7)
    assert bits(fit(spec=spec, tasks=TASKS)) == bits(member)
    torch.set_rng_state(state)
    fit(spec=spec, tasks=TASKS)
    assert torch.equal(torch.get_rng_state(), state)
    for before, after in pairwise(kept):
        assert_same(next_checkpoint(spec, TASKS, stored(before)), after)
    for checkpoint in (kept[3], kept[-1]):
        assert bits(fit(spec=spec, tasks=TASKS, resume=stored(checkpoint))) == bits(member)


def test_what_a_module_draws_when_it_is_loaded_shifts_no_weights(write_module):
    module = write_module("import torch\nSHIFT = torch.rand(3)\n" + TRUNK)
    name = f"{module}.Tiny"
    source = hashlib.sha256(Path(sys.path[0], f"{module}.py").read_bytes()).hexdigest()
    trunk = json.dumps({"arguments": {}, "source": source})
    spec = spec_of(TASKS, network=name, trunk=trunk)
    assert module not in sys.modules
    assert bits(fit(spec=spec, tasks=TASKS)) == bits(fit(spec=spec, tasks=TASKS))


def test_source_and_arguments_decide_digest_and_weights(write_module):
    module = write_module(TRUNK)
    spec, wider = own_spec(module), own_spec(module, width=5)
    other = own_spec(write_module(TRUNK.replace("0.3", "0.6")))
    assert len({spec.digest, wider.digest, other.digest}) == 3
    weights = [fit(spec=s, tasks=TASKS).weights["heads.weight"] for s in (spec, wider, other)]
    assert weights[0].shape == weights[2].shape != weights[1].shape
    assert not np.array_equal(weights[0], weights[2])


def test_another_source_than_the_specs_fails_in_one_line(write_module):
    module, other = write_module(TRUNK), write_module(TRUNK + "\n")
    spec = own_spec(module)
    elsewhere = spec_of(TASKS, network=f"{other}.Tiny", trunk=spec.recipe.trunk)
    with pytest.raises(FitFailed, match=f"the file of {other}.Tiny is not the one that the run"):
        fit(spec=elsewhere, tasks=TASKS)


def test_what_is_drawn_in_predictions_is_drawn_alike(write_module):
    """As functional dropout is where nobody says that training is over."""
    source = TRUNK.replace("self.layers(images)", "nn.functional.dropout(self.layers(images), 0.5)")
    spec = own_spec(write_module(source), average_flips=True)
    member, kept = checkpoints_of(spec, TASKS)
    assert bits(fit(spec=spec, tasks=TASKS, resume=kept[-1])) == bits(member)


def test_weights_that_are_frozen_stay_and_those_unused_do_no_harm(write_module):
    source = TRUNK.replace(
        "        self.layers",
        "        self.unused = nn.Linear(2, 2)\n        self.layers",
        1,
    ).replace("    def forward", "        self.layers[0].requires_grad_(False)\n\n    def forward")
    spec = own_spec(write_module(source))
    member, kept = checkpoints_of(spec, TASKS)
    first, last = (kept[at].arrays["network.trunk.layers.0.weight"] for at in (0, -1))
    assert np.array_equal(first, last)
    assert bits(fit(spec=spec, tasks=TASKS, resume=kept[2])) == bits(member)
