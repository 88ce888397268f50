"""A data set and a configuration -> an ordered stream of tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo_ray.benchmarks.datasets import open_source
from zoo_ray.benchmarks.images import fit
from zoo_ray.benchmarks.names import printable, task_name, unique
from zoo_ray.benchmarks.source import Rows, Source, Split, set_aside
from zoo_ray.benchmarks.warp import noisy, permute, rotate
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError
from zoo_ray.keys import hash_bits
from zoo_ray.task import Images, Labels, Part, Task

# Key the generators that choose validation and test samples. Another number is another benchmark.
_VALIDATION_KEY = 0x7A6F6F5F726179
_TEST_KEY = 0x74657374


def load_stream(config: BenchmarkConfig, source: Source | None = None) -> list[Task]:
    """Read a benchmark's data set and cut it into tasks, in the order in which they arrive.

    Samples keep the order in which the data set stores them. The result depends on the
    configuration and the files alone: no seed of a run reaches it.

    Args:
        config: the benchmark.
        source: the data set where `config.dataset` is `arrays`, as `arrays_source` makes it.

    Raises:
        UserError: no such data set; files missing or damaged; a class without samples.
    """
    source = _whole(_given(config, source), config)
    others = {
        read: name
        for number, name in enumerate(source.class_names)
        for read in _read_by_yaml(name)
        if read != number
    }
    tasks = [_numbers(source, config, position, others) for position in range(len(config.tasks))]
    # All cuts come before all images: what is wrong shows before the work of decoding.
    cuts = [_cut(source, config, position, classes) for position, classes in enumerate(tasks)]
    names = unique(
        task_name([source.class_names[label] for label in classes]) + _warped(config, position)
        for position, classes in enumerate(tasks)
    )
    return [
        _task(
            source, config, position, cuts[position], classes=tasks[position], name=names[position]
        )
        for position in config.arrivals
    ]


def _given(config: BenchmarkConfig, source: Source | None) -> Source:
    if source is None:
        return open_source(config)
    if not isinstance(source, Source):
        raise UserError(
            f"source: a {type(source).__name__}; give what "
            "zoo_ray.benchmarks.arrays_source(train=(images, labels)) makes of arrays"
        )
    if config.dataset != "arrays":
        raise UserError(
            f"benchmark.dataset = {printable(config.dataset, limit=200)}: a source is given too; "
            "say arrays, or give none"
        )
    return source


@dataclass(frozen=True, eq=False)
class _Whole(Source):
    """A data set with a test split."""

    test: Split


def _whole(source: Source, config: BenchmarkConfig) -> _Whole:
    """The source with a test split, its images of the size that the configuration asks for.

    What is set aside of a class depends on its name and number of samples alone: a class that is
    added changes no other.
    """
    train, test = source.train, source.test
    if test is None:
        by_class = np.argsort(train.labels, kind="stable")
        numbers, starts = np.unique(train.labels[by_class], return_index=True)
        is_test = np.zeros(len(by_class), dtype=np.bool_)
        for number, rows in zip(numbers, np.split(by_class, starts[1:]), strict=True):
            if len(rows) > 1:
                key = (_TEST_KEY, hash_bits(config.split_seed, source.class_names[number]))
                is_test[set_aside(rows, share=config.test_share, key=key)] = True
        test = train.of_rows(np.flatnonzero(is_test))
        train = train.of_rows(np.flatnonzero(~is_test))

    def sized(split: Split) -> Split:
        return Split(split.labels, lambda rows: fit(split.read(rows), size=config.image_size))

    return _Whole(class_names=source.class_names, train=sized(train), test=sized(test))


def _warped(config: BenchmarkConfig, position: int) -> str:
    """What the name of a task says of its images."""
    degrees = config.rotate[position] if config.rotate else 0
    number = config.permute[position] if config.permute else 0
    turned = f" turned {degrees:g}°" if degrees else ""
    return turned + (f" permuted {number}" if number else "")


def _numbers(
    source: Source, config: BenchmarkConfig, position: int, others: Mapping[int, str]
) -> list[int]:
    """A task's classes by number, or a UserError that says which name is nobody's."""
    found = []
    for label in config.tasks[position]:
        if isinstance(label, int):
            if label in others:
                raise UserError(
                    f"benchmark.tasks: task {position + 1} names class {label}, and a class of "
                    f"{printable(config.dataset, limit=200)} is called {others[label]!r}, which "
                    "YAML takes for a number unless it is in quotes; give names, in quotes"
                )
            found.append(label)
            continue
        # A source names classes as they can be shown.
        names = (label, printable(label))
        called = [number for number, name in enumerate(source.class_names) if name in names]
        if len(called) != 1:
            some = printable(", ".join(source.class_names[:20]), limit=200)
            raise UserError(
                f"benchmark.tasks: task {position + 1} names class {printable(label)!r}, which "
                f"{'no class' if not called else 'more than one class'} of "
                f"{printable(config.dataset, limit=200)} is called ({some}); give its number"
            )
        found.append(called[0])
    if len(set(found)) < len(found):
        twice = next(number for number in found if found.count(number) > 1)
        raise UserError(
            f"benchmark.tasks: task {position + 1} names class {twice} "
            f"({printable(source.class_names[twice])}) twice; once is enough"
        )
    return found


def _read_by_yaml(name: str) -> tuple[int, ...]:
    """The numbers that someone who means a class may have given for its name: 01, say, is octal."""
    if not (name.isascii() and name.isdigit() and len(name) < 20):
        return ()
    is_octal = name[0] == "0" and not {"8", "9"} & {*name}
    return (int(name), int(name, 8)) if is_octal else (int(name),)


@dataclass(frozen=True, eq=False)
class _Cut:
    """A task's rows: train and validation in the train split, test in the test split."""

    train: Rows
    validation: Rows
    test: Rows


def _cut(source: _Whole, config: BenchmarkConfig, position: int, classes: Sequence[int]) -> _Cut:
    """Choose a task's rows, or raise a UserError that says which class cannot be had."""
    dataset = printable(config.dataset, limit=200)
    known = len(source.class_names)
    unknown = [label for label in classes if not 0 <= label < known]
    if unknown:
        allowed = f"has the classes 0 to {known - 1}" if known else "has no classes"
        raise UserError(
            f"benchmark.tasks: task {position + 1} names class {printable(str(unknown[0]))}, but "
            f"{dataset} {allowed}; name classes that it has"
        )
    for split_name, split in (("training", source.train), ("test", source.test)):
        empty = np.flatnonzero(~np.isin(classes, split.labels))
        if len(empty):
            label = classes[empty[0]]
            raise UserError(
                f"benchmark.tasks: task {position + 1} names class {label} "
                f"({source.class_names[label]}), of which {dataset} "
                f"has no {split_name} samples; leave the class out"
            )
    train = np.sort(np.concatenate([_training_rows(source, config, label) for label in classes]))
    validation = np.sort(
        np.concatenate([_validation_rows(source, config, label) for label in classes])
    )
    return _Cut(
        train=np.setdiff1d(train, validation, assume_unique=True),
        validation=validation,
        test=np.flatnonzero(np.isin(source.test.labels, classes)),
    )


def _training_rows(source: Source, config: BenchmarkConfig, label: int) -> Rows:
    """The rows of a class that are used at all."""
    return np.flatnonzero(source.train.labels == label)[: config.samples_per_class]


def _validation_rows(source: Source, config: BenchmarkConfig, label: int) -> Rows:
    """The rows of a class that are set aside, the same in every run and in every task."""
    rows, share = _training_rows(source, config, label), config.validation
    if share == 0:
        return rows[:0]
    if len(rows) == 1:
        raise UserError(
            f"benchmark.validation = {share}: class {label} ({source.class_names[label]}) has one "
            "training sample, which cannot be split; leave the class out, or use validation: 0"
        )
    last = label if source.numbers_last else hash_bits(source.class_names[label])
    return set_aside(rows, share=share, key=(_VALIDATION_KEY, last))


def _task(
    source: _Whole,
    config: BenchmarkConfig,
    position: int,
    cut: _Cut,
    *,
    classes: Sequence[int],
    name: str,
) -> Task:
    head_row = np.full(len(source.class_names), -1, dtype=np.int64)
    head_row[classes] = np.arange(len(classes))

    def labels(of: Labels, rows: Rows) -> Labels:
        return head_row[of[rows]]

    train = source.train.read(cut.train)
    test = source.test.read(cut.test)
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"benchmark.tasks: the training images of task {name} have the shape "
            f"{train.shape[1:]}, its test images {test.shape[1:]}; make them equal in the data set "
            "(in height and width by benchmark.image_size)"
        )
    validation = source.train.read(cut.validation) if len(cut.validation) else train[:0]

    def warp(images: Images) -> Images:
        if config.rotate:
            images = rotate(images, degrees=config.rotate[position])
        return permute(images, number=config.permute[position]) if config.permute else images

    training_labels = noisy(
        labels(source.train.labels, cut.train),
        classes=len(classes),
        share=config.label_noise,
        seed=config.noise_seed,
        task=position,
    )
    return Task(
        name=name,
        classes=tuple(source.class_names[label] for label in classes),
        train=Part(warp(train), training_labels),
        validation=Part(warp(validation), labels(source.train.labels, cut.validation)),
        test=Part(warp(test), labels(source.test.labels, cut.test)),
    )
