"""Writes keys.md, the reference of all keys: python docs/keys.py > docs/keys.md."""

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo_ray.config import (
    BenchmarkConfig,
    RecipeConfig,
    RunConfig,
    Section,
    WorkersConfig,
    ZooConfig,
)
from zoo_ray.search.config import BudgetConfig, DimensionConfig, SearchConfig

SECTIONS: dict[str, tuple[type[Section], str]] = {
    "A run": (RunConfig, ""),
    "benchmark": (BenchmarkConfig, "benchmark."),
    "recipe": (RecipeConfig, "recipe."),
    "zoo": (ZooConfig, "zoo."),
    "workers": (WorkersConfig, "workers."),
    "A search": (SearchConfig, ""),
    "A dimension of a search's space": (DimensionConfig, "space.KEY."),
    "A search's budget": (BudgetConfig, "budget."),
}
KINDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "string": "text",
}
BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
}
ENDS = {2**63: "2^63", 2**31: "2^31", -(2**31): "-2^31"}
TOP = """\
# Keys

All that a configuration may say, by section; `docs/keys.py` writes this page from the code.
[configs/](../configs) has commented examples. Any key of a run can be given on the command line, as
`--set zoo.replay=0.1`; `run_cluster.py check FILE` tells what a run would do."""


def main() -> None:
    """Print the page."""
    print(TOP)
    for title, (section, prefix) in SECTIONS.items():
        print(f"\n## {title}\n\n{doc(section)}\n")
        print("| key | allowed | default | meaning |\n| --- | --- | --- | --- |")
        for row in rows(section, prefix):
            print("|", " | ".join(cell.replace("|", "\\|") for cell in row), "|")


def doc(section: type[Section]) -> str:
    """What a section is."""
    return " ".join(inspect.cleandoc(section.__doc__ or "").split())


def rows(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, what is allowed, default and meaning of all keys that are no section of this page."""
    schema = section.model_json_schema()
    meanings = field_docs(section)
    for key, allowed in schema["properties"].items():
        if key in meanings:
            default = f"`{json.dumps(allowed.get('default', {}))}`"
            if key in schema.get("required", []):
                default = "must be given"
            yield f"`{prefix}{key}`", described(allowed), default, meanings[key]


def field_docs(section: type[Section]) -> dict[str, str]:
    """What stands below each field in the code."""
    [definition] = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def described(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(described, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return f"[{', '.join(map(described, schema['prefixItems']))}]"
    if "items" in schema:
        return f"[{described(schema['items'])}, ...]"
    ends = [
        f"{word} {ENDS.get(schema[bound], schema[bound])}"
        for bound, word in BOUNDS.items()
        if bound in schema
    ]
    return " ".join([KINDS.get(schema.get("type", ""), "mapping"), *ends])


if __name__ == "__main__":
    main()
