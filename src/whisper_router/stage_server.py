"""One Prefect server for all stages that a plain `dvc repro` or `dvc exp run` runs; it ends with that DVC.

python -m whisper_router.stage_server PORT PID    # serves until process PID has ended
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from whisper_router.run import api, free_port, launch, nothing_left, prefect_command, prefect_log


class _Server(BaseModel):
    """The server that a stage started, and the DVC that it started it for."""

    model_config = ConfigDict(frozen=True)

    url: str
    dvc: int
    dvc_began: float  # a process number alone may come again
    keeper: int


def stage_server() -> str | None:
    """The API's URL of the server of the DVC that runs this stage; it may be starting still.

    The first stage starts it. None where no DVC runs this stage: Prefect starts a server of its own.
    """
    dvc = next((process for process in psutil.Process().parents() if _is_dvc(process)), None)
    if dvc is None:
        return None
    home = Path(os.environ["PREFECT_HOME"])
    state = home / "stage-server.json"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(state.with_suffix(".lock")):
        with suppress(OSError, ValidationError):
            known = _Server.model_validate_json(state.read_text())
            if (known.dvc, known.dvc_began) == (dvc.pid, dvc.create_time()) and psutil.pid_exists(
                known.keeper
            ):
                return known.url
        port = free_port()
        keeper = launch([sys.executable, "-m", __name__, str(port), str(dvc.pid)], prefect_log())
        made = _Server(url=api(port), dvc=dvc.pid, dvc_began=dvc.create_time(), keeper=keeper.pid)
        state.write_text(made.model_dump_json())
        return made.url


def _is_dvc(process: psutil.Process) -> bool:
    """Whether a process is the command of DVC, started as a script or by ``python -m dvc``."""
    with suppress(psutil.Error):
        return any(Path(part).name in ("dvc", "dvc.exe") for part in process.cmdline()[:3])
    return False


def _keep(port: int, pid: int) -> None:
    """Serve until a process has ended."""
    with nothing_left():
        server = subprocess.Popen(prefect_command(port, "--no-ui"))
        while psutil.pid_exists(pid) and server.poll() is None:
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                psutil.Process(pid).wait(timeout=5)


if __name__ == "__main__":
    _keep(*map(int, sys.argv[1:]))
