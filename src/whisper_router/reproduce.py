"""An audit's last step: run the commit's DAG with its own code elsewhere, and compare all outputs."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_router import git
from whisper_router.audit import Link, first_difference, lock_outputs
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.run import dvc_call

RUN = "import sys; from whisper_router.cli import app; sys.argv = ['whisper-router', 'run']; app()"
METRICS = ("data/metrics/summary.json", "data/metrics/policies.json", "data/metrics/test.json")


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="whisper-router-audit-"))
    folder = parent / "worktree"
    try:
        git.do("worktree", "add", "--detach", str(folder), commit)
        yield folder
    finally:
        git.ask("worktree", "remove", "--force", str(folder))
        shutil.rmtree(parent, ignore_errors=True)
        git.ask("worktree", "prune")


def _dvc(folder: Path, *arguments: str) -> bool:
    command, variables = dvc_call(*arguments)
    return subprocess.run(command, cwd=folder, env=variables, check=False).returncode == 0


def _tracked_audio(folder: Path) -> None:
    """Bring files that DVC tracks by .dvc files: from this project's cache, then from its remote."""
    tracked = [str(path.relative_to(folder)) for path in folder.rglob("*.dvc") if path.is_file()]
    if not tracked:
        return
    cache = Path(".dvc/cache").absolute()
    _dvc(folder, "remote", "add", "--local", "audited", str(cache))
    for remote in (["-r", "audited"], []):
        if _dvc(folder, "pull", *remote, *tracked):
            return
    raise UserError(
        f"DVC has {', '.join(tracked)} neither in {cache} nor on a remote; `dvc pull` there first"
    )


def reproduce(commit: str, lock: bytes) -> list[Link]:
    """Run the DAG of a commit from its audio on, in a folder of its own, and compare with a dvc.lock.

    The content store is a new one, so that all is computed again; WHISPER_ROUTER_CACHE names another.

    Raises
    ------
    UserError
        The commit cannot be checked out, its audio is nowhere, or its DAG fails.
    """
    with _worktree(commit) as folder:
        _tracked_audio(folder)
        variables = {**os.environ, "PYTHONPATH": str(folder / "src")}
        variables.setdefault("WHISPER_ROUTER_CACHE", str(folder / ".cache"))
        for name in ("PREFECT_HOME", "MLFLOW_TRACKING_URI"):
            variables.pop(name, None)
        done = subprocess.run([sys.executable, "-c", RUN], cwd=folder, env=variables, check=False)
        if done.returncode:
            raise UserError(f"the DAG of {commit[:12]} stopped with code {done.returncode}; see above")
        before, after = lock_outputs(lock), lock_outputs((folder / "dvc.lock").read_bytes())
        links = [
            Link(
                f"reproduced {path}",
                after.get(path) == md5,
                md5[:12]
                if after.get(path) == md5
                else f"{md5[:12]} before, {after.get(path, 'none')[:12]} now",
            )
            for path, md5 in before.items()
        ]
        return [*links, *_figures(folder, before, after)]


def _figures(folder: Path, before: dict[str, str], after: dict[str, str]) -> Iterator[Link]:
    """Where metrics differ: the first figure, if DVC's cache has the ones before."""
    for path in METRICS:
        md5 = before.get(path)
        cached = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:] if md5 else None
        if md5 is None or md5 == after.get(path) or cached is None or not cached.is_file():
            continue
        difference = first_difference(read_json(cached), read_json(folder / path))
        yield Link(f"figures of {path}", False, f"first difference: {difference}")
