"""The house rules of the design: what may import what."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A module belongs to the longest name that it starts with, and imports from
# its own layer and those below.
LAYERS = [
    {
        "zoo_ray",
        "zoo_ray.counts",
        "zoo_ray.diary",
        "zoo_ray.errors",
        "zoo_ray.keys",
        "zoo_ray.own_code",
        "zoo_ray.rules",
        "zoo_ray.stops",
        "zoo_ray.task",
    },
    {"zoo_ray.networks"},
    {"zoo_ray.address", "zoo_ray.config", "zoo_ray.offer", "zoo_ray.published"},
    {"zoo_ray.search.config", "zoo_ray.search.space"},
    {"zoo_ray.benchmarks"},
    {"zoo_ray.members"},
    {"zoo_ray.zoo"},
    {"zoo_ray.store"},
    {
        "zoo_ray.progress",
        "zoo_ray.lines",
        "zoo_ray.replay",
        "zoo_ray.run_tables",
        "zoo_ray.claims",
        "zoo_ray.timeline",
        "zoo_ray.failures",
    },
    {"zoo_ray.search", "zoo_ray.outcomes"},
    {"zoo_ray.fitting"},
    {"zoo_ray.sequential", "zoo_ray.stored", "zoo_ray.stored_studies"},
    {"zoo_ray.cluster"},
    {"zoo_ray.plan"},
    {"zoo_ray.report"},
    {
        "zoo_ray.run",
        "zoo_ray.tuning",
        "zoo_ray.comparison",
        "zoo_ray.competition",
        "zoo_ray.notebook",
    },
    {"run_cluster"},
]


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the project, parsed, by dotted name."""
    found = {}
    for path in [ROOT / "run_cluster.py", *sorted((ROOT / "zoo_ray").rglob("*.py"))]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """All that a module imports, inside functions too; our own modules by their full names."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules() else node.module)
    return frozenset(found)


def outside(name: str) -> set[str]:
    """The packages other than our own and the standard library that a module imports."""
    tops = {imported.partition(".")[0] for imported in imports(name)}
    return tops - {"zoo_ray"} - set(sys.stdlib_module_names)


def ours(name: str) -> set[str]:
    return {imported for imported in imports(name) if imported in modules()}


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer(name: str) -> int:
    level = {entry: level for level, entries in enumerate(LAYERS) for entry in entries}
    homes = [entry for entry in level if is_within(name, entry)]
    home = max(homes, key=len)
    assert home != "zoo_ray" or name == "zoo_ray", f"{name} is in no layer: give it one"
    return level[home]


def loaded_after_importing(*names: str) -> set[str]:
    """The packages that a fresh process holds after these imports."""
    script = f"import sys, {', '.join(names)}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PYTHONPATH": "."},
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down_the_layers(name):
    for imported in ours(name):
        assert layer(imported) <= layer(name), f"{name} imports {imported}"


def test_imports_never_go_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for imported in sorted(ours(name)):
                visit(imported, (*path, name))
            done.add(name)

    for name in modules():
        visit(name, ())


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_the_cluster_imports_ray(name):
    assert "ray" not in outside(name) or is_within(name, "zoo_ray.cluster")


PURE = (
    *("zoo_ray.errors", "zoo_ray.keys", "zoo_ray.own_code", "zoo_ray.rules", "zoo_ray.task"),
    *("zoo_ray.members", "zoo_ray.networks", "zoo_ray.zoo"),
)


@pytest.mark.parametrize("name", [name for name in sorted(modules()) if is_within(name, *PURE)])
def test_the_pure_half_needs_numpy_and_torch_alone(name):
    # Triton comes with torch where there are GPUs; a network asks whether it is there.
    with_torch = {"triton"} if name.startswith("zoo_ray.networks.triton_") else set()
    assert outside(name) <= {"numpy", "torch"} | with_torch
    assert all(is_within(imported, *PURE) for imported in ours(name))


@pytest.mark.parametrize("name", [n for n in sorted(modules()) if is_within(n, "zoo_ray.zoo")])
def test_the_zoo_names_no_torch(name):
    assert outside(name) <= {"numpy"}


def test_the_zoo_loads_neither_torch_nor_ray():
    names = [name for name in modules() if is_within(name, "zoo_ray.zoo")]
    assert not loaded_after_importing(*names) & {"torch", "ray", "pyarrow", "pydantic"}


def test_the_driver_loads_no_torch():
    assert "torch" not in loaded_after_importing("zoo_ray.cluster.driver")


def test_a_run_loads_neither_torch_nor_ray_before_it_needs_them():
    assert not loaded_after_importing("zoo_ray.run") & {"torch", "ray", "matplotlib"}


def test_the_command_line_starts_light():
    assert not loaded_after_importing("run_cluster") & {"torch", "ray", "matplotlib", "pyarrow"}
