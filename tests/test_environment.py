"""Settings of every entry point: this machine's own servers are asked directly; no POSIX name is needed."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import httpx
import pytest

from whisper_router import environment
from whisper_router.run import _DIRECT


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intern.example, 127.0.0.1"}, "intern.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": ".example"}, ".example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_loopback_is_added_to_what_no_proxy_is_asked_for(monkeypatch, given, expected):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, given.get(name, ""))
    for _ in range(2):
        environment.prepare()
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == expected


@pytest.fixture
def local() -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api/health"
        server.shutdown()


def test_a_proxy_that_never_answers_is_not_asked_for_what_runs_here(monkeypatch, local):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelling in (name, name.lower()):
                monkeypatch.setenv(spelling, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with _DIRECT.open(local, timeout=5) as answer:  # as _wait does, prepared or not
            assert answer.status == 200
        environment.prepare()
        with urllib.request.urlopen(local, timeout=5) as answer:
            assert answer.status == 200
        assert httpx.get(local, timeout=5).status_code == 200  # as Prefect's client does
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


EVERY_MODULE = """
import os, pkgutil, signal, sys
import importlib
import distributed, mlflow, prefect, torch  # these have a way of their own
del os.sched_getaffinity, signal.SIGHUP
sys.modules["resource"] = sys.modules["fcntl"] = None
import flows, whisper_router
for package in (whisper_router, flows):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""


def test_every_module_imports_where_there_is_no_affinity_and_no_posix():
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"whisper_router.labelling", "flows.shards", "whisper_router.run"} <= set(done.stdout.split())
