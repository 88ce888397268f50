"""What a job takes along from the machine that submits it."""

import importlib.util
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import zoo_ray
from zoo_ray.address import expanded, is_remote, parse_address
from zoo_ray.benchmarks.datasets import WITH_PATHS
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.own_code import is_installed, is_own

OWN_KEYS = ("recipe.network", "zoo.weights")
"""Keys of a run's configuration that may name a user's own code."""

_CONFIG = "config.yaml"


@dataclass(frozen=True)
class Submission:
    """A command that is to run on a cluster.

    Attributes:
        command: as `train`.
        name: of the run, search or comparison.
        config: the command's configuration, validated, as plain values; what it leaves out is left
            to its defaults.
        options: of the command, besides its configuration and name.
        own: dotted names of the user's own code that it may want (others mean nothing).
    """

    command: str
    name: str
    config: Mapping[str, Any]
    options: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    @property
    def store(self) -> str:
        """Address of the store."""
        store: str = self.config.get("base", self.config)["store"]
        return store

    def entrypoint(self) -> str:
        """The shell's command, in the folder of the package."""
        # A name may begin with a dash.
        words = ["python", "run_cluster.py", self.command, _CONFIG, f"--name={self.name}"]
        return shlex.join([*words, "--address", "auto", *self.options])

    def to_metadata(self) -> dict[str, str]:
        """All of it as a job's metadata."""
        return {
            "zoo_ray": zoo_ray.__version__,
            "command": self.command,
            "run": self.name,
            "config": json.dumps(self.config),
            "options": json.dumps(self.options),
            "networks": json.dumps(self.own),
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, str] | None) -> "Submission | None":
        """What `to_metadata` wrote; None: somebody else's."""
        try:
            return Submission(
                command=(metadata or {})["command"],
                name=(metadata or {})["run"],
                config=json.loads((metadata or {})["config"]),
                options=tuple(json.loads((metadata or {})["options"])),
                own=tuple(json.loads((metadata or {})["networks"])),
            )
        except (KeyError, ValueError, TypeError):
            return None

    def with_paths(self, *, here: bool) -> "Submission":
        """The same with paths that hold in another working directory.

        Args:
            here: whether this machine is part of the cluster, so that its files can be read there.

        Raises:
            UserError: a path has no meaning on the cluster.
        """
        run = dict(self.config.get("base", self.config))
        benchmark = dict(run["benchmark"])
        if parse_address(run["store"]).scheme == "file":
            run["store"] = _absolute(run["store"], shown=f"store = {run['store']}", here=here)
        kind, colon, path = benchmark["dataset"].partition(":")
        if colon and kind in WITH_PATHS and not is_remote(path):
            shown = f"benchmark.dataset = {benchmark['dataset']}"
            benchmark["dataset"] = f"{kind}:{_absolute(path, shown=shown, here=here)}"
        if here:
            data_dir = benchmark.get("data_dir", BenchmarkConfig.model_fields["data_dir"].default)
            benchmark["data_dir"] = str(expanded(data_dir, "benchmark.data_dir").absolute())
        run["benchmark"] = benchmark
        config = {**self.config, "base": run} if "base" in self.config else run
        return Submission(self.command, self.name, config, self.options, self.own)


def pack(submission: Submission, folder: Path, *, script: Path) -> None:
    """Write what a job needs into an empty folder, from which it will run: the project's code, its
    configuration, and the files of the user's own code.

    Args:
        submission: the command.
        folder: where.
        script: the command line, run_cluster.py.

    Raises:
        UserError: a module of theirs is not to be found.
    """
    package = Path(zoo_ray.__file__).parent
    _copy_sources(package, folder / package.name)
    shutil.copy(script, folder / "run_cluster.py")
    (folder / _CONFIG).write_text(
        yaml.safe_dump(dict(submission.config), allow_unicode=True, sort_keys=False),
        encoding="utf-8",
    )
    modules = {name.partition(".")[0]: name for name in submission.own if is_own(name)}
    for module, name in sorted(modules.items()):
        for path in _own_modules(module, shown=f"{_key_of(name, submission)} = {name}"):
            if path.is_dir():
                _copy_sources(path, folder / path.name)
            else:
                shutil.copy(path, folder)


def _key_of(name: str, submission: Submission) -> str:
    """Which key of a command's configuration, space or options names a user's own code."""
    config = submission.config
    run, space = config.get("base", config), config.get("space", {})
    for key in OWN_KEYS:
        section, _, last = key.partition(".")
        names = [run.get(section, {}).get(last), *(space.get(key, {}).get("choice") or [])]
        if name in names or f"{key}={name}" in submission.options:
            return key
    return " or ".join(OWN_KEYS)


def _own_modules(name: str, *, shown: str) -> Iterator[Path]:
    """The file, or folder, of a module that is not installed; nothing for one that is."""
    found = importlib.util.find_spec(name)
    if found is None:
        raise UserError(
            f"{shown}: there is no module {name} in the working directory or elsewhere on Python's "
            f"path; give the command in the folder that holds {name}.py"
        )
    origin = [found.origin] if found.origin and found.has_location else []
    paths = [Path(path) for path in found.submodule_search_locations or origin]
    for path in paths:
        if name != zoo_ray.__name__ and not is_installed(path):
            yield path


def _copy_sources(package: Path, to: Path) -> None:
    for path in package.rglob("*.py"):
        target = to / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _absolute(path: str, *, shown: str, here: bool) -> str:
    if here:
        return str(expanded(path, shown).absolute())
    if not path.startswith(("/", "~")):
        raise UserError(
            f"{shown}: a folder of this machine, which the cluster does not see; give "
            "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or the absolute path of a folder that all its "
            "nodes share"
        )
    return path
