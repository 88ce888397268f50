"""The command line of zoo_ray: `python run_cluster.py --help`."""

import argparse
import contextlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from zoo_ray.config import RunConfig, read_config
from zoo_ray.errors import UserError
from zoo_ray.stops import clean_stops

STARTED = time.time()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (2: something outside the program is wrong)."""
    arguments = _parser().parse_args(argv)
    people = Console(stderr=True)
    logging.basicConfig(
        level="WARNING",
        format="%(message)s",
        handlers=[RichHandler(console=people, show_time=False, show_path=False)],
    )
    again = shlex.join(sys.argv[1:] if argv is None else argv)
    try:
        with clean_stops(farewell=f"stopped; to go on: python {sys.argv[0]} {again}"):
            config = read_config(arguments.config, overrides=_overrides(arguments))
            result: int = arguments.command(arguments, config, people)
            return result
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def train(arguments: argparse.Namespace, config: RunConfig, people: Console) -> int:
    """Grow a zoo, then show its table and its picture."""
    from zoo_ray.report.live import Live
    from zoo_ray.report.tables import result_table
    from zoo_ray.run import grow

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
    out = people if arguments.json else Console()
    out.print(result_table(result.growth, title=name))
    out.print(
        f"{result.fitted} members fitted, {result.read} read from the store, "
        f"in {result.wall_s:.1f} s\nfigure: {escape(result.figure)}",
        highlight=False,
        soft_wrap=True,
    )
    if arguments.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    return 0


def check(arguments: argparse.Namespace, config: RunConfig, people: Console) -> int:
    """Show what a run would do, without fitting anything."""
    from zoo_ray.report.check import check_report
    from zoo_ray.run import prepare

    with contextlib.redirect_stdout(sys.stderr):
        plan, store, _ = prepare(config, name=_name(arguments), address=arguments.address)
    report = check_report(plan, store=store)
    (people if arguments.json else Console()).print(report.text)
    if arguments.json:
        print(json.dumps(report.values, allow_nan=False))
    return 0


def _name(arguments: argparse.Namespace) -> str:
    return Path(arguments.config).stem if arguments.name is None else arguments.name


def _overrides(arguments: argparse.Namespace) -> list[str]:
    overrides = list(arguments.set)
    if arguments.workers is not None:
        overrides.append(f"workers.count={arguments.workers}")
    if arguments.store is not None:
        # Quoted, since an address may look like anything to YAML.
        overrides.append(f"store={json.dumps(arguments.store)}")
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_cluster.py",
        description="Grow a Model Zoo: an ensemble that learns a stream of tasks, on Ray.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("config", metavar="CONFIG", help="a YAML file, as configs/quickstart.yaml")
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, as in zoo.tasks_per_member=2",
    )
    common.add_argument("--name", help="of the run in the store (the configuration's file name)")
    common.add_argument("--workers", metavar="N", help="short for --set workers.count=N")
    common.add_argument("--store", metavar="URI", help="short for --set store=URI")
    common.add_argument(
        "--address", help="of a Ray cluster (auto: the one of this machine); else a local Ray"
    )
    common.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of stdout"
    )
    trainer = commands.add_parser("train", parents=[common], help="grow a zoo, or go on with it")
    trainer.set_defaults(command=train)
    checker = commands.add_parser(
        "check", parents=[common], help="show what a run would do, without fitting"
    )
    checker.set_defaults(command=check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
