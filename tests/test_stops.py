"""Ctrl-C and SIGTERM, as a terminal and `ray job stop` send them."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from processes import descendants, lives, wait_until

from zoo_ray.stops import clean_stops

ROOT = Path(__file__).parents[1]
ENDS_WITHIN_S = 3.0
FITTING = rb"epoch 2/"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def temporary_folders():
    return {*Path(tempfile.gettempdir()).glob("zoo_ray-*")}


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *words):
        self.pid, self._screen = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "run_cluster.py", *words])
        self.shown = b""
        self.started = set()
        self.folders_before = temporary_folders()

    def wait_for(self, pattern, *, seconds):
        """Until the terminal shows something; or the command has ended, where that is nothing."""
        deadline = time.monotonic() + seconds
        while not (pattern and re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown[-2000:]
            self.started.update(descendants(self.pid))
            if select.select([self._screen], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._screen, 65536)
                except OSError:  # the other side is closed
                    assert not pattern, self.shown[-2000:]
                    return

    def send(self, number):
        if number == signal.SIGINT:
            os.write(self._screen, b"\x03")  # reaches the whole foreground process group
        else:
            os.kill(self.pid, number)

    def end(self):
        self.wait_for(None, seconds=30)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def stop(terminal, number):
    """Stop a command, and hold what it does against what is promised."""
    terminal.send(number)
    sent = time.monotonic()
    assert terminal.end() == CODES[number], terminal.shown[-2000:]
    took_s = time.monotonic() - sent
    time.sleep(0.2)
    assert temporary_folders() <= terminal.folders_before
    assert [pid for pid in terminal.started if lives(pid)] == []
    # A signal may cut a bar of the display in the middle of a character.
    shown = terminal.shown.decode(errors="replace")
    last = shown.split("\r\n")[-2]
    assert "Traceback" not in shown
    return took_s, last


def train(tmp_path, *, workers):
    words = ["train", "configs/quickstart.yaml", f"--workers={workers}", f"--store={tmp_path}"]
    return [*words, "--set=recipe.epochs=300", "--set=workers.checkpoint_s=0.2"]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_run_in_one_process_stops_and_goes_on(tmp_path, number):
    terminal = Terminal(*train(tmp_path, workers=0))
    terminal.wait_for(FITTING, seconds=60)
    # The second epoch may begin before a checkpoint is due.
    wait_until(lambda: list(tmp_path.glob("progress/*/*.safetensors")))
    took_s, last = stop(terminal, number)
    assert took_s < ENDS_WITHIN_S
    assert re.search(r"stopped; to go on: python .*run_cluster\.py train configs/quickstart", last)
    assert list(tmp_path.glob("progress/*/*.safetensors"))
    assert not list(tmp_path.rglob("*.part"))


def test_the_farewell_is_a_command_that_goes_on(tmp_path):
    words = ["train", "configs/quickstart.yaml", "--workers=0", f"--store={tmp_path}/a b"]
    terminal = Terminal(*words, "--set=benchmark.tasks=[[0, 1]]", "--set=recipe.epochs=12")
    terminal.wait_for(FITTING, seconds=60)
    _, last = stop(terminal, signal.SIGINT)
    again = last.partition("to go on: python ")[2]
    done = subprocess.run(
        f"{sys.executable} {again} --json", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["members"] == 1


@pytest.mark.slow
def test_ctrl_c_ends_a_run_on_ray_with_all_its_processes(tmp_path):
    terminal = Terminal(*train(tmp_path, workers=2))
    terminal.wait_for(FITTING, seconds=120)
    assert len(terminal.started) > 10
    took_s, last = stop(terminal, signal.SIGINT)
    assert took_s < ENDS_WITHIN_S
    assert "stopped; to go on: python" in last


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("after_s", [0.5, 2, 4, 8])
def test_a_run_may_be_stopped_while_ray_starts(tmp_path, number, after_s):
    terminal = Terminal(*train(tmp_path, workers=2))
    terminal.wait_for(b"starting", seconds=60)
    time.sleep(after_s)
    terminal.started.update(descendants(terminal.pid))
    took_s, last = stop(terminal, number)
    assert took_s < ENDS_WITHIN_S
    assert "stopped; to go on: python" in last


@pytest.mark.slow
def test_sigterm_ends_a_run_on_ray_with_all_its_processes(tmp_path):
    terminal = Terminal(*train(tmp_path, workers=2))
    terminal.wait_for(FITTING, seconds=120)
    took_s, _ = stop(terminal, signal.SIGTERM)
    assert took_s < ENDS_WITHIN_S


STUCK = """
import os, signal, time
from zoo_ray.stops import clean_stops
with clean_stops(farewell="bye"):
    print("here", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
"""


def test_a_clean_up_that_does_not_end_is_cut_short():
    command = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command.stdout.readline()
    command.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    time.sleep(0.3)
    command.send_signal(signal.SIGINT)  # of somebody who does not want to wait
    assert command.communicate()[1] == "bye\n"
    assert command.returncode == 143
    assert time.monotonic() - sent < ENDS_WITHIN_S


SWALLOWED = """
import signal, time
from zoo_ray.stops import clean_stops
class Watched:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
with clean_stops(farewell="bye"):
    Watched()
    time.sleep(60)
"""


def test_a_signal_in_a_callback_ends_it_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (143, "bye\n")


def test_without_a_signal_nothing_is_changed():
    handlers = [signal.getsignal(number) for number in CODES]
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"), clean_stops(farewell="bye"):
            raise ValueError("mine")
    assert [signal.getsignal(number) for number in CODES] == handlers
    time.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) == open_before
