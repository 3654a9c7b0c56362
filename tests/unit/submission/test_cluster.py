"""Clusters that are not there, refuse, are of another version or none at all: one sentence each. A real HTTP server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from vila2_ray.errors import ClusterUnusable
from vila2_ray.submission.cluster import Cluster


class Dashboard(http.server.BaseHTTPRequestHandler):
    answer: tuple[int, str] = (200, "{}")

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")  # another's: what is said counts
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "no", "refuses our token: set RAY_AUTH_MODE=token"),
        (403, "no", "refuses our token"),
        (404, "not here", "no Ray dashboard answers at"),
        (500, "oh", "no Ray dashboard answers at"),
        (200, "<html>a router</html>", "does not answer well"),
        (200, json.dumps({"ray_version": "2.9.3", "version": "4"}), "runs Ray 2.9.3, ours is 2."),
    ],
)
def test_what_is_wrong_is_one_sentence(
    status: int, body: str, said: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "answer", (status, body))
    with pytest.raises(ClusterUnusable, match=said) as wrong:
        Cluster(address).find("/c")
    assert address in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_nobody_is_there() -> None:
    with pytest.raises(
        ClusterUnusable, match=r"no Ray dashboard answers at http://127\.0\.0\.1:1: look at the address"
    ):
        Cluster("http://127.0.0.1:1").find("/c")
