"""The published code's command line: its two files and its flags, as a run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo_ray.config import RunConfig, override, read_sections, validate_config
from zoo_ray.errors import UserError

FILES = {"data_config": "benchmark", "hp_config": "recipe"}
"""The sections that its files hold."""
FLAGS = {
    "epochs": ("recipe.epochs", 100),
    "replay_frac": ("zoo.replay", 1.0),
    "tasks_per_round": ("zoo.tasks_per_member", 5),
    "seed": ("zoo.seed", 100),
}
"""Our key for each of its flags, and its default, which yields to what a file says."""


def read_published(flags: Mapping[str, str], *, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run that is given as the published code takes it.

    Args:
        flags: values of `FILES` and `FLAGS`, without their dashes.
        overrides: as of `read_config`; they win over the flags.

    Raises:
        UserError: a file is not given, missing or not YAML, or a key or value is not allowed.
    """
    for flag in FILES:
        if flag not in flags:
            raise UserError(
                f"--{next(iter(flags))} without --{flag}: give --data_config and --hp_config both, "
                "or CONFIG and --set KEY=VALUE"
            )
    raw: dict[str, Any] = {}
    for flag, section in FILES.items():
        part: dict[str, Any] = {section: flags[flag]}
        read_sections(part, folder=Path(), named_by=f"--{flag}")
        raw |= part
    for flag, (key, default) in FLAGS.items():
        section, _, name = key.partition(".")
        raw.setdefault(section, {}).setdefault(name, default)
        if flag in flags:
            override(raw, f"{key}={flags[flag]}")
    for item in overrides:
        override(raw, item)
        read_sections(raw, folder=Path(), named_by=f"--set {item}")
    return validate_config(raw, source=", ".join(flags[flag] for flag in FILES))
