"""Trunks of a user's own."""

import importlib
import json
import os

import pytest
import torch
from toys import TRUNK

from zoo_ray import own_code
from zoo_ray.networks import build_network
from zoo_ray.networks.own import UnusableCode, build_trunk, check_trunk, trunk_key

SHAPE = (28, 20, 3)


def in_init(line):
    """The toy trunk with one more line."""
    head = "import os\nimport torch\n"
    return head + TRUNK.replace("        self.layers", f"        {line}\n        self.layers", 1)


def check(name, **arguments):
    check_trunk(name, key=trunk_key(name, arguments), image_shape=SHAPE)


def test_its_features_are_told_by_trial_and_its_weights_drawn_by_seed(write_module):
    name = f"{write_module(TRUNK)}.Tiny"
    check(name, width=3)
    key = trunk_key(name, {"width": 3})
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build_network(name, image_shape=SHAPE, classes=[2, 3], trunk_key=key))
    assert networks[0].heads.in_features == 3 * 6 * 4
    assert networks[0].trunk.training
    weights = [network.state_dict()["trunk.layers.0.weight"] for network in networks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    # A trial leaves no trace in the statistics.
    assert (networks[0].state_dict()["trunk.layers.1.running_mean"] == 0).all()


def test_the_check_leaves_torchs_generator_as_it_was(write_module):
    before = torch.get_rng_state()
    check(f"{write_module(TRUNK)}.Tiny")
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_that_find_their_size_themselves_work(write_module):
    name = f"{write_module(TRUNK.replace('nn.Flatten()', 'nn.Flatten(), nn.LazyLinear(7)'))}.Tiny"
    check(name)
    assert build_trunk(name, key=trunk_key(name, {}), image_shape=SHAPE)[1] == 7


def test_the_key_is_of_arguments_and_source(write_module):
    names = [f"{write_module(source)}.Tiny" for source in (TRUNK, TRUNK, TRUNK + "\n")]
    keys = [trunk_key(name, {"width": 3, "b": [1]}) for name in names]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] == trunk_key(names[0], {"b": [1], "width": 3})
    assert keys[0] != trunk_key(names[0], {"b": [1], "width": 4})
    assert json.loads(keys[0])["arguments"] == {"b": [1], "width": 3}


def test_another_source_than_the_keys_is_refused(write_module):
    name, other = (f"{write_module(source)}.Tiny" for source in (TRUNK, TRUNK + "\n"))
    with pytest.raises(UnusableCode, match=f"the file of {other} is not the one"):
        build_trunk(other, key=trunk_key(name, {}), image_shape=SHAPE)


def test_a_file_that_changes_later_is_what_it_was_when_it_was_loaded(write_module, tmp_path):
    """Or members would be named by a source that did not make them."""
    module = write_module(TRUNK)
    name = f"{module}.Tiny"
    key = trunk_key(name, {})
    (tmp_path / f"{module}.py").write_text(TRUNK.replace("Conv2d", "Nothing"))
    assert trunk_key(name, {}) == key
    check(name)


def test_a_file_that_changed_since_it_was_imported_is_what_it_is_now(write_module, tmp_path):
    """As in a notebook that imports a network, and then edits it."""
    module = write_module("")
    importlib.import_module(module)
    (tmp_path / f"{module}.py").write_text(TRUNK)
    check(f"{module}.Tiny")


def test_a_file_that_is_as_it_was_when_it_was_imported_is_run_once(write_module, tmp_path):
    module = write_module(TRUNK)
    os.utime(tmp_path / f"{module}.py", (0, 0))
    imported = importlib.import_module(module)
    check(f"{module}.Tiny")
    assert own_code.find_own(f"{module}.Tiny").found is imported.Tiny


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_at_all", "importing MODULE: ModuleNotFoundError: No module named 'nowher"),
        ("1 / 0", "importing MODULE: ZeroDivisionError: division by zero"),
        ("def x(:", "importing MODULE: SyntaxError: "),
        ("raise SystemExit(3)", "importing MODULE: SystemExit: 3"),
        ("", "MODULE.py has no Tiny"),
        ("Tiny = 3", "Tiny of .*MODULE.py is no subclass of torch.nn.Module"),
        ("class Tiny: pass", "Tiny of .*MODULE.py is no subclass of torch.nn.Module"),
        ("def Tiny(): pass", "Tiny of .*MODULE.py is no subclass of torch.nn.Module"),
        (
            "from torch.nn import Flatten as Tiny",
            "Tiny is defined elsewhere; give torch.nn.modules.flatten.Flatten",
        ),
        (TRUNK.replace("image_shape,", ""), r"Tiny\(image_shape=\(28, 20, 3\), ...\): TypeError: "),
        (TRUNK.replace("2], width", "0], width"), "RuntimeError: .*to have 28 channels, but got 3"),
        (TRUNK.replace("rs(images)", "rs(images).sum(0)"), r"gives torch.float32 of shape \(96"),
        (
            TRUNK.replace("rs(images)", "rs(images)[:1]"),
            r"of shape \(1, 96\) for 3 images, not a",
        ),
        (
            TRUNK.replace("rs(images)", "rs(images)[:3]"),
            r"of shape \(3, 96\) for 5 images, not a",
        ),
        (TRUNK.replace("rs(images)", "rs(images)[:, :0]"), r"of shape \(3, 0\) for 3 images"),
        (TRUNK.replace("rs(images)", "rs(images).squeeze(0)"), r"of shape \(96,\) for 1 images"),
        (TRUNK.replace("rs(images)", "rs(images).long()"), "gives torch.int64 of shape"),
        (TRUNK.replace("rs(images)", "rs(images).tolist()"), "gives a list for 3 images"),
        (TRUNK.replace("rs(images)", "rs(images)[:, :len(images)]"), "length depends on the batch"),
        (
            TRUNK + "    def get_extra_state(self): return {}",
            "_extra_state in the state_dict of MODULE.Tiny is no tensor, but a dict",
        ),
        (
            in_init("self.register_buffer('mask', torch.full((2,), -torch.inf))"),
            "mask in the state_dict of MODULE.Tiny is not finite; .* persistent=False",
        ),
        (
            in_init("self.register_buffer('low', torch.zeros(2, dtype=torch.bfloat16))"),
            "low in the state_dict of MODULE.Tiny: TypeError: Got unsupported ScalarType BFloat16",
        ),
        (
            in_init("self.noise = nn.Parameter(torch.tensor([*map(float, os.urandom(9))]))"),
            "noise in the state_dict of MODULE.Tiny is not decided by torch.manual_seed",
        ),
        (
            in_init("self.cube = nn.Conv3d(1, 1, 3)"),
            "RuntimeError: required rank 4 tensor to use channels_last format",
        ),
    ],
)
def test_what_is_no_trunk_is_refused_in_one_line(write_module, source, said):
    module = write_module(source)
    with pytest.raises(UnusableCode, match=said.replace("MODULE", module)) as caught:
        check(f"{module}.Tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_.Tiny", "there is no module no_such_module_ in the working directory"),
        ("no_such_module_.below.Tiny", "there is no module no_such_module_.below in"),
        ("json.no_such_.Tiny", "there is no module json.no_such_ in"),
        ("os.path.Tiny", "there is no module os.path in"),
        ("sys.Tiny", "there is no module sys in"),
        ("__main__.Tiny", "importing __main__: ValueError: |has no Tiny"),
    ],
)
def test_names_of_nothing_are_refused(name, said):
    with pytest.raises(UnusableCode, match=said):
        check(name)


def test_a_package_that_lacks_another_says_which(tmp_path, monkeypatch):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking/__init__.py").write_text("import nowhere_at_all")
    (tmp_path / "lacking/nets.py").write_text(TRUNK)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnusableCode, match="No module named 'nowhere_at_all'"):
        check("lacking.nets.Tiny")
