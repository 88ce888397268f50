"""A real S3 server for tests: SeaweedFS, in a folder of its own, on free ports of 127.0.0.1."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.fs
from processes import free_ports

ACCESS_KEY = "AKIAZOORAYTEST"
SECRET_KEY = "zoo/ray+test=secret"
BUCKET = "zoo-ray"


class S3Server:
    """A server that can be stopped and started, and keeps what it was given."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir()
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        self.ports = dict(zip([*names, *(f"{n}.grpc" for n in names)], ports, strict=True))
        self.process = None
        self.start()
        self.create_bucket()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def address(self, prefix: str, *, bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?endpoint_override={self.endpoint}&scheme=http"

    def start(self) -> None:
        weed = Path(sys.executable).with_name("weed")
        options = [
            *(
                f"-{n.split('.')[0]}.port{n.partition('.')[1]}{n.partition('.')[2]}={port}"
                for n, port in self.ports.items()
            ),
            *("-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder}/data"),
            *(f"-s3.config={self.folder}/s3.json", "-s3.autoCreateBucket=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
            *(f"-filer.localSocket={self.folder}/f.sock", f"-s3.localSocket={self.folder}/s.sock"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.preStopSeconds=0"),
            # Alone, a master that was killed need not wait for others.
            "-master.electionTimeout=500ms",
        ]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(weed), "-logtostderr", "server", *options], stdout=log, stderr=log
            )

    def create_bucket(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                pyarrow.fs.S3FileSystem(
                    access_key=ACCESS_KEY,
                    secret_key=SECRET_KEY,
                    endpoint_override=self.endpoint,
                    scheme="http",
                    allow_bucket_creation=True,
                    request_timeout=2,
                    connect_timeout=1,
                ).create_dir(BUCKET)
                break
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.2)

    def freeze(self) -> None:
        """It takes requests and answers none."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Nobody is there any more; `start` brings it back with all that it had."""
        self.process.kill()
        self.process.wait()
