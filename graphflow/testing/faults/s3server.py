"""A real server of S3's protocol on loopback, moto's, as a process of its own: for tests and benchmarks.

It keeps what it is given in memory, accepts any credentials by default, and ends with the process that started it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

__all__ = ["CREDENTIALS", "Bucket", "S3Server"]

CREDENTIALS = {"key": "graphflow-testing", "secret": "not-a-secret"}
"""What it is asked with; it takes any."""

_SERVER = """
import logging, os, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").disabled = True
app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket of a server: its URL, and how to reach it by storage options or by environment."""

    endpoint: str
    name: str

    @property
    def url(self) -> str:
        """The bucket, as a URL for stores."""
        return f"s3://{self.name}"

    @property
    def storage_options(self) -> dict[str, Any]:
        """What reaches it without any environment."""
        return {
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
            **CREDENTIALS,
        }

    @property
    def environment(self) -> dict[str, str]:
        """What reaches it without any storage options; nothing of this machine's own configuration is used."""
        return {
            "AWS_ACCESS_KEY_ID": CREDENTIALS["key"],
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS["secret"],
            "AWS_SESSION_TOKEN": "",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class S3Server:
    """The server; start it once, and give each test a bucket of its own.

    Raises
    ------
    RuntimeError
        If it does not start, such as where moto is not installed.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.close()
            raise RuntimeError("the S3 server did not start; is moto[server] installed?")
        self.endpoint = f"http://127.0.0.1:{port}"

    def bucket(self, name: str | None = None) -> Bucket:
        """Return a new bucket."""
        bucket = Bucket(endpoint=self.endpoint, name=name or f"graphflow-{uuid.uuid4().hex[:16]}")
        self.ask("PUT", f"/{bucket.name}")
        return bucket

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a plain request, past all that is tested; also moto's own, such as `/moto-api/reset`."""
        request = urllib.request.Request(self.endpoint + path, data=body, method=method)
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=30) as answer:
            data: bytes = answer.read()
        return data

    def close(self) -> None:
        """Stop it; calling it again does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.terminate()
        self._process.wait(timeout=30)
