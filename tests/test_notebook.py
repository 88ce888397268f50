"""The example notebook, its cells executed in order in this process."""

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "model_zoo.ipynb"


def code_cells() -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_it_says(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    names: dict[str, Any] = {}
    shown = []
    for cell in code_cells():
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, NOTEBOOK.name, "exec"), names)
        if isinstance(last, ast.Expr):  # what a notebook shows below the cell
            shown.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names))
    plt.close("all")
    metrics, accuracy, *figures, members = shown
    assert metrics.average_accuracy > 0.9
    assert accuracy.shape == (5, 5)
    assert capsys.readouterr().out.count("transfer forward") == 3
    assert all(figure._repr_png_().startswith(b"\x89PNG") for figure in figures)
    assert "A cross is Isolated" in figures[0].caption
    assert [tasks for _, tasks, _ in members][:2] == [(0,), (0, 1)]
