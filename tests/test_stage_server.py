"""The server that the stages of one DVC share."""

import subprocess
import sys
import urllib.request

import psutil
import pytest

from whisper_router.stage_server import stage_server

STAGE = "from whisper_router.stage_server import stage_server; print(stage_server())"
DVC = f"""
import subprocess, sys, urllib.request
urls = [subprocess.check_output([sys.executable, "-c", {STAGE!r}], text=True).strip() for _ in range(2)]
print(*urls)
from whisper_router.run import await_api
await_api(urls[1])
print(urllib.request.urlopen(urls[1] + "/health").read().decode(), flush=True)
sys.stdin.read()
"""


def test_a_stage_that_no_dvc_runs_has_none():
    assert stage_server() is None


def test_an_editor_of_dvc_yaml_is_no_dvc(tmp_path):
    script = tmp_path / "editor"
    script.write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STAGE!r}])")
    said = subprocess.check_output([sys.executable, str(script), "dvc.yaml"], text=True)
    assert said == "None\n"


def test_the_stages_of_one_dvc_share_a_server_that_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    script = tmp_path / "dvc"
    script.write_text(DVC)
    dvc = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first, second = dvc.stdout.readline().split()
    assert first == second
    assert dvc.stdout.readline() == "true\n"
    port = int(first.split(":")[2].split("/")[0])
    serving = [
        psutil.Process(found.pid)
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port
    ]
    assert serving
    dvc.kill()
    dvc.communicate()
    psutil.wait_procs(serving, timeout=120)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{first}/health")
