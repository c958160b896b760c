"""`whisper-router ui`: three addresses, and nothing that outlives it; the report is read-only and local."""

import http.client
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from waiting import wait_until

from whisper_router import ui
from whisper_router.errors import UserError
from whisper_router.run import free_port
from whisper_router.ui import serve_report

MARK = "WHISPER_ROUTER_TEST"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "data/docs").mkdir(parents=True)
    (tmp_path / "data/report.html").write_text("<p>a report</p>")
    (tmp_path / "data/docs/page.html").write_text("<p>beside it</p>")
    return tmp_path


@pytest.fixture
def report(project) -> Iterator[http.client.HTTPConnection]:
    with serve_report(0) as address:
        place = urlsplit(address)
        assert place.hostname == "127.0.0.1"
        yield http.client.HTTPConnection(place.hostname, place.port)


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes]:
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_report_and_its_folder_are_served(report):
    assert ask(report, "/") == (200, b"<p>a report</p>")
    assert ask(report, "/report.html") == (200, b"<p>a report</p>")
    assert ask(report, "/docs/page.html") == (200, b"<p>beside it</p>")


@pytest.mark.parametrize("path", ["/../params.yaml", "/%2e%2e/params.yaml", "/docs/", "/no.html"])
def test_nothing_else_is_served(report, path):
    assert ask(report, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_report_is_read_only(report, method):
    assert ask(report, "/report.html", method)[0] == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8080", 200), ("127.0.0.1", 200), ("[::1]:8080", 200), ("evil.example", 421), ("[", 421)],
)
def test_a_page_that_calls_this_machine_by_another_name_is_refused(report, host, status):
    assert ask(report, "/", Host=host)[0] == status


def test_a_port_that_is_taken_is_replaced(report):
    assert free_port(report.port) not in (0, report.port)
    assert free_port(wanted := free_port()) == wanted


def test_a_folder_that_is_no_project_is_told_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="in the project's folder"):
        ui.show()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.acceptance
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_three_addresses_answer_and_nothing_is_left(project, number, code):
    mark = uuid.uuid4().hex
    (project / "data/report.html").unlink()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("whisper-router"), "ui"],
        env=kept | {MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert [line.split()[0] for line in lines[:3]] == ["Prefect", "MLflow", "report"]
        assert "data/report.html does not exist yet" in lines[2]
        prefect, mlflow, report = (line.split()[1] for line in lines[:3])
        (project / "data/report.html").write_text("<p>a report</p>")
        for address in (f"{prefect}/api/health", prefect, f"{mlflow}/health", mlflow, report):
            assert urllib.request.urlopen(address, timeout=60).status == 200
        assert (project / ".prefect/prefect.db").is_file()
        assert (project / "mlruns/mlflow.db").is_file()
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        wait_until(lambda: not marked(mark), 10)
    finally:
        for left in marked(mark):
            left.kill()
        process.wait()


def marked(value: str) -> list[psutil.Process]:
    """Living processes that carry the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value:
                found.append(process)
        except psutil.Error:
            continue
    return found
