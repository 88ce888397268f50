"""What a run would do, without doing it."""

from dataclasses import asdict
from typing import Any, NamedTuple

import yaml
from rich.console import Group, RenderableType
from rich.text import Text

from zoo_ray.counts import counted
from zoo_ray.plan import Plan
from zoo_ray.progress import training_samples
from zoo_ray.report.tables import task_table
from zoo_ray.store import Store


class CheckReport(NamedTuple):
    """The same, for people and for programs."""

    text: RenderableType
    values: dict[str, Any]


def check_report(plan: Plan, *, store: Store) -> CheckReport:
    """Describe a plan: its configuration, its tasks, its members and who would fit them."""
    growth = plan.growth()
    samples = training_samples(growth)
    in_store = sum(store.has_member(wanted.spec.digest) for wanted in growth.wanted())
    images = round(samples.total) * plan.recipe.epochs
    about = "" if samples.exact else "about "
    workers, offer = plan.workers, plan.offer
    configuration = plan.config.model_dump(mode="json") | {"recipe": plan.recipe.to_dict()}
    shown = yaml.safe_dump(
        configuration, sort_keys=False, default_flow_style=None, allow_unicode=True, width=78
    )
    text = Group(
        Text(f"# recipe is shown as it was resolved: this is no input file\n{shown}"),
        task_table(
            [
                (
                    f"{number}  {task.name}",
                    ", ".join(task.classes),
                    *(str(len(part)) for _, part in task.parts()),
                )
                for number, task in enumerate(plan.tasks, start=1)
            ]
        ),
        f"members: {plan.rules.members}; to fit them all takes {about}{images:,} training images "
        f"(epochs: {plan.recipe.epochs})",
        f"in the store already: {in_store} of {counted(len(growth.wanted()), 'member')} whose "
        "tasks are settled",
        f"{offer.where}: {offer.cpus:g} of {offer.max_cpus:g} CPUs and "
        f"{offer.gpus:g} of {offer.max_gpus:g} GPUs are free",
        f"workers: {workers.count}, each with {counted(workers.cpus, 'CPU')} and "
        f"{counted(workers.gpus, 'GPU')}, for {counted(workers.fits, 'fit')} at once"
        if workers.count
        else "workers: 0 (this process fits)",
    )
    return CheckReport(
        text=text,
        values={
            "config": configuration,
            "tasks": [
                {"name": task.name, "classes": list(task.classes), "digest": task.digest}
                | {name: len(part) for name, part in task.parts()}
                for task in plan.tasks
            ],
            "members": plan.rules.members,
            "in_store": in_store,
            "images": images,
            "images_exact": samples.exact,
            "offer": asdict(offer),
            "workers": asdict(workers),
        },
    )
