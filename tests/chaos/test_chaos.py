"""A round of chaos of each kind; `make chaos ROUNDS=20` plays more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_whatever_is_killed_the_zoo_is_the_same():
    # In a process of its own, as Ray reads the token of its cluster when it is imported.
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), "--rounds=4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["held"]
    assert found["refitted"] == 0
    assert {fault: kind["count"] for fault, kind in found["faults"].items()} == dict.fromkeys(
        ("worker", "driver", "entrypoint", "node"), 1
    )
