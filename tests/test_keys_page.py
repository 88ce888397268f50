"""The reference of keys is of the code's keys, and tells each one's meaning."""

import subprocess
import sys
from pathlib import Path

from zoo_ray.config import BenchmarkConfig, RecipeConfig, WorkersConfig, ZooConfig
from zoo_ray.search.config import BudgetConfig, DimensionConfig, SearchConfig

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = [
    BenchmarkConfig,
    RecipeConfig,
    ZooConfig,
    WorkersConfig,
    SearchConfig,
    DimensionConfig,
    BudgetConfig,
]


def test_the_page_is_what_the_code_says():
    command = [sys.executable, str(DOCS / "keys.py")]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (DOCS / "keys.md").read_text() == page, "python docs/keys.py > docs/keys.md"
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    # Of a search, `budget` is a section of the page, and no row.
    assert len(rows) == sum(len(section.model_fields) for section in SECTIONS)
