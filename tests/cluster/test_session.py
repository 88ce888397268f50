"""The entrypoint's side of Ray, where no Ray is needed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError, RpcError

from zoo_ray.cluster import session
from zoo_ray.errors import UserError

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def raising(error):
    def act(*_, **__):
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AuthenticationError("no"), "this cluster asks for its token; put it into ~/.ray/auth_tok"),
        (RpcError("away"), r"no Ray cluster answers \(away\); start one"),
    ],
)
def test_a_cluster_that_does_not_let_us_in_is_one_line(monkeypatch, error, said):
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session, "check_answers", raising(error))
    with pytest.raises(UserError, match=f"^--address 10.0.0.1:6379: {said}"):
        session.connect("10.0.0.1:6379")


@pytest.mark.parametrize(
    "words", [["jobs", "--address=127.0.0.1:1"], ["check", QUICKSTART, "--address=127.0.0.1:1"]]
)
def test_a_token_that_must_be_there_and_is_not_is_one_line(tmp_path, words):
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, ROOT / "run_cluster.py", *words],
        cwd=tmp_path,
        env=env | {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --address 127.0.0.1:1: this cluster asks for its token; ")
    assert done.stderr.count("\n") == 1


def test_a_node_that_joins_after_the_end_is_not_welcomed(monkeypatch):
    # Two looks while the driver is at work, and one after its end.
    waits = iter([([], []), ([], []), (["end"], [])])
    monkeypatch.setattr(session.ray, "wait", lambda *_, **__: next(waits))
    monkeypatch.setattr(session.ray, "get", lambda called, **_: called)
    progress = SimpleNamespace(fits=1, members_done=0)
    method = {"progress": lambda: progress, "run": lambda *_: None}
    driver = SimpleNamespace(**{k: SimpleNamespace(remote=v) for k, v in method.items()})
    done = []
    groups = SimpleNamespace(welcome=lambda: done.append("welcome"), problem=None)
    job = SimpleNamespace(workers=None)
    end = session._watch(driver, groups, job, lambda _: done.append("look"))
    assert end == (None, progress)
    assert done == ["look", "welcome", "look", "welcome", "look"]
