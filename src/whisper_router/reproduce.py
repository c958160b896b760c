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
from whisper_router.audit import Link, lock_outputs
from whisper_router.comparison import DRAWN, cached_files, difference
from whisper_router.errors import UserError
from whisper_router.installed import check_installed
from whisper_router.run import dvc_call

RUN = "import sys; from whisper_router.cli import app; sys.argv = ['whisper-router', 'run']; app()"
CLOSE = "texts and counts equal, floats within 1e-3; not the same bytes, as on another processor"


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
        The commit cannot be checked out, its audio is nowhere, its DAG fails, or it names another package
        than the installed one.
    """
    with _worktree(commit) as folder:
        check_installed(folder)
        _tracked_audio(folder)
        variables = {**os.environ, "PYTHONPATH": str(folder / "src")}
        variables.setdefault("WHISPER_ROUTER_CACHE", str(folder / ".cache"))
        for name in ("PREFECT_HOME", "MLFLOW_TRACKING_URI"):
            variables.pop(name, None)
        done = subprocess.run([sys.executable, "-c", RUN], cwd=folder, env=variables, check=False)
        if done.returncode:
            raise UserError(f"the DAG of {commit[:12]} stopped with code {done.returncode}; see above")
        before, after = lock_outputs(lock), lock_outputs((folder / "dvc.lock").read_bytes())
        cache = Path(".dvc/cache").absolute()
        return [_compared(path, md5, after.get(path), folder, cache) for path, md5 in before.items()]


def _compared(path: str, before: str, after: str | None, folder: Path, cache: Path) -> Link:
    """One output as it was and as it was made again: byte for byte, close, drawn or different."""
    name = f"reproduced {path}"
    if after == before:
        return Link(name, True, f"byte for byte: {before[:12]}")
    if after is None:
        return Link(name, False, f"differs: {before[:12]} before, none now")
    bytes_ = f"{before[:12]} before, {after[:12]} now"
    old = dict(cached_files(cache, path, before))
    if not all(file.is_file() for file in old.values()):
        return Link(
            name,
            False,
            f"other bytes ({bytes_}), and the ones before are not in {cache}, so that what they say cannot "
            "be compared; `dvc fetch` brings them from a remote, then audit again",
        )
    now = folder / path
    new = {file.relative_to(folder).as_posix() for file in now.rglob("*") if file.is_file()} or {path}
    if old.keys() != new:
        return Link(name, False, f"differs: other files: {', '.join(sorted(old.keys() ^ new))}")
    compared = {file: place for file, place in old.items() if Path(file).suffix not in DRAWN}
    for file, place in sorted(compared.items()):
        found = difference(place, folder / file, file)
        if found:
            return Link(name, False, f"differs: {file}: {found} ({bytes_})")
    if not compared:
        return Link(
            name, None, f"drawn from the figures, which are compared themselves; other bytes ({bytes_})"
        )
    return Link(name, True, f"{CLOSE} ({bytes_})")
