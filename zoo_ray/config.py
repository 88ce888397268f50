"""What a run is: read from YAML, overridden from the command line, validated at the door."""

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from zoo_ray.address import is_remote, parse_address
from zoo_ray.counts import counted
from zoo_ray.errors import UserError, without_credentials
from zoo_ray.keys import unit_intervals
from zoo_ray.networks import parse_wide_resnet
from zoo_ray.own_code import is_own
from zoo_ray.rules import Mode, Rules

Auto = Literal["auto"]
# Every number of a configuration is bounded: a value past these is a slip of the finger, and would
# otherwise surface much later as an overflow or as a fit that never ends.
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


Number = Annotated[float, Field(strict=True)]


def _what_ray_can_count(value: float) -> float:
    if 0 < value < 0.0001:
        raise ValueError("the least that Ray can give, other than 0, is 0.0001")
    return value


Resources = Annotated[Number, Field(ge=0, le=1024), AfterValidator(_what_ray_can_count)]
Fraction = Annotated[Number, Field(ge=0, lt=1, allow_inf_nan=False)]


S = TypeVar("S", bound=BaseModel)

# A file that is longer is something else: images, or a device that never ends.
_MAX_CHARACTERS = 1_000_000


class Section(BaseModel):
    """A mapping of a configuration: no other keys, no changes, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ClassNumber = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
ClassName = Annotated[str, Field(min_length=1, max_length=1000)]


def _names_a_class(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(
            "a class is a number from 0 or a name, which goes in quotes where YAML takes it for "
            "something else, as 'null' or 'no'"
        )
    return value


Class = Annotated[ClassNumber | ClassName, BeforeValidator(_names_a_class)]
_WARPED = {"rotated_mnist": ("rotate", 10, 360), "permuted_mnist": ("permute", 1, 10**6)}


def _height_and_width(value: Any) -> Any:
    size = (value, value) if type(value) is int else value
    if not (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(side) is int and 8 <= side <= 1024 for side in size)
    ):
        raise ValueError("allowed is one number, or [height, width], of 8 to 1024 pixels")
    return tuple(size)


class BenchmarkConfig(Section):
    """A data set and how it is cut into an ordered stream of tasks."""

    dataset: str = Field(min_length=1)
    """`digits`, `mnist`, `fashion_mnist`, `cifar10`, `cifar100`, `mini_imagenet`; one's own as
    `folder:PATH` (image files, a folder for each class), `npz:PATH` (a file of numpy arrays),
    `parquet:PATH` or `idx:PATH`, where a path may be an address as of `store`; `arrays`: those
    given in Python."""
    tasks: list[Annotated[list[Class], Field(min_length=1)]] = Field(min_length=1)
    """Class numbers, or names, of each task, in the order in which the tasks arrive."""
    order_seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None
    """Decides a random order in which tasks arrive instead, another one for a longer list; null: as
    they are given."""
    rotate: list[Annotated[Number, Field(ge=-360, le=360)]] | None = None
    """Degrees by which each task's images are turned, anticlockwise; null: none are."""
    permute: list[Annotated[int, Field(ge=0, le=1_000_000, strict=True)]] | None = None
    """Number of the order in which each task's pixels are put; 0 leaves them; null: all 0."""
    label_noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the training labels (after the validation split) that a uniform draw replaces."""
    noise_seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    """Decides which labels are replaced, and by which."""
    samples_per_class: Count | None = None
    """The first so many training samples of each class are used; null: all of them."""
    test_share: Annotated[Number, Field(gt=0, lt=1)] = 0.2
    """Share of each class's samples set aside as the test split, of data that have none: at least
    one, and at least one stays."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    """Decides which samples are the test split."""
    image_size: Annotated[tuple[int, int], BeforeValidator(_height_and_width)] | None = None
    """Height and width, of 8 to 1024 pixels, to which every image is scaled, so that it covers
    them, and cut at its centre; one number is both; null: images stay, and must be of one size."""
    validation: Fraction = 0.0
    """Share of each class's training samples set aside as the task's validation part."""
    data_dir: str = Field(default="data", min_length=1)
    """Where torchvision keeps the data sets that it downloads, and what comes from buckets is."""
    image_column: str | None = None
    """Image column of a Parquet data set; found by its type if not given."""
    label_column: str | None = None
    """Label column of a Parquet data set; found by its type if not given."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_original_names_them(cls, raw: Any) -> Any:
        """The published code's `rotated_mnist` and `permuted_mnist`: class y of its task x is
        10 x + y."""
        if not isinstance(raw, dict) or raw.get("dataset") not in [*_WARPED]:
            return raw
        key, step, turn = _WARPED[raw["dataset"]]
        if key in raw:
            raise ValueError(f"dataset = {raw['dataset']} says {key} itself; use mnist with {key}")
        tasks: Any = raw.get("tasks")
        known = isinstance(tasks, list) and all(
            isinstance(classes, list)
            and classes
            and all(type(label) is int and 0 <= label < 10**7 for label in classes)
            and len({label // 10 for label in classes}) == 1
            for classes in tasks
        )
        if not known:
            raise ValueError(
                f"dataset = {raw['dataset']}: task x has the classes 10 x + y of the digits y"
            )
        return raw | {
            "dataset": "mnist",
            "tasks": [[label % 10 for label in classes] for classes in tasks],
            key: [classes[0] // 10 * step % turn for classes in tasks],
        }

    @field_validator("dataset")
    @classmethod
    def _names_no_credentials(cls, dataset: str) -> str:
        path = dataset.partition(":")[2]
        if is_remote(path):
            parse_address(path, key="benchmark.dataset")
        return dataset

    @field_validator("tasks")
    @classmethod
    def _classes_are_distinct(cls, tasks: list[list[int | str]]) -> list[list[int | str]]:
        for position, classes in enumerate(tasks):
            twice = [label for label in classes if classes.count(label) > 1]
            if twice:
                raise ValueError(
                    f"task {position + 1} names class {twice[0]} twice; once is enough"
                )
        return tasks

    @model_validator(mode="after")
    def _warps_every_task(self) -> "BenchmarkConfig":
        for key, values in (("rotate", self.rotate), ("permute", self.permute)):
            if values is not None and len(values) != len(self.tasks):
                raise ValueError(
                    f"{key} has {counted(len(values), 'value')}, for "
                    f"{counted(len(self.tasks), 'task')}; give one each"
                )
        return self

    @property
    def arrivals(self) -> list[int]:
        """Positions in `tasks`, in the order in which the tasks arrive."""
        given = range(len(self.tasks))
        if self.order_seed is None:
            return list(given)
        drawn = unit_intervals("order", self.order_seed, count=len(given))
        return sorted(given, key=drawn.__getitem__)


_ORIGINAL_KEYS = {"model": "network", "l2_reg": "l2"}
_ORIGINAL_NETWORKS = {"conv": "small_conv"}


def _renamed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the published code's keys as ours."""
    renamed = dict(recipe)
    for key, new in _ORIGINAL_KEYS.items():
        if key in renamed:
            if new in renamed:
                raise ValueError(f"{key} and {new} are the same; give one")
            value = renamed.pop(key)
            is_name = key == "model" and isinstance(value, str)
            renamed[new] = _ORIGINAL_NETWORKS.get(value, value) if is_name else value
    return renamed


def _are_plain(arguments: Any) -> Any:
    """A mapping of names to plain values, and few: a YAML alias can stand for more than can ever be
    written out."""
    if not isinstance(arguments, dict):
        raise ValueError("Input should be a mapping of names to values")
    for name in arguments:
        if not isinstance(name, str) or not name.isidentifier() or name == "image_shape":
            raise ValueError(f"{shown(name)} cannot be the name of an argument")
    left = [(arguments, 0)]
    for value, depth in left:  # which grows
        size = len(value) if isinstance(value, dict | list) else 0
        if len(left) + size > 1000 or depth > 10:
            raise ValueError("that is more than 1,000 values, or more than ten within each other")
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            left += [(below, depth + 1) for below in value.values()]
        elif isinstance(value, list):
            left += [(below, depth + 1) for below in value]
        elif not (
            value is None
            or isinstance(value, bool | str)
            or (isinstance(value, int) and abs(value) < 2**63)
            or (isinstance(value, float) and math.isfinite(value))
        ):
            raise ValueError(
                f"{shown(value)} is no plain value; allowed are text, finite numbers, true, false, "
                "null, and lists and mappings of these"
            )
    return arguments


def _check_dotted(name: str, otherwise: str) -> None:
    if not (is_own(name) and all(part.isidentifier() for part in name.split("."))):
        raise ValueError(otherwise)


class RecipeConfig(Section):
    """How a member is fitted."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_original_names_them(cls, raw: Any) -> Any:
        """`model` and `l2_reg`, as in the published code's files."""
        return _renamed(raw) if isinstance(raw, dict) else raw

    network: str = "small_conv"
    """`small_conv`; a wide residual network as `wrn16_4` (depth 16, width 4); or a torch module of
    your own, as `package.module.ClassName` (see `zoo_ray.networks.own`)."""
    network_arguments: Annotated[dict[str, Any], BeforeValidator(_are_plain)] = Field(
        default_factory=dict
    )
    """What a network of your own is called with, beside the images' shape."""
    dropout: Fraction = 0.0
    """Share of the activations that a wide residual network sets to 0 within its blocks."""
    epochs: Count = 5
    """Passes over all samples of a member's tasks."""
    batch: Count = 16
    """Images of a step."""
    lr: Number = Field(default=0.01, gt=0, le=1e6)
    """Initial learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine`: the learning rate falls to 0 along a cosine, step by step."""
    l2: Number = Field(default=1e-5, ge=0, le=1e6)
    """L2 penalty (weight decay), on all parameters."""
    augment: Annotated[bool, Field(strict=True)] | Auto = "auto"
    """Random crops with zero padding 4; `auto`: unless there is just one epoch."""
    flip: Annotated[bool, Field(strict=True)] | Auto = "auto"
    """Random horizontal flips beside the crops; `auto`: for colour images."""
    average_flips: Annotated[bool, Field(strict=True)] = False
    """Whether every prediction is the mean of those on the image and on its mirror image."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on GPUs, and on processors with bfloat16 arithmetic; else float32."""
    threads: Annotated[int, Field(ge=1, le=1024, strict=True)] = 1
    """Torch threads of a fit; part of what decides its bits."""

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, network: str) -> str:
        if is_own(network):
            _check_dotted(network, "a network of your own is given as package.module.ClassName")
        elif network != "small_conv":
            parse_wide_resnet(network)
        return network

    @model_validator(mode="after")
    def _arguments_go_with_ones_own(self) -> "RecipeConfig":
        if self.network_arguments and not is_own(self.network):
            raise ValueError(
                f"network_arguments are for a network of your own; {self.network} takes none"
            )
        if self.dropout and is_own(self.network):
            raise ValueError(
                "dropout is for wide residual networks; a network of your own may take it as one "
                "of network_arguments"
            )
        return self

    @model_validator(mode="after")
    def _flips_go_with_crops(self) -> "RecipeConfig":
        if self.flip is True and self.augment is False:
            raise ValueError("flip: true needs augment: true or auto")
        return self


_DRAWN: tuple[Mode, ...] = ("continual", "uniform", "isolated")
_MODES_OF: dict[str, tuple[Mode, ...]] = {
    "members_per_episode": (*_DRAWN, "multihead", "multitask"),
    "replay": (*_DRAWN, "pairs"),
    "rounds": ("multitask",),
    "warm_start": ("multitask",),
    "closing_rounds": _DRAWN,
    "weights": ("continual", "multitask"),
}


class ZooConfig(Section):
    """How the zoo grows."""

    mode: Mode = "continual"
    """`continual`: past tasks drawn by boosting weights; `uniform`: with all weights 1;
    `isolated`: none (tasks_per_member 1); `pairs`: the newest alone and with each past one. All
    tasks there from the start: `multitask`: rounds of
    members, tasks drawn by boosting weights; `multihead`: a member on all tasks."""
    tasks_per_member: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 2
    """How many tasks a member is fitted on, the newest among them; fewer while there are fewer."""
    members_per_episode: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 1
    """Members of each episode; or per round, or in all of `multihead`."""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    """Decides draws and fits."""
    replay: Annotated[Number, Field(ge=0.0001, le=1)] = 1.0
    """Share of a past task's samples that a new member may see."""
    rounds: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = None
    """Of `multitask`; null: as many as tasks."""
    warm_start: Annotated[bool, Field(strict=True)] = False
    """Whether `multitask` begins with a member on all tasks."""
    closing_rounds: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0
    """Rounds of members after the stream, on the tasks that have the fewest."""
    weights: str = "boosting"
    """How tasks weigh in the draw: `boosting`, as in the paper; or a function of your own, as
    `package.module.function` (see `zoo_ray.zoo.weights`)."""
    sharpness: Annotated[Number, Field(ge=0, le=100)] = 1.0
    """How much losses matter to the boosting weights; 1: as in the paper."""
    count_penalty: Annotated[Number, Field(ge=0, le=100)] = 0.0
    """A task's weight is divided by its number of members to this power; 0: as in the paper."""

    @field_validator("weights")
    @classmethod
    def _is_a_rule(cls, weights: str) -> str:
        if weights != "boosting":
            _check_dotted(
                weights, "allowed are boosting, and a function as package.module.function"
            )
        return weights

    @model_validator(mode="after")
    def _sharpness_goes_with_boosting(self) -> "ZooConfig":
        if is_own(self.weights) and self.sharpness != 1:
            raise ValueError(f"sharpness = {self.sharpness} goes with weights: boosting")
        return self

    @model_validator(mode="after")
    def _goes_with_the_mode(self) -> "ZooConfig":
        for key, default in self._out_of_place(self.mode).items():
            if getattr(self, key) != default:
                modes = ", ".join(_MODES_OF[key])
                raise ValueError(
                    f"{key} = {getattr(self, key)} goes with mode: {modes}; leave it out for "
                    f"{self.mode}"
                )
        return self

    @classmethod
    def _out_of_place(cls, mode: Mode) -> dict[str, Any]:
        """The keys that have no meaning in a mode, at their defaults."""
        return {
            key: cls.model_fields[key].default
            for key, modes in _MODES_OF.items()
            if mode not in modes
        }

    def rules(self, *, tasks: int) -> Rules:
        """Which members the zoo of a stream of so many tasks has."""
        rounds = (self.rounds or tasks) if self.mode == "multitask" else 0
        return Rules(tasks=tasks, **self.model_dump() | {"rounds": rounds})

    def in_mode(self, mode: Mode) -> "ZooConfig":
        """The same in another mode, without the keys that have no meaning there."""
        return self.model_copy(update={"mode": mode, **self._out_of_place(mode)})


class WorkersConfig(Section):
    """Who fits the members."""

    count: Annotated[int, Field(ge=0, le=100_000, strict=True)] | Auto = "auto"
    """Number of Ray Train workers; 0 fits in this process, one member after the other, without
    Ray; `auto`: as many as the free GPUs, else the free CPUs, can hold."""
    gpus: Resources | Auto = "auto"
    """GPUs of one worker, a whole number or a part of one; `auto`: 1 where there are free ones."""
    cpus: Resources | Auto = "auto"
    """CPUs of one worker, more than 0 unless it has a GPU; `auto`: one per thread of the recipe,
    for each of its fits on CPUs."""
    fits: Annotated[int, Field(ge=1, le=32, strict=True)] | Auto = "auto"
    """Fits of one worker at once, in threads; `auto`: up to 8 on a GPU that is the worker's own,
    else 1. On a GPU they wait for its memory, and where fewer keep all of it busy; those with
    dropout or a network of one's own are fitted one at a time."""
    checkpoint_s: Annotated[Number, Field(gt=0, le=1e6)] = 60.0
    """A fit leaves a checkpoint in the store each time it has gone on for so many seconds."""
    speculate: Annotated[bool, Field(strict=True)] = True
    """Whether workers that would wait fit members that are likely to be wanted later."""
    fit_timeout_s: Annotated[Number, Field(gt=0, le=1e6)] = 600.0
    """A worker that is silent about its fit for so many seconds loses it to another."""

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_fraction(cls, gpus: float | Auto) -> float | Auto:
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise ValueError("above 1 only whole numbers of GPUs can be given to a worker")
        return gpus


class RunConfig(Section):
    """All that a run needs: the YAML file's top level."""

    benchmark: BenchmarkConfig
    recipe: RecipeConfig = RecipeConfig()
    zoo: ZooConfig = ZooConfig()
    workers: WorkersConfig = WorkersConfig()
    store: str = Field(default="zoo_store", min_length=1)
    """Where results last: a folder, `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`."""

    @field_validator("store")
    @classmethod
    def _is_an_address(cls, store: str) -> str:
        parse_address(store)  # an error of its own, which does not repeat the value
        return store

    @property
    def rules(self) -> Rules:
        """Which members the zoo has."""
        return self.zoo.rules(tasks=len(self.benchmark.tasks))


def read_config(path: str | Path, *, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's configuration.

    Args:
        path: a YAML file. `benchmark` and `recipe` may each be a mapping, or the path of a YAML
            file that holds one, relative to the file that names it.
        overrides: `key.key=value` items, or one, that replace or add one key each; the value is
            YAML. Paths of a benchmark or recipe given so are relative to the working directory.

    Raises:
        UserError: a file is missing or is not YAML, or a key or value is not allowed.
    """
    path = as_path(path)
    raw = read_run_mapping(path)
    if "base" in raw and "benchmark" not in raw:
        raise UserError(f"{path}: this is a search, not a run; tune takes it")
    for item in as_items(overrides):
        override(raw, item)
        read_sections(raw, folder=Path(), named_by=f"--set {item}")
    return validate_config(raw, source=str(path))


def as_path(path: str | Path) -> Path:
    """The path of a configuration.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(path, str | PathLike):
        raise UserError(f"{shown(path)} is no path; give the path of a YAML file")
    return Path(path)


def as_items(given: Iterable[Any], *, name: str = "overrides") -> list[Any]:
    """Items, of which one may be given without a list around it.

    Args:
        given: by a caller from Python.
        name: of the argument.

    Raises:
        UserError: they are no list of anything.
    """
    if not isinstance(given, Iterable):
        raise UserError(f"{name}: {shown(given)}; give a list of words, as the command takes them")
    return [given] if isinstance(given, str) else list(given)


def read_run_mapping(path: Path, *, named_by: str | None = None) -> dict[str, Any]:
    """A run's configuration as a mapping, not checked yet, its sections read from their files."""
    raw = read_mapping(path, named_by=named_by)
    read_sections(raw, folder=path.parent, named_by=str(path))
    return raw


def validate_config(raw: Mapping[str, Any], *, source: str) -> RunConfig:
    """Check a configuration that is already a mapping; `source` names it in errors."""
    return validate(RunConfig, raw, source=source)


def validate(model: type[S], raw: Mapping[str, Any], *, source: str) -> S:
    """Check a mapping from outside; `source` names it in errors.

    Raises:
        UserError: a key or value is not allowed.
    """
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise UserError(f"{source}: {_describe(error, model)}") from None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def vary(config: RunConfig, values: Mapping[str, Any], *, source: str) -> RunConfig:
    """A configuration with other values, by dotted keys.

    Raises:
        UserError: a key or value is not allowed.
    """
    raw = config.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        *path, last = key.split(".")
        node = raw
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"{source}: {key}: {part} has no keys")
        node[last] = value
    return validate_config(raw, source=source)


def read_sections(raw: dict[str, Any], *, folder: Path, named_by: str) -> None:
    """Read the sections of a run that are given as paths."""
    for section in ("benchmark", "recipe"):
        if isinstance(raw.get(section), str):
            raw[section] = read_mapping(folder / raw[section], named_by=f"{named_by}: {section}")
            if section == "recipe" and raw[section].keys().isdisjoint(_ORIGINAL_KEYS.values()):
                raw[section] = _renamed(raw[section])  # before what overrides a key of it


def read_mapping(path: Path, *, named_by: str | None = None) -> dict[str, Any]:
    """A YAML file that holds a mapping; `named_by` says in errors who named it."""
    where = f"{named_by}: {path}" if named_by else str(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise UserError(f"{where}: no such file; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{where}: cannot be read as text ({error})") from None
    if len(text) > _MAX_CHARACTERS:
        raise UserError(
            f"{where}: no configuration has more than {_MAX_CHARACTERS:,} characters; give the "
            "path of a YAML file"
        )
    try:
        raw = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: not valid YAML ({_first_line(error)})") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise UserError(f"{where}: expected a mapping of keys to values, found {shown(raw)}")
    return raw


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 1e-4 as a string, since it asks for a dot in the mantissa.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def override(raw: dict[str, Any], item: str, *, named_by: str = "--set") -> None:
    """Replace or add the key of a `KEY.KEY=VALUE` item, which errors say `named_by` gave."""
    key, equals, text = str(item).partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"{named_by} {item}: expected KEY=VALUE, as in zoo.tasks_per_member=2")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise UserError(
            f"{named_by} {item}: the value is not valid YAML ({_first_line(error)})"
        ) from None
    node = raw
    for part in parts[:-1]:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):
            raise UserError(f"{named_by} {item}: {part} is {shown(below)}, which has no keys")
        node = below
    node[parts[-1]] = value


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in one line (unknown keys first: they often explain the others)."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    key = _key_of(problem)
    others = {_key_of(other) for other in problems} - {key}
    more = f" (and {counted(len(others), 'more problem')})" if others else ""
    fields = _fields_at(model, key[:-1])
    is_of_a_key = problem["type"] == "invalid_key"
    name = ".".join(map(str, key)) if is_of_a_key else _shown_key(key)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name}; allowed here: {', '.join(fields)}{more}"
    if problem["type"] == "missing":
        return f"{name} is missing{more}"
    # A value that may be a number or auto is told both.
    messages = dict.fromkeys(
        _no_mapping(other, model) or other["msg"] for other in problems if _key_of(other) == key
    )
    message = " or ".join(messages).removeprefix("Value error, ")
    message = message.replace(" or Input should be ", " or ")
    return f"{name} = {shown(problem['input'])}: {message}{more}"


def _no_mapping(problem: Any, model: type[BaseModel]) -> str | None:
    """What is wrong with a value where there must be keys; None if that is not the problem."""
    if problem["type"] == "dict_type":
        return "expected a mapping of keys to values"
    if problem["type"] == "model_type":
        some = " and ".join(_fields_at(model, _key_of(problem))[:2])
        return f"expected a mapping of keys to values, with keys such as {some}"
    return None


_UNION_TAGS = {"int", "float", "bool", "str", "constrained-int", "constrained-float"}


def _key_of(problem: Any) -> tuple[str | int, ...]:
    """Where a problem is. Branches of a union appear in pydantic's locations by their types, and
    each complains of the same value; people know only keys and positions."""
    *path, last = problem["loc"] or ("configuration",)
    known = [part for part in path if _is_key(part)]
    if _is_key(last) or problem["type"] == "extra_forbidden":
        known.append(last)
    return tuple(part for part in known if part not in _UNION_TAGS)


def _shown_key(key: tuple[str | int, ...]) -> str:
    """`benchmark.tasks (task 2, class 1)`: positions as people count them."""
    words = [part for part in key if isinstance(part, str)]
    places = [part + 1 for part in key if isinstance(part, int)]
    name = ".".join(words) or "configuration"
    kinds = ("task", "class") if words[-1:] == ["tasks"] else ("item",) * len(places)
    where = ", ".join(f"{kind} {place}" for kind, place in zip(kinds, places, strict=False))
    return f"{name} ({where})" if where else name


def _is_key(part: str | int) -> bool:
    return isinstance(part, int) or all(word.isidentifier() for word in part.split("."))


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return list(model.model_fields)


class _Short(reprlib.Repr):
    def repr_str(self, x: str, level: int) -> str:
        # Before it is cut: what is left of an address might not look like one.
        return super().repr_str(without_credentials(x), level)


_SHORT = _Short()  # a YAML alias can stand for more than can be written out
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: Any) -> str:
    """A value as errors show it: short, and without credentials."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a value"
    return text if len(text) <= 80 else text[:77] + "..."


def _first_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return (str(error).splitlines() or [type(error).__name__])[0]
