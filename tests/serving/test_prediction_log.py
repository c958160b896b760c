"""The prediction log where several services write into one folder."""

import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from whisper_router.serving import prediction_log
from whisper_router.serving.prediction_log import PREDICTIONS, SHADOW, TABLES, PredictionLog

MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class Frozen(datetime):
    """Always the same moment."""

    @classmethod
    def now(cls, tz=None) -> datetime:
        return MOMENT


def row(kind: str, request: str) -> dict[str, object]:
    return dict.fromkeys(TABLES[kind]) | {"time": MOMENT, "request": request, "version": "1", "route": "weak"}


def requests(folder: Path, kind: str) -> list[str]:
    files = sorted(folder.glob(f"{kind}-*.parquet"))
    return [name for file in files for name in pd.read_parquet(file)["request"]]


@pytest.mark.parametrize("kind", [PREDICTIONS, SHADOW])
def test_services_of_one_process_id_and_one_moment_keep_all_rows(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(prediction_log, "datetime", Frozen)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    logs = [PredictionLog(tmp_path, 10, 600, False, kind) for _ in range(2)]

    def write(number: int) -> None:
        for i in range(100):
            logs[number].add(row(kind, f"{number}-{i}"))
            if i % 10 == 9:
                logs[number].flush()
        logs[number].stop()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert sorted(requests(tmp_path, kind)) == sorted(f"{n}-{i}" for n in range(2) for i in range(100))


def test_a_file_that_is_there_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "datetime", Frozen)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=1))
    for name in ("first", "second"):
        log = PredictionLog(tmp_path, 10, 600, False)
        log.add(row(PREDICTIONS, name))
        log.flush()  # of the second: refused, its row is held
        log.stop()
    assert sorted(requests(tmp_path, PREDICTIONS)) == ["first", "second"]


SCRIPT = """
import os, sys
from pathlib import Path
os.getpid = lambda: 1
from whisper_router.serving.prediction_log import PREDICTIONS, TABLES, PredictionLog
log = PredictionLog(Path(sys.argv[1]), 5, 600, False)
for i in range(20):
    log.add(dict.fromkeys(TABLES[PREDICTIONS]) | {"request": f"{sys.argv[2]}-{i}", "version": "1"})
log.stop()
"""


def test_two_processes_keep_all_rows(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    running = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [one.wait(120) for one in running] == [0, 0]
    assert sorted(requests(tmp_path, PREDICTIONS)) == sorted(f"{n}-{i}" for n in "ab" for i in range(20))
    assert not list(tmp_path.glob(".*"))
