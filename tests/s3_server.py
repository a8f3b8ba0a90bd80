"""An S3-compatible server of the tests' own: SeaweedFS, with its own folder and ports, gone when they end."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

KEY_ID, SECRET, BUCKET = "lowtide", "a-secret-of-the-tests", "blobs"
START_SECONDS = 60.0
PORTS = ("s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc")
MORE_PORTS = ("filer", "filer.port.grpc", "admin", "admin.port.grpc")


class S3Server:
    """``with S3Server() as server: server.endpoint`` has one bucket, ``BUCKET``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lowtide-s3-"))
        names = [name if ".port" in name else f"{name}.port" for name in PORTS + MORE_PORTS]
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.folder / "data").mkdir()
        identity = {"name": "app", "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}]}
        allowed = ["Admin", "Read", "Write", "List", "Tagging"]
        access = self.folder / "s3.json"
        access.write_text(json.dumps({"identities": [{**identity, "actions": allowed}]}))
        command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={self.folder / 'data'}"]
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={access}", f"-bucket={BUCKET}"]
        command += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{name}={port}" for name, port in self._ports.items()]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        assert self._process is not None
        log, until = self.folder / "log", time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            if "Press Ctrl+C" in log.read_text("utf-8"):
                return
            time.sleep(0.05)
        raise RuntimeError(f"SeaweedFS did not start: {log.read_text('utf-8')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    opened = [socket.socket() for _ in range(count)]
    try:
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in opened]
    finally:
        for one in opened:
            one.close()
