import json
from dataclasses import fields, replace

import pytest

from zoo_ray.members.spec import FIT_VERSION, RECIPE_DEFAULTS, MemberSpec, Recipe, TaskShare

RECIPE = Recipe(
    network="small_conv",
    epochs=5,
    batch=16,
    lr=0.01,
    l2=1e-5,
    crop=True,
    flip=False,
    precision="float32",
    threads=1,
)
SPEC = MemberSpec(
    (TaskShare("a" * 64), TaskShare("b" * 64, (3, 1), 2)), RECIPE, seed=7, fit_version=1
)


def test_the_digest_is_the_same_for_ever():
    assert SPEC.digest == "45cd385b0b3b55b4148d3b268e3e1510d9bac0661467aa0c5d977e508489a3d4"


def test_a_spec_is_of_the_present_fit_version_unless_it_says_otherwise():
    assert MemberSpec(SPEC.tasks, RECIPE, seed=7).fit_version == FIT_VERSION


CHANGED_RECIPES = {
    "network": "wide_resnet",
    "epochs": 6,
    "batch": 32,
    "lr": 0.010000000000000002,
    "l2": 0.0,
    "crop": False,
    "flip": True,
    "precision": "bfloat16",
    "threads": 2,
    "dropout": 0.5,
    "trunk": "{}",
    "schedule": "constant",
    "average_flips": True,
}


@pytest.mark.parametrize("key", [field.name for field in fields(Recipe)])
def test_every_key_of_the_recipe_decides(key):
    changed = replace(SPEC, recipe=replace(RECIPE, **{key: CHANGED_RECIPES[key]}))
    assert changed.digest != SPEC.digest


@pytest.mark.parametrize(
    "changed",
    [
        replace(SPEC, seed=8),
        replace(SPEC, fit_version=2),
        replace(SPEC, tasks=SPEC.tasks[::-1]),
        replace(SPEC, tasks=SPEC.tasks[:1]),
        replace(SPEC, tasks=(TaskShare("c" * 64), SPEC.tasks[1])),
        replace(SPEC, tasks=(SPEC.tasks[0], TaskShare("b" * 64, None, 2))),
        replace(SPEC, tasks=(SPEC.tasks[0], TaskShare("b" * 64, (3, 1), 1))),
    ],
    ids=["seed", "fit_version", "order", "fewer tasks", "other task", "samples", "repeats"],
)
def test_all_else_in_a_spec_decides_too(changed):
    assert changed.digest != SPEC.digest


def test_how_a_number_is_written_does_not_decide():
    assert replace(SPEC, recipe=replace(RECIPE, lr=1e-2, l2=0.00001)).digest == SPEC.digest


def test_from_dict_is_the_inverse_of_to_dict():
    again = MemberSpec.from_dict(SPEC.to_dict())
    assert again == SPEC
    assert again.digest == SPEC.digest


def test_the_way_through_json_changes_nothing_whatever_the_order_of_keys():
    for sort_keys in (False, True):
        again = MemberSpec.from_dict(json.loads(json.dumps(SPEC.to_dict(), sort_keys=sort_keys)))
        assert again == SPEC
        assert again.digest == SPEC.digest


def test_specs_are_values():
    assert {SPEC, replace(SPEC)} == {SPEC}
    with pytest.raises(AttributeError):
        SPEC.seed = 8


def test_what_was_added_later_leaves_digests_alone():
    spec = MemberSpec((TaskShare("a"),), RECIPE, seed=1)
    assert not RECIPE_DEFAULTS.keys() & spec.to_dict()["recipe"].keys()
    dropping = replace(spec, recipe=replace(RECIPE, dropout=0.2))
    assert dropping.digest != spec.digest
    assert MemberSpec.from_dict(dropping.to_dict()) == dropping
    assert MemberSpec.from_dict(spec.to_dict()) == spec
