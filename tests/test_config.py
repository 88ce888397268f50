import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo_ray.config import RunConfig, read_config, validate_config
from zoo_ray.errors import UserError

BENCHMARK = {"dataset": "digits", "tasks": [[0, 1], [2, 3]]}
MINIMAL = yaml.safe_dump({"benchmark": BENCHMARK})


@pytest.fixture
def read(tmp_path):
    """Reads a configuration from its text."""

    def read_text(text, *overrides):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(path, overrides=overrides)

    return read_text


def problem(function, *arguments, **options):
    """The one line that a refusal gives."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    return message


# ---- what is right


def test_a_benchmark_is_all_that_is_needed(read):
    config = read(MINIMAL)
    assert config.benchmark.tasks == [[0, 1], [2, 3]]
    assert (config.recipe.epochs, config.recipe.precision) == (5, "auto")
    assert (config.zoo.mode, config.zoo.tasks_per_member, config.zoo.seed) == ("continual", 2, 0)
    assert (config.workers.count, config.store) == ("auto", "zoo_store")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), (".5e-3", 5e-4), ("1.e-2", 1e-2), ("2e0", 2.0), ("0.1", 0.1)],
)
def test_numbers_are_read_as_people_write_them(read, text, value):
    assert read(f"{MINIMAL}recipe: {{lr: {text}}}").recipe.lr == value
    assert read(MINIMAL, f"recipe.lr={text}").recipe.lr == value


def test_a_configuration_cannot_be_changed(read):
    with pytest.raises(ValueError, match="frozen"):
        read(MINIMAL).store = "elsewhere"


def test_a_configuration_survives_the_way_through_json(read):
    config = read(MINIMAL, "workers.gpus=0.5", "recipe.augment=false")
    assert validate_config(config.model_dump(mode="json"), source="again") == config


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_the_configurations_that_come_with_zoo_ray_are_valid(path):
    assert read_config(path).benchmark.tasks


# ---- benchmark and recipe in files of their own


def test_sections_may_be_files_named_relative_to_the_one_that_names_them(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/digits.yaml").write_text(yaml.safe_dump(BENCHMARK))
    (tmp_path / "parts/fast.yaml").write_text("epochs: 1\nlr: 1e-3")
    run = tmp_path / "run.yaml"
    run.write_text("benchmark: parts/digits.yaml\nrecipe: parts/fast.yaml")
    config = read_config(run, overrides=["recipe.batch=4"])
    assert config.benchmark.dataset == "digits"
    assert (config.recipe.epochs, config.recipe.lr, config.recipe.batch) == (1, 1e-3, 4)
    run.write_text(f"benchmark: {tmp_path}/parts/digits.yaml")
    assert read_config(run).benchmark.dataset == "digits"


def test_a_missing_section_file_is_named_with_the_file_that_names_it(read, tmp_path):
    message = problem(read, "benchmark: none.yaml")
    assert str(tmp_path / "run.yaml") in message
    assert str(tmp_path / "none.yaml") in message


@pytest.mark.parametrize("path", ["", ".", "'a\\0b'", '"a\\0b"', '"a\\nb"', "run.yaml/x"])
def test_a_section_file_that_is_none_is_refused(read, path):
    assert "benchmark" in problem(read, f"benchmark: {path or repr('')}")


def test_a_section_that_names_its_own_file_is_refused(read):
    assert "run.yaml" in problem(read, "benchmark: run.yaml")


# ---- --set


def test_overrides_replace_and_add_keys_in_order(read):
    config = read(
        MINIMAL,
        "zoo.seed=7",
        "zoo.seed=8",
        "recipe.l2 = 0",
        "store=elsewhere/x=y",
        "benchmark.tasks=[[4, 5]]",
        "recipe={epochs: 2}",
        "recipe.lr=1",
        "workers.count=auto",
    )
    assert config.zoo.seed == 8
    assert config.store == "elsewhere/x=y"
    assert config.benchmark.tasks == [[4, 5]]
    assert (config.recipe.epochs, config.recipe.lr, config.recipe.l2) == (2, 1.0, 1e-5)


@pytest.mark.parametrize(
    "item",
    [
        *("", "zoo", "=", "=3", ".=3", "zoo.=3", ".seed=3", "zoo..seed=3", "zoo.seed=[", "a.b=1"),
        *("zoo.seed=", "zoo.seed=two", "zoo=3", "zoo.seed={", "zoo.seed.x=3", "zoo.seed=\n\n- -"),
        *("zoo.seed=!!python/none", "zoo.seed=*a", "zoo.seed=2020-99-99", "benchmark.dataset.x=3"),
    ],
)
def test_bad_overrides_are_refused(read, item):
    message = problem(read, MINIMAL, item)
    assert item.split("=")[0].split(".")[0] in message


# ---- what is wrong in a file

WRONG_VALUES = [
    ("recipe.epoch", "5", "epoch"),
    ("recipes.epochs", "5", "recipes"),
    ("recipe.epochs", "0", "0"),
    ("recipe.epochs", "-3", "-3"),
    ("recipe.epochs", "2.0", "2.0"),
    ("recipe.epochs", "true", "True"),
    ("recipe.epochs", "many", "many"),
    ("recipe.epochs", "null", "None"),
    ("recipe.epochs", "[5]", "[5]"),
    ("recipe.epochs", "1000001", "1000001"),
    ("recipe.batch", "'16'", "16"),
    ("recipe.lr", ".nan", "nan"),
    ("recipe.lr", ".inf", "inf"),
    ("recipe.lr", "0", "0"),
    ("recipe.lr", "-0.1", "-0.1"),
    ("recipe.lr", "true", "True"),
    ("recipe.lr", "fast", "fast"),
    ("recipe.lr", "1e400", "inf"),
    ("recipe.l2", "-1e-5", "-1e-05"),
    ("recipe.l2", "-.inf", "-inf"),
    ("recipe.l2", "false", "False"),
    ("recipe.network", "resnet", "resnet"),
    ("recipe.network", "nets..Net", "nets..Net"),
    ("recipe.network", "my-nets.Net", "my-nets.Net"),
    ("recipe.network_arguments", "3", "3"),
    ("recipe.network_arguments", "[1]", "[1]"),
    ("recipe.network_arguments", "{a b: 1}", "'a b' cannot be the name of an argument"),
    ("recipe.network_arguments", "{image_shape: 1}", "'image_shape' cannot be the name"),
    ("recipe.network_arguments", "{a: 2020-01-01}", "is no plain value"),
    ("recipe.network_arguments", "{a: [.nan]}", "nan is no plain value"),
    ("recipe.network_arguments", "{a: {1: 2}}", "{1: 2} is no plain value"),
    ("recipe.network_arguments", "{a: &l [*l]}", "more than ten within each other"),
    ("recipe.network_arguments", "{a: 9223372036854775808}", "is no plain value"),
    ("recipe.schedule", "linear", "linear"),
    ("recipe.average_flips", "1", "1"),
    ("recipe.augment", "maybe", "maybe"),
    ("recipe.precision", "float16", "float16"),
    ("recipe.threads", "0", "0"),
    ("benchmark.dataset", "3", "3"),
    ("benchmark.dataset", "''", "''"),
    ("benchmark.tasks", "[]", "[]"),
    ("benchmark.tasks", "[[]]", "[]"),
    ("benchmark.tasks", "[0, 1]", "0"),
    ("benchmark.tasks", "[[0, -1]]", "-1"),
    ("benchmark.tasks", "[[0, true]]", "(task 1, class 2) = True: a class is"),
    ("benchmark.tasks", "[[0], [a, null], [no]]", "(task 2, class 2) = None: a class is"),
    ("benchmark.tasks", "[[0], [null], [no]]", "in quotes where YAML takes it for something else"),
    ("benchmark.tasks", "[[0], [null], [no]]", "(and 1 more problem)"),
    ("benchmark.rotate", "[0, 400]", "(item 2) = 400"),
    ("benchmark.1", "2", "1 = 1: Keys should be strings"),
    ("benchmark.tasks", "[[0, 1.0]]", "1.0"),
    ("benchmark.tasks", "[[0, 1.5]]", "1.5"),
    ("benchmark.tasks", "[[0, 1], [2, 2]]", "task 2 names class 2 twice"),
    ("benchmark.validation", "1", "1"),
    ("benchmark.validation", "-0.1", "-0.1"),
    ("benchmark.validation", "false", "False"),
    ("zoo.mode", "paper", "paper"),
    ("zoo.tasks_per_member", "0", "0"),
    ("zoo.members_per_episode", "1.5", "1.5"),
    ("zoo.seed", "-1", "-1"),
    ("zoo.seed", "9223372036854775808", "9223372036854775808"),
    ("zoo.seed", "yes", "True"),
    ("zoo", "[1, 2]", "[1, 2]"),
    ("zoo", "null", "None"),
    ("workers.count", "-1", "-1"),
    ("workers.count", "two", "two"),
    ("workers.count", "true", "True"),
    ("workers.gpus", "1.5", "1.5"),
    ("workers.gpus", "-1", "-1"),
    ("workers.gpus", "true", "True"),
    ("workers.gpus", "1e-5", "1e-05"),
    ("workers.cpus", "5e-324", "5e-324"),
    ("workers.cpus", ".nan", "nan"),
    ("store", "''", "''"),
    ("store", "2020-01-01", "2020"),
    ("store", "{a: b}", "{'a': 'b'}"),
]


@pytest.mark.parametrize(("key", "value", "shown"), WRONG_VALUES)
def test_a_wrong_value_is_named_with_file_and_key(read, tmp_path, key, value, shown):
    section, _, name = key.partition(".")
    written = {"benchmark": {"dataset": "digits", "tasks": "[[0, 1], [2, 3]]"}}
    if name:
        written.setdefault(section, {})[name] = value
    else:
        written[section] = value
    lines = []
    for at, keys in written.items():
        lines.append(f"{at}:" if isinstance(keys, dict) else f"{at}: {keys}")
        lines += [f"  {k}: {v}" for k, v in keys.items()] if isinstance(keys, dict) else []
    message = problem(read, "\n".join(lines))
    assert message.startswith(str(tmp_path / "run.yaml"))
    unknown = f"unknown key {section if section == 'recipes' else key};"
    assert unknown in message or re.search(rf" {key}( \([^)]*\))? = ", message)
    assert shown in message


def test_a_search_is_no_run(read):
    with pytest.raises(UserError, match="this is a search, not a run; tune takes it"):
        read("{base: run.yaml, space: {}}")


def test_an_unknown_key_is_told_which_keys_there_are(read):
    message = problem(read, f"{MINIMAL}zoo: {{sead: 3}}")
    assert "unknown key zoo.sead" in message
    assert "seed" in message


@pytest.mark.parametrize("key", ["learning rate", "lr-0", "é?", "1"])
def test_an_unknown_key_is_named_whatever_it_looks_like(read, key):
    assert f"recipe.{key}" in problem(read, f"{MINIMAL}recipe: {{{key!r}: 3}}")


@pytest.mark.parametrize("zoo", ["", " 3", " [1]"])
def test_a_section_that_is_no_mapping_is_told_which_keys_it_has(read, zoo):
    message = problem(read, f"{MINIMAL}zoo:{zoo}")
    assert "expected a mapping of keys to values, with keys such as mode and " in message
    assert "dictionary" not in message
    assert "such as dataset and tasks" in problem(read, MINIMAL, "benchmark=3")


def test_one_override_needs_no_list(tmp_path):
    (tmp_path / "run.yaml").write_text(MINIMAL)
    assert read_config(tmp_path / "run.yaml", overrides="zoo.seed=3").zoo.seed == 3


def test_what_is_no_path_is_refused():
    assert "{} is no path; give the path of a YAML file" in problem(read_config, {})


def test_a_missing_key_is_named(read):
    assert "benchmark is missing" in problem(read, "zoo: {seed: 1}")
    assert "benchmark.tasks is missing" in problem(read, "benchmark: {dataset: digits}")


def test_flips_without_crops_are_refused(read):
    message = problem(read, f"{MINIMAL}recipe: {{flip: true, augment: false}}")
    assert "flip: true needs augment" in message


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("{network_arguments: {width: 3}}", "small_conv takes none"),
        ("{network: wrn16_4, network_arguments: {width: 3}}", "wrn16_4 takes none"),
        ("{network: nets.Tiny, dropout: 0.1}", "dropout is for wide residual networks"),
    ],
)
def test_keys_of_another_network_are_refused(read, recipe, said):
    assert said in problem(read, f"{MINIMAL}recipe: {recipe}")


def test_arguments_of_ones_own_network_are_plain_values(read):
    text = "{widths: [8, 16], act: gelu, deep: {a: [null, true, 1e-3]}}"
    recipe = f"recipe: {{network: nets.Tiny, network_arguments: {text}}}"
    config = read(f"{MINIMAL}{recipe}", "recipe.network_arguments.width=3")
    expected = {"widths": [8, 16], "act": "gelu", "deep": {"a": [None, True, 1e-3]}, "width": 3}
    assert config.recipe.network_arguments == expected


def test_several_problems_are_counted(read):
    message = problem(read, f"{MINIMAL}recipe: {{epochs: 0, batch: 0, lr: 0}}")
    assert "2 more problems" in message


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "- 1", "3", "text", "[", "{", "a: b: c", "\tx: 1", "? [1]\n: 2", "'open"),
        *("1: 2", "benchmark: 1\n  zoo: 2", "%", "a: !!python/object:os.system x", "a: !what x"),
        *(
            "a: *nowhere",
            "--- 1\n--- 2",
            "{[1]: 2}",
            "a: 2020-99-99",
            "a: !!int x",
            "a: !!binary x",
        ),
        *("zoo: {seed: 1, seed: 2}", "zoo: {}\nzoo: {}", "[" * 5000, "a: " + "9" * 5000),
        *(b"\x00\x01", b"\xff\xfe", b"\x89PNG\r\n", b"a: \x07", "é: 1".encode("latin-1")),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_text_that_is_no_mapping_is_refused_with_its_file(read, tmp_path, text):
    assert str(tmp_path / "run.yaml") in problem(read, text)


def test_a_key_given_twice_is_named_with_its_line(read):
    message = problem(read, f"{MINIMAL}zoo:\n  seed: 1\n  seed: 2\n")
    line = len(MINIMAL.splitlines()) + 3
    assert f"line {line}: key 'seed' is given twice" in message


@pytest.mark.parametrize(
    "path", ["nowhere.yaml", ".", "run.yaml/below", "a\0b", "x" * 300, "/dev/zero"]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, path):
    (tmp_path / "run.yaml").write_text(MINIMAL)
    problem(read_config, tmp_path / path)


def test_aliases_and_merges_work(read):
    config = read(f"{MINIMAL}recipe: &r {{lr: 0.5}}\nzoo: {{seed: 3}}\nworkers: {{}}\nstore: &s x")
    assert (config.recipe.lr, config.zoo.seed) == (0.5, 3)
    text = "benchmark: {dataset: digits, tasks: [&t [0, 1], *t]}"
    assert read(text).benchmark.tasks == [[0, 1], [0, 1]]


DEEP = "[&a0 [x], " + ", ".join(f"&a{n} [*a{n - 1}]" for n in range(1, 3000)) + "]"


@pytest.mark.parametrize(
    "text",
    [f"store: {DEEP}", "store: &a [*a]", "zoo: &a {seed: *a}", "store: 0x" + "f" * 9000],
    ids=["deep", "recursive list", "recursive mapping", "huge number"],
)
def test_values_that_cannot_be_shown_are_refused_all_the_same(read, tmp_path, text):
    message = problem(read, f"{MINIMAL}{text}")
    assert str(tmp_path / "run.yaml") in message
    assert len(message) < 1000


def test_a_yaml_bomb_does_not_go_off(tmp_path):
    """Sixty lists, each twice the one before it: a few lines, but 2^60 values if written out."""
    doublings = ", ".join(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))
    path = tmp_path / "bomb.yaml"
    bomb = f"[&a0 [x], {doublings}]"
    path.write_text(f"{MINIMAL}recipe: {{network: a.B, network_arguments: {{a: {bomb}}}}}")
    assert "more than 1,000 values" in problem(read_config, path)
    path.write_text(f"{MINIMAL}store: {bomb}")
    # In a process of its own, which can be stopped.
    done = subprocess.run(
        [sys.executable, "run_cluster.py", "check", path],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert str(path) in done.stderr


# ---- anything at all


def sections():
    keys = {
        name: sorted(field.annotation.model_fields)
        for name, field in RunConfig.model_fields.items()
        if name != "store"
    }
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["auto", "digits", "float32", "small_conv", "isolated", 10**400])
    )
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=6,
    )
    section = {
        name: st.dictionaries(st.sampled_from(names) | st.text(max_size=4), values, max_size=5)
        for name, names in keys.items()
    }
    whole = {name: inner | values for name, inner in section.items()} | {"store": values}
    return st.fixed_dictionaries({}, optional=whole) | st.dictionaries(st.text(), values)


@given(sections())
@settings(max_examples=300)
def test_any_mapping_is_a_configuration_or_one_line(raw):
    refusal = None
    try:
        config = validate_config(raw, source="fuzz.yaml")
    except UserError as error:
        refusal = str(error)
    if refusal is None:
        assert validate_config(config.model_dump(), source="again") == config
    else:
        assert refusal.startswith("fuzz.yaml: ")
        assert len(refusal.splitlines()) == 1


@given(st.text(alphabet="ab:{}[]&*!|>-'\"#,?\n\t 01.e~<=\\"), st.text(alphabet="az.=[]{}&*0 \n"))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_configuration_or_one_line(read, text, item):
    for call in (lambda: read(text), lambda: read(MINIMAL, item)):
        with contextlib.suppress(UserError):
            call()
