"""Hosts of our own on this machine: namespaces with an address, an ssh server and a /tmp each.

Everything is within a namespace of processes, of mounts and of the network, the laboratory: what
runs there sees no process of this machine, and ends with it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = "/mnt/shared"
"""A folder that all hosts see."""
HOME = "/tmp/home"
"""root's, a folder of its own on each."""

_TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
}
# What is there and must stay there when /tmp is another.
_KEPT = sorted({str(ROOT), sys.prefix, sys.base_prefix, str(Path(sys.prefix).resolve())})
_FRESH = r"""
set -eu
mount -t tmpfs tmpfs /run
for path in $KEPT; do
  case "$path" in /tmp/*) mkdir -p "/run/kept$path"; mount --rbind "$path" "/run/kept$path";; esac
done
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp
for path in $KEPT; do
  case "$path" in /tmp/*) mkdir -p "$path"; mount --rbind "/run/kept$path" "$path";; esac
done
mount -t tmpfs tmpfs /dev/shm
mkdir -p "$HOME/.ssh" "$HOME/.ray" /run/sshd
chmod 700 "$HOME" "$HOME/.ssh"
touch "$HOME/.bashrc"
ip link set lo up
"""
_LABORATORY = (
    _FRESH
    + r"""
mount -t tmpfs tmpfs /mnt
mkdir /mnt/shared
echo "root:x:0:0:root:$HOME:/bin/bash
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin" > /mnt/passwd
mount --bind /mnt/passwd /etc/passwd
echo "root:*:19000:0:99999:7:::" > /mnt/shadow
mount --bind /mnt/shadow /etc/shadow
ssh-keygen -q -t ed25519 -N "" -f "$HOME/.ssh/id_ed25519"
ssh-keygen -q -t ed25519 -N "" -f /mnt/host_key
cp "$HOME/.ssh/id_ed25519.pub" /mnt/authorized_keys
ip link add br0 type bridge
ip address add 10.77.0.1/24 dev br0
ip link set br0 up
for host in $HOSTS; do
  ip netns add "h$host"
  ip link add "v$host" type veth peer name eth0 netns "h$host"
  ip link set "v$host" master br0 up
  ip -n "h$host" address add "10.77.0.$host/24" dev eth0
  ip -n "h$host" link set eth0 up
  ip -n "h$host" route add default via 10.77.0.1
done
touch /run/ready
exec sleep infinity
"""
)
_HOST = (
    _FRESH
    + r"""
hostname "h$1"
ln -s "$ENVIRONMENT" "$HOME/zoo_ray_env"
exec /usr/sbin/sshd -D -e -f /dev/null -h /mnt/host_key -o PidFile=none -o UsePAM=no \
  -o StrictModes=no -o AuthorizedKeysFile=/mnt/authorized_keys
"""
)


def why_not() -> str | None:
    """Why there can be no hosts here; None: there can."""
    if os.geteuid():
        return "hosts are made of namespaces, which needs root"
    missing = {package for tool, package in _TOOLS.items() if shutil.which(tool) is None}
    if missing:
        return f"first: apt-get install {' '.join(sorted(missing))}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"])
    return "no namespaces may be made here" if tried.returncode else None


class Hosts:
    """Some hosts, `10.77.0.11` and so on, and a machine that reaches them, `10.77.0.1`.

    A context manager: at its end all is gone.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._numbers = range(11, 11 + count)
        self.addresses = [f"10.77.0.{number}" for number in self._numbers]
        self._variables = {
            "HOME": HOME,
            "HOSTS": " ".join(map(str, self._numbers)),
            "KEPT": " ".join(_KEPT),
            "ENVIRONMENT": sys.prefix,
            "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def __enter__(self) -> "Hosts":
        self._stack = contextlib.ExitStack()
        self._said = self._stack.enter_context(tempfile.TemporaryFile("w+"))
        isolated = ["--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net"]
        self._laboratory = subprocess.Popen(
            ["unshare", *isolated, "--ipc", "--uts", "bash", "-c", _LABORATORY],
            env=self._variables,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )
        self._stack.callback(self._laboratory.wait)
        self._stack.callback(self._laboratory.kill)
        try:
            self._await(lambda: bool(_children(self._laboratory.pid)))
            self._await(lambda: self.run("test", "-e", "/run/ready").returncode == 0)
            for number in self._numbers:
                self._start(number)
            for address in self.addresses:
                self._await(lambda to=address: self.run(*self._ssh(to), "true").returncode == 0)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *command: str, **options: object) -> subprocess.Popen:
        """Start a command on the machine that reaches them."""
        (init,) = _children(self._laboratory.pid)
        enter = ["nsenter", "--target", str(init), "--mount", "--net", "--pid", "--ipc", "--uts"]
        return subprocess.Popen(
            [*enter, f"--wd={ROOT}", "--", *command],
            env=self._variables,
            stdin=subprocess.DEVNULL,
            text=True,
            **options,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command there; its stdout and stderr are text."""
        started = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = started.communicate()
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def on(self, address: str, command: str) -> subprocess.CompletedProcess:
        """Run a shell's command on a host, by ssh."""
        return self.run(*self._ssh(address), command)

    def cut_off(self, address: str) -> None:
        """Have a host's power fail: nobody hears from it again, not even that it is gone."""
        number = address.rpartition(".")[2]
        assert self.run("ip", "link", "set", f"v{number}", "down").returncode == 0
        assert self.run("bash", "-c", f"kill -9 $(cat /run/h{number}.pid)").returncode == 0

    def _start(self, number: int) -> None:
        isolated = "--pid --fork --kill-child --mount-proc --mount --ipc --uts"
        script = (
            f"echo $$ > /run/h{number}.pid; "
            f'exec ip netns exec h{number} unshare {isolated} bash -c "$0" host {number}'
        )
        self.start("bash", "-c", script, _HOST, stdout=self._said, stderr=subprocess.STDOUT)

    def _ssh(self, address: str) -> Sequence[str]:
        quiet = ["-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5"]
        return ["ssh", *quiet, "-i", f"{HOME}/.ssh/id_ed25519", f"root@{address}"]

    def _await(self, condition: object) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline or self._laboratory.poll() is not None:
                self._said.seek(0)
                raise AssertionError(f"the hosts do not start: {self._said.read()}")
            time.sleep(0.2)


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
