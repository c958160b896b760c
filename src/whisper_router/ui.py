"""Prefect, MLflow and the report of a project, side by side, for as long as someone looks at them."""

import http.server
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from rich.console import Console

from whisper_router import environment
from whisper_router.errors import UserError
from whisper_router.params import PARAMS
from whisper_router.paths import REPORT
from whisper_router.run import RunError, free_port, launch, nothing_left, prefect_command, script, wait_for
from whisper_router.serving.default import DATABASE

PREFECT_PORT, MLFLOW_PORT, REPORT_PORT = 4200, 5000, 8080


class _ReportHandler(http.server.SimpleHTTPRequestHandler):
    """The report and the files of its folder, read-only, to this machine's own names alone."""

    def send_head(self):  # type: ignore[no-untyped-def]
        """Answer GET and HEAD; a page of the web that calls this machine by a name of its own is refused."""
        host = re.sub(r":\d+$", "", self.headers.get("Host", "")).strip("[]")
        if host not in environment.LOOPBACK:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "only for this machine")
            return None
        if self.path == "/":
            self.path = f"/{REPORT.name}"
        return super().send_head()

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """No listings."""
        self.send_error(HTTPStatus.NOT_FOUND, f"no such file; the report is /{REPORT.name}")

    def log_message(self, *_: object) -> None:
        """Keep the terminal for the addresses."""


@contextmanager
def serve_report(port: int) -> Iterator[str]:
    """Serve the folder of the report; yields its address."""
    handler = partial(_ReportHandler, directory=str(REPORT.parent.absolute()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, name="report", daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _start_prefect() -> tuple[str, subprocess.Popen[bytes] | None, Path]:
    """Address, process and log of Prefect; a server that PREFECT_API_URL names is shown and not started."""
    log = Path(os.environ["PREFECT_HOME"]) / "ui.log"
    if given := os.environ.get("PREFECT_API_URL"):
        return given.removesuffix("/").removesuffix("/api"), None, log
    port = free_port(PREFECT_PORT)
    return f"http://127.0.0.1:{port}", launch(prefect_command(port, "--ui", "--no-services"), log), log


def _start_mlflow() -> tuple[str, subprocess.Popen[bytes] | None, Path]:
    """The same of MLflow, where MLFLOW_TRACKING_URI may name a server, or another database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE.absolute()}"
    log = DATABASE.with_name("ui.log")
    if uri.startswith(("http://", "https://")):
        return uri, None, log
    port, artifacts = free_port(MLFLOW_PORT), DATABASE.with_name("artifacts").absolute().as_uri()
    command = [script("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--default-artifact-root", artifacts, "--no-serve-artifacts"]
    server = launch(command, log, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    return f"http://127.0.0.1:{port}", server, log


def show() -> None:
    """Start what is not running yet, print the addresses, and stay until Ctrl-C, SIGTERM or SIGHUP.

    Raises
    ------
    UserError
        This is no project's folder, or a server does not start or stops; its log is named.
    """
    if not PARAMS.is_file():
        raise UserError(f"{PARAMS.absolute()}: no such file; run `whisper-router ui` in the project's folder")
    environment.prepare()
    try:
        with nothing_left(), serve_report(free_port(REPORT_PORT)) as report:
            with Console(stderr=True).status("starting Prefect and MLflow"):
                started = {"Prefect": _start_prefect(), "MLflow": _start_mlflow()}
                for name, (address, server, log) in started.items():
                    if server is not None:
                        health = f"{address}/api/health" if name == "Prefect" else f"{address}/health"
                        wait_for(name, health, log, server)
            print(f"Prefect  {started['Prefect'][0]}  runs of the stages")
            print(f"MLflow   {started['MLflow'][0]}  registered versions and experiments")
            print(f"report   {report}  {REPORT}", end="")
            print("" if REPORT.is_file() else " does not exist yet; `whisper-router run` writes it")
            print("Ctrl-C stops what was started here.", flush=True)
            while True:
                time.sleep(0.5)
                for name, (_, server, log) in started.items():
                    if server is not None and server.poll() is not None:
                        raise RunError(f"{name} stopped with code {server.returncode}; see {log}")
    except KeyboardInterrupt:
        print("\nstopped")
