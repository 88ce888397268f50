"""The command line of zoo_ray: `python run_cluster.py --help`."""

import argparse
import contextlib
import io
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast, get_args

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import Progress

from zoo_ray.config import RunConfig, read_config
from zoo_ray.counts import counted
from zoo_ray.errors import UserError, without_credentials
from zoo_ray.lines import study_line
from zoo_ray.published import FILES, FLAGS, read_published
from zoo_ray.rules import Mode
from zoo_ray.stops import JOB_VARIABLE, clean_stops

if TYPE_CHECKING:
    from zoo_ray.cluster.jobs import Jobs
    from zoo_ray.cluster.packing import Submission
    from zoo_ray.comparison import StudyResult
    from zoo_ray.store import Store
    from zoo_ray.store.records import NamedFolder, RunSummary
    from zoo_ray.store.upkeep import Garbage

STARTED = time.time()
_JOBS = ("train", "tune", "compare", "compete")
_WIDE = 200  # columns
DEFAULT_STORE: str = RunConfig.model_fields["store"].default


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (2: something outside the program is wrong)."""
    arguments = _parser().parse_args(argv)
    with contextlib.redirect_stderr(cast(TextIO, _Stderr(sys.stderr or io.StringIO()))):
        return _run(arguments, sys.argv[1:] if argv is None else argv)


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    with contextlib.suppress(OSError):
        # Code of the user's own. Behind all else: no file of theirs hides a package.
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)
    people = _console(stderr=True)
    logging.basicConfig(
        level="WARNING",
        format="%(message)s",
        handlers=[RichHandler(console=people, show_time=False, show_path=False)],
    )
    stdout = _Stdout(sys.stdout or io.StringIO())  # None where it is closed, as by >&-
    if job := os.environ.get(JOB_VARIABLE):
        # The job's own command line names a file of its package, which nobody else has.
        argv = ["resume", job]
    again = without_credentials(_to_type(*argv))
    stopped = "stopped; to go on"
    if arguments.command is logs:
        stopped = "the job goes on; to see it again"
    try:
        with (
            clean_stops(farewell=f"{stopped}: {again}"),
            contextlib.redirect_stdout(cast(TextIO, stdout)),
        ):
            result: int = arguments.command(arguments, people)
            stdout.flush()
            return result
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error is not stdout.failure:
            raise
        _discard_stdout()
        if isinstance(error, BrokenPipeError):  # whoever reads has had enough
            return 1
        print(f"error: stdout: cannot be written ({error.strerror})", file=sys.stderr)
        return 2


class _Stream:
    """A stream whose failures to write are guarded."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            self._stream.flush()

    def _guarded(self) -> contextlib.AbstractContextManager[object]:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Stdout(_Stream):
    """A stream that keeps the error of a write, lest it be taken for another file's."""

    failure: OSError | None = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


class _Stderr(_Stream):
    """A stream whose failures nobody hears of: a full disk, or a reader who has had enough, should
    not end hours of work that only wanted to tell how far it is."""

    def _guarded(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.suppress(OSError)


def _discard_stdout() -> None:
    """Python flushes it at its end, too, and would tell of the same error once more."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def train(arguments: argparse.Namespace, people: Console) -> int:
    """Grow a zoo, then show its table and its picture."""
    from zoo_ray.report.live import Live
    from zoo_ray.report.tables import result_table
    from zoo_ray.run import grow

    config = _config(arguments)
    name = _name(arguments)
    # Libraries (downloads, Ray) print what is not for scripts to read.
    with contextlib.redirect_stdout(sys.stderr), Live(people) as live:
        result = grow(
            config,
            name=name,
            address=arguments.address,
            on_progress=live.update,
            started=STARTED,
        )
    _show(arguments, people, result_table(result.growth, title=name))
    _show(
        arguments,
        people,
        f"{counted(result.fitted, 'member')} fitted, {result.read} read from the store, "
        f"in {result.wall_s:.1f} s\nfigure: {escape(result.figure)}",
    )
    _show_json(arguments, **result.to_dict())
    return 0


def tune(arguments: argparse.Namespace, people: Console) -> int:
    """Search, then show the table of trials and the best of them."""
    from zoo_ray.report.live import Live
    from zoo_ray.report.tables import search_table
    from zoo_ray.search.config import read_search
    from zoo_ray.store import Store
    from zoo_ray.tuning import search, train_words

    config = read_search(arguments.config, overrides=_overrides(arguments, base="base."))
    name = _name(arguments)
    with contextlib.redirect_stdout(sys.stderr), Live(people) as live:
        result = search(
            config,
            name=name,
            address=arguments.address,
            on_progress=partial(live.update_search, config=config),
            started=STARTED,
        )
    table = search_table(
        result.rows, result.findings, keys=list(config.space), metric=config.metric, title=name
    )
    _show(arguments, people, table)
    test = result.test_accuracy
    final = _to_type(*train_words(Store(config.base.store), name, "final"))
    _show(
        arguments,
        people,
        f"no trial was complete: give the search more hours\n{_members_line(result)}"
        if test is None
        else f"test accuracy of the best: {100 * test:.2f}%\n{_members_line(result)}\n"
        f"to grow it on all training samples: {escape(final)}",
    )
    _show_json(arguments, **result.to_dict())
    return 0


def compare(arguments: argparse.Namespace, people: Console) -> int:
    """Grow zoos of several modes and seeds, then show what they differ in."""
    from zoo_ray.comparison import compare, contenders_of
    from zoo_ray.report.live import Live
    from zoo_ray.report.tables import comparison_table

    config = _config(arguments)
    contenders = contenders_of(config, modes=arguments.modes, varied=arguments.vary)
    name = _name(arguments)
    with contextlib.redirect_stdout(sys.stderr), Live(people) as live:
        result = compare(
            config,
            contenders=contenders,
            seeds=arguments.seeds or [config.zoo.seed],
            name=name,
            shuffle=arguments.shuffle,
            address=arguments.address,
            on_progress=live.update_comparison,
            started=STARTED,
        )
    _show(arguments, people, comparison_table(result.outcomes, title=name))
    _show(arguments, people, _members_line(result))
    _show_json(arguments, **result.to_dict())
    return 0


def compete(arguments: argparse.Namespace, people: Console) -> int:
    """Fit every pair of tasks, then show what they do for each other."""
    from zoo_ray.competition import compete
    from zoo_ray.report.live import Live
    from zoo_ray.report.tables import competition_table

    config = _config(arguments)
    name = _name(arguments)
    with contextlib.redirect_stdout(sys.stderr), Live(people) as live:
        result = compete(
            config,
            seeds=arguments.seeds or [config.zoo.seed],
            name=name,
            address=arguments.address,
            on_progress=live.update_comparison,
            started=STARTED,
        )
    table = competition_table(result.mean, by_seed=result.by_seed, tasks=result.tasks, title=name)
    _show(arguments, people, table)
    _show(arguments, people, _members_line(result))
    _show_json(arguments, **result.to_dict())
    return 0


def _members_line(result: "StudyResult") -> str:
    line = study_line(
        asked=result.asked, fitted=result.fitted, read=result.read, wall_s=result.wall_s
    )
    return "\n".join([line, *map(escape, result.files)])


def predict(arguments: argparse.Namespace, people: Console) -> int:
    """Ask a stored zoo what images show."""
    from zoo_ray.benchmarks.loose import read_loose
    from zoo_ray.report.predictions import (
        check_predictions_file,
        predictions_file,
        predictions_table,
    )
    from zoo_ray.stored import StoredRun

    if arguments.out is not None:
        check_predictions_file(arguments.out)
    run = StoredRun(_store(arguments), arguments.run, grown=False)
    task = run.tasks[run.task(arguments.task)]
    loose = read_loose(arguments.images, shape=task.image_shape, scale=arguments.scale)
    with people.status(counted(len(loose.names), "image")):
        probabilities = run.predict(images=loose.images, task=arguments.task)
    if arguments.out is not None:
        predictions_file(arguments.out, loose.names, task.classes, probabilities)
    table = predictions_table(loose.names, task.classes, probabilities, title=task.name)
    _show(arguments, people, table)
    _show_json(
        arguments,
        run=run.name,
        task=task.name,
        classes=task.classes,
        predictions=[
            {"image": name, "class": task.classes[row.argmax()], "probabilities": row.tolist()}
            for name, row in zip(loose.names, probabilities, strict=True)
        ],
    )
    return 0


def report(arguments: argparse.Namespace, people: Console) -> int:
    """Write a page about grown runs, a comparison, a search, or a competition study."""
    from zoo_ray.report.page import report_page
    from zoo_ray.stored_studies import find_stored

    found = find_stored(_store(arguments), arguments.names)
    with people.status("drawing"):
        page = report_page(found.runs, studies=found.studies)
    names = arguments.names
    more = f"+{len(names) - 1}" if len(names) > 1 else ""
    index = str(page.write(arguments.out or f"report/{names[0]}{more}"))
    _show(arguments, people, escape(index))
    _show_json(arguments, page=index, files=sorted(page.files))
    return 0


def check(arguments: argparse.Namespace, people: Console) -> int:
    """Show what a run would do, without fitting anything."""
    from zoo_ray.report.check import check_report
    from zoo_ray.run import prepare

    config = _config(arguments)
    with contextlib.ExitStack() as until_planned, contextlib.redirect_stdout(sys.stderr):
        plan, store, _ = prepare(
            config, name=_name(arguments), address=arguments.address, until=until_planned
        )
    report = check_report(plan, store=store)
    # Long values are not cut in two: whoever copies them needs them whole.
    (people if arguments.json else _console()).print(report.text, soft_wrap=True)
    _show_json(arguments, **report.values)
    return 0


def verify(arguments: argparse.Namespace, people: Console) -> int:
    """Read all of a store; the exit code is 1 if anything is wrong."""
    from zoo_ray.report.upkeep import findings_text
    from zoo_ray.store.upkeep import verify

    store = _store(arguments)
    with Progress(console=people, transient=True) as progress:
        bar = progress.add_task("reading")
        findings = verify(
            store,
            repair=arguments.repair,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    _show(arguments, people, escape(findings_text(findings)))
    problems = [problem._asdict() for problem in findings.problems]
    _show_json(arguments, store=store.address, **findings._asdict() | {"problems": problems})
    return 1 if problems else 0


def runs(arguments: argparse.Namespace, people: Console) -> int:
    """List the runs of a store, its searches, and its comparisons and studies."""
    from zoo_ray.report.upkeep import runs_table
    from zoo_ray.store import KINDS

    store = _store(arguments)
    found = store.runs()
    others = {kind: store.named(kind) for kind in KINDS if kind != "runs"}
    _show(arguments, people, runs_table(found, others, title=store.shown))
    listed = [_plain(run) | {"record": run.record and run.record.model_dump()} for run in found]
    named = {kind: [_plain(folder) for folder in folders] for kind, folders in others.items()}
    _show_json(arguments, store=store.address, runs=listed, **named)
    return 0


def rm(arguments: argparse.Namespace, people: Console) -> int:
    """Remove what a run, a search or a comparison recorded; members may be others' too, and
    stay."""
    from zoo_ray.stored_studies import remove_stored

    store = _store(arguments)
    removed = remove_stored(store, arguments.run, kind=arguments.kind)
    runs = f" and its {counted(len(removed.runs), 'run')}" if removed.runs else ""
    _show(
        arguments,
        people,
        f"{removed.kind} {escape(arguments.run)}{runs}: {counted(removed.files, 'file')} removed; "
        "gc finds members that nobody needs",
    )
    _show_json(arguments, store=store.address, run=arguments.run, **removed._asdict())
    return 0


def gc(arguments: argparse.Namespace, people: Console) -> int:
    """List, or remove, what no run or search refers to and is a day old."""
    from zoo_ray.report.upkeep import garbage_table
    from zoo_ray.store.upkeep import collect

    store = _store(arguments)
    with people.status("looking for what nobody refers to"):
        garbage = collect(store, remove=arguments.yes)
    _show(arguments, people, garbage_table(garbage, title=store.shown, removed=arguments.yes))
    listed = [_plain(piece) for piece in garbage]
    _show_json(arguments, store=store.address, removed=arguments.yes, garbage=listed)
    return 0


# ---- on a cluster


def submit(arguments: argparse.Namespace, people: Console) -> int:
    """Have a command run on a cluster as a job, and return at once."""
    from zoo_ray.cluster.jobs import Jobs

    submission = _submission(arguments.words)
    with people.status("submitting"):
        jobs = Jobs(arguments.address)
        identity = jobs.submit(submission, script=Path(__file__))
    return _submitted(arguments, people, jobs, identity)


def resume(arguments: argparse.Namespace, people: Console) -> int:
    """Submit again what a run's latest job was to do: it goes on where that ended."""
    from zoo_ray.cluster.jobs import Jobs

    with people.status("submitting"):
        jobs = Jobs(arguments.address)
        identity = jobs.resume(arguments.run, script=Path(__file__))
    return _submitted(arguments, people, jobs, identity)


def _submitted(arguments: argparse.Namespace, people: Console, jobs: "Jobs", identity: str) -> int:
    text = f"{identity} is submitted; to see it work: {_to_type('logs', '-f', identity)}"
    _show(arguments, people, escape(text))
    _show_json(arguments, id=identity, url=jobs.url)
    return 0


def jobs(arguments: argparse.Namespace, people: Console) -> int:
    """List the jobs of a cluster."""
    from zoo_ray.cluster.jobs import Jobs
    from zoo_ray.report.jobs import jobs_table

    cluster = Jobs(arguments.address)
    found = cluster.all()
    _show(arguments, people, jobs_table(found, title=cluster.url))
    _show_json(arguments, url=cluster.url, jobs=[job.to_dict() for job in found])
    return 0


def status(arguments: argparse.Namespace, people: Console) -> int:
    """Show all that is known of a job."""
    from zoo_ray.cluster.jobs import Jobs
    from zoo_ray.report.jobs import job_text

    job = Jobs(arguments.address).find(arguments.job, with_line=True)
    _show(arguments, people, job_text(job))
    _show_json(arguments, **job.to_dict())
    return 0


def logs(arguments: argparse.Namespace, people: Console) -> int:
    """Show what a job has printed; the exit code is 1 if it has failed or was stopped."""
    from zoo_ray.cluster.jobs import Jobs

    cluster = Jobs(arguments.address)
    job = cluster.find(arguments.job)
    out = people.file if arguments.json else sys.stdout
    if arguments.follow:
        cluster.follow(job.id, show=lambda text: print(text, end="", flush=True, file=out))
    else:
        print(cluster.log(job.id), end="", file=out)
    job = cluster.find(job.id, with_line=arguments.json)
    _show_json(arguments, **job.to_dict())
    return 1 if job.state in {"failed", "stopped"} else 0


def stop(arguments: argparse.Namespace, people: Console) -> int:
    """Stop a job; what it has finished is in the store."""
    from zoo_ray.cluster.jobs import Jobs

    cluster = Jobs(arguments.address)
    job = cluster.find(arguments.job)
    with people.status("stopping"):
        stopped = cluster.stop(job.id)
    state = cluster.find(job.id).state
    # By its id: the latest job of the run's name may be another command's.
    again = _to_type("resume", *(["--"] if job.id.startswith("-") else []), job.id)
    text = (
        f"{job.id} is stopped; to go on: {again}"
        if stopped
        else f"{job.id} was over already ({state})"
    )
    _show(arguments, people, escape(text))
    _show_json(arguments, id=job.id, stopped=stopped, state=state)
    return 0


def _submission(words: Sequence[str]) -> "Submission":
    """What is to run, from the words of its command line."""
    from zoo_ray.cluster.packing import OWN_KEYS, Submission
    from zoo_ray.comparison import varied_contender
    from zoo_ray.search.config import read_search
    from zoo_ray.store import check_name

    words = [word for place, word in enumerate(words) if place or word != "--"]
    if not words or words[0] not in _JOBS:
        raise UserError(
            f"submit: give a command after --, as in submit -- train CONFIG; it may be "
            f"{', '.join(_JOBS)}"
        )
    inner = _parser().parse_args(words)
    if inner.address is not None:
        raise UserError("submit: --address is the cluster's, and goes before --")
    if words[0] == "tune":
        search = read_search(inner.config, overrides=_overrides(inner, base="base."))
        raw, run = search.model_dump(mode="json", exclude_unset=True), search.base
        raw["base"]["store"] = run.store
        own = [name for key in OWN_KEYS if key in search.space for name in search.space[key].choice]
    else:
        run = _config(inner)
        raw = run.model_dump(mode="json", exclude_unset=True) | {"store": run.store}
        own = []
    options = ["--json"] if inner.json else []
    if getattr(inner, "shuffle", False):
        options.append("--shuffle")
    for option in ("modes", "seeds"):
        if given := getattr(inner, option, None):
            options += [f"--{option}", *map(str, given)]
    for items in getattr(inner, "vary", []):
        options += ["--vary", *items]
        varied = varied_contender(run, items).config
        own += [varied.recipe.network, varied.zoo.weights]
    return Submission(
        command=words[0],
        name=check_name(_name(inner)),
        config=raw,
        options=tuple(options),
        own=(run.recipe.network, run.zoo.weights, *map(str, own)),
    )


def _store(arguments: argparse.Namespace) -> "Store":
    from zoo_ray.store import Store

    store = Store(arguments.store)
    if not store.exists():
        raise UserError(f"store {store.shown}: there is none; give one that a run has written to")
    return store


def _to_type(*words: str) -> str:
    """A command of ours, for people to type."""
    return shlex.join(["python", sys.argv[0], *words])


def _console(*, stderr: bool = False) -> Console:
    """For people; in files and pipes tables are as wide as they like, lest numbers be cut."""
    stream = sys.stderr if stderr else sys.stdout
    is_narrow = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if is_narrow else _WIDE)


def _show(arguments: argparse.Namespace, people: Console, text: RenderableType) -> None:
    out = people if arguments.json else _console()
    out.print(text, highlight=False, soft_wrap=isinstance(text, str))


def _plain(found: "RunSummary | NamedFolder | Garbage") -> dict[str, Any]:
    """Plain values for `--json`."""
    return found._asdict() | {"modified": found.modified.isoformat()}


def _show_json(arguments: argparse.Namespace, **values: object) -> None:
    if arguments.json:
        print(json.dumps(values, allow_nan=False))


def _config(arguments: argparse.Namespace) -> RunConfig:
    named = {flag: getattr(arguments, flag) for flag in (*FILES, *FLAGS)}
    flags = {flag: value for flag, value in named.items() if value is not None}
    if arguments.config is None and flags:
        return read_published(flags, overrides=_overrides(arguments))
    if arguments.config is None:
        raise UserError(
            "give CONFIG, a run's YAML file (before options that take several words), or "
            "--data_config and --hp_config"
        )
    if flags:
        raise UserError(
            f"CONFIG and --{next(iter(flags))}: give a run's YAML file (and --set KEY=VALUE), or "
            "the published code's flags"
        )
    return read_config(arguments.config, overrides=_overrides(arguments))


def _name(arguments: argparse.Namespace) -> str:
    if arguments.name is not None:
        return str(arguments.name)
    return Path(arguments.data_config if arguments.config is None else arguments.config).stem


def _overrides(arguments: argparse.Namespace, *, base: str = "") -> list[str]:
    overrides = list(arguments.set)
    if arguments.workers is not None:
        overrides.append(f"{base}workers.count={arguments.workers}")
    if arguments.store is not None:
        # Quoted, since an address may look like anything to YAML.
        overrides.append(f"{base}store={json.dumps(arguments.store)}")
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_cluster.py",
        description="Grow a Model Zoo: an ensemble that learns a stream of tasks, on Ray.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        does: Callable[[argparse.Namespace, Console], int],
        parent: argparse.ArgumentParser,
        *,
        help: str,
        description: str | None = None,
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            does.__name__, parents=[parent], help=help, description=description
        )
        added.set_defaults(command=does)
        return added

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of stdout"
    )
    options = argparse.ArgumentParser(add_help=False, parents=[output])
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, as in zoo.tasks_per_member=2",
    )
    options.add_argument("--name", help="of the run in the store (the configuration's file name)")
    options.add_argument("--workers", metavar="N", help="short for --set workers.count=N")
    options.add_argument("--store", metavar="URI", help="short for --set store=URI")
    options.add_argument(
        "--address", help="of a Ray cluster (auto: the one of this machine); else a local Ray"
    )
    config = {"metavar": "CONFIG", "help": "a YAML file, as configs/quickstart.yaml"}
    run = argparse.ArgumentParser(add_help=False, parents=[options])
    run.add_argument("config", nargs="?", **config)
    published = run.add_argument_group("instead of CONFIG, as the published code takes them")
    for flag, section in FILES.items():
        published.add_argument(f"--{flag}", metavar="FILE", help=f"the {section}'s YAML file")
    for flag, (key, default) in FLAGS.items():
        published.add_argument(f"--{flag}", metavar="N", help=f"{key} ({default})")
    command(train, run, help="grow a zoo, or go on with it")
    tuner = command(tune, options, help="search: grow many zoos, sharing members")
    tuner.add_argument("config", **config)
    comparer = command(compare, run, help="grow zoos of several modes and seeds, side by side")
    comparer.add_argument(
        "--modes",
        nargs="+",
        default=[],
        choices=get_args(Mode),
        help="what is compared: the configuration in each of these modes (its own, isolated and "
        "multihead; with --vary: its own)",
    )
    comparer.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="also: the configuration with these values, as zoo.sharpness=2 (may be repeated)",
    )
    comparer.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="of each one's zoos (zoo.seed)"
    )
    comparer.add_argument(
        "--shuffle",
        action="store_true",
        help="the tasks arrive in another order with each seed (benchmark.order_seed)",
    )
    competitor = command(
        compete, run, help="fit every pair of tasks: what do they do for each other?"
    )
    competitor.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="(zoo.seed)")
    command(check, run, help="show what a run would do, without fitting")
    predictor = command(
        predict,
        output,
        help="ask a grown zoo what images show",
        description="Ask a grown zoo what images show. Images are not turned or permuted: give "
        "those of a task with benchmark.rotate or permute as its network has seen them.",
    )
    predictor.add_argument("run", metavar="RUN")
    predictor.add_argument(
        "--task", required=True, help="whose classes: the task's name, or its number from 1"
    )
    predictor.add_argument(
        "images", metavar="IMAGES", nargs="+", help="files, folders, .parquet or .npz"
    )
    predictor.add_argument(
        "--scale", action="store_true", help="bring images to the size of the task's"
    )
    predictor.add_argument(
        "--out", metavar="FILE", help="write all probabilities to a .csv or .parquet file"
    )
    predictor.add_argument("--store", metavar="URI", default=DEFAULT_STORE)
    reporter = command(report, output, help="write a page about runs, a comparison or a search")
    reporter.add_argument(
        "names", metavar="NAME", nargs="+", help="of runs, or what compare, compete or tune did"
    )
    reporter.add_argument("--store", metavar="URI", default=DEFAULT_STORE)
    reporter.add_argument("--out", metavar="FOLDER", help="(report/NAME)")
    verifier = command(verify, output, help="read all of a store")
    verifier.add_argument("store", metavar="STORE", help="a folder, or s3:// or gs://")
    verifier.add_argument(
        "--repair", action="store_true", help="make corrupt members missing: they are fitted again"
    )
    lister = command(runs, output, help="list the runs, searches and comparisons of a store")
    lister.add_argument("store", metavar="STORE", nargs="?", default=DEFAULT_STORE)
    remover = command(rm, output, help="remove a run, search or comparison, not its members")
    remover.add_argument("run", metavar="NAME")
    remover.add_argument(
        "--kind", choices=("run", "search", "comparison"), help="where a name is used for several"
    )
    remover.add_argument("--store", metavar="URI", default=DEFAULT_STORE)
    collector = command(gc, output, help="find what no run or search refers to and is a day old")
    collector.add_argument("store", metavar="STORE")
    collector.add_argument("--yes", action="store_true", help="remove it")
    cluster = argparse.ArgumentParser(add_help=False, parents=[output])
    cluster.add_argument(
        "--address",
        help="http://HOST:PORT of the cluster's dashboard, or auto (RAY_ADDRESS; the cluster of "
        "this machine; or http://127.0.0.1:8265, where `ray dashboard cluster.yaml` leads)",
    )
    submitter = command(submit, cluster, help="have a command run on a cluster, as a job")
    submitter.add_argument(
        "words",
        metavar="-- COMMAND CONFIG ...",
        nargs=argparse.REMAINDER,
        help=f"{', '.join(_JOBS)}, with their options",
    )
    submitted = {
        "metavar": "RUN",
        "help": "a run, of which the latest job is meant, or a job's id",
    }
    resumer = command(resume, cluster, help="submit again what a run's latest job was to do")
    resumer.add_argument("run", **submitted)
    command(jobs, cluster, help="list the jobs of a cluster")
    job = argparse.ArgumentParser(add_help=False, parents=[cluster])
    job.add_argument("job", **submitted)
    command(status, job, help="show how a job is")
    logger = command(
        logs,
        job,
        help="show what a job has printed",
        description="Show what a job has printed. The exit code is 1 if the job has failed or was "
        "stopped, and 2 if with -f the log ends before the job.",
    )
    logger.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    command(stop, job, help="stop a job")
    return parser


if __name__ == "__main__":
    sys.exit(main())
