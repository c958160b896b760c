"""From a served version back to everything it was made of, link by link.

Each link compares two records that were written apart: the registry's tags, the run's artifacts, the
model's files, git's blobs, dvc.lock, DVC's cache, the checkpoints. A link that cannot be checked says so.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML

from whisper_router import git
from whisper_router.asr.reference import arm_references
from whisper_router.asr.weights import find_checkpoint
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.hashing import file_sha256, folder_sha256
from whisper_router.promotion import MODEL, find_version, registry
from whisper_router.router import WEIGHTS

PACKAGE = Path("src/whisper_router")
OUTPUTS = {name: f"data/{name}.parquet" for name in ("manifest", "transcripts", "labels")}


@dataclass(frozen=True)
class Link:
    """One comparison; ``holds`` is None where it could not be made here."""

    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Subject:
    """What is audited."""

    title: str
    router: Path  # the packaged folder
    code: Path | None  # whisper_router as logged with the model
    artifacts: Path | None  # of the MLflow run
    tags: Mapping[str, str]
    figures: Mapping[str, float]  # metrics of the run


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def dvc_md5(folder: Path) -> str:
    """What DVC writes into dvc.lock for a folder: MD5 over the listing of its files and their MD5."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    listing = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.relative_to(folder).as_posix()}
        for path in files
        if path.relative_to(folder).parts[0] != WEIGHTS
    ]
    listing.sort(key=lambda entry: tuple(entry["relpath"].split("/")))
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def lock_outputs(lock: bytes) -> dict[str, str]:
    """MD5 of every output in a dvc.lock, by path."""
    stages = YAML(typ="safe").load(lock.decode())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def registered(version: str) -> Subject:
    """A version of the registry, by number or alias.

    Raises
    ------
    UserError
        No such version, or its files are gone.
    """
    client = registry()
    found = find_version(client, version)
    uri = f"models:/{MODEL}/{found.version}"
    try:
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except MlflowException as error:
        raise UserError(f"{uri}: its files are gone: {error}") from error
    artifacts, figures = None, {}
    if found.run_id:
        try:
            artifacts = Path(mlflow.artifacts.download_artifacts(run_id=found.run_id))
            figures = client.get_run(found.run_id).data.metrics
        except MlflowException:
            artifacts = None
    code = model / "code" / "whisper_router"
    return Subject(
        f"{MODEL} version {found.version}",
        model / "artifacts" / "router",
        code if code.is_dir() else None,
        artifacts,
        found.tags,
        figures,
    )


def packaged(folder: Path) -> Subject:
    """A packaged router without a registry; the commit is the newest whose dvc.lock made it.

    Raises
    ------
    UserError
        It is no packaged router.
    """
    if not (folder / "provenance.json").is_file():
        raise UserError(f"{folder}: no provenance.json in it; name a version, or a folder that package wrote")
    md5 = dvc_md5(folder)
    for commit, lock in _locks():
        if lock_outputs(lock).get("data/router") == md5:
            tags = {"git_commit": commit, "dvc_lock_sha256": _sha256(lock)}
            return Subject(str(folder), folder, None, None, tags, {})
    return Subject(str(folder), folder, None, None, {}, {})


def _locks() -> Iterator[tuple[str, bytes]]:
    """Commits that changed dvc.lock, the newest first, with what it held."""
    for commit in git.text("log", "--all", "--format=%H", "--", "dvc.lock").split():
        lock = git.ask("show", f"{commit}:dvc.lock")
        if lock:
            yield commit, lock


def commit_of(subject: Subject) -> str | None:
    """The commit that is audited: the recorded one, or the one that took its dvc.lock in afterwards."""
    recorded, wanted = subject.tags.get("git_commit"), subject.tags.get("dvc_lock_sha256")
    lock = git.ask("show", f"{recorded}:dvc.lock") if recorded else None
    if lock is not None and _sha256(lock) == wanted:
        return recorded
    return next((commit for commit, lock in _locks() if _sha256(lock) == wanted), recorded)


def _equal(name: str, found: str | None, expected: str | None, what: str, where: str) -> Link:
    if found is None or expected is None:
        missing = what if found is None else where
        return Link(name, False, f"{missing} is missing")
    if found == expected:
        return Link(name, True, f"{what} = {where}, {found[:12]}")
    return Link(name, False, f"{what} is {found[:12]}, {where} says {expected[:12]}")


def _commit(subject: Subject) -> Iterator[Link]:
    commit = commit_of(subject)
    if commit is None or commit == "none":
        yield Link("git commit", False, "no commit is recorded: it was registered by hand, or outside of git")
        return
    if git.ask("cat-file", "-e", f"{commit}^{{commit}}") is None:
        yield Link("git commit", False, f"{commit[:12]} is not in this repository; fetch it")
        return
    late = "" if commit == subject.tags["git_commit"] else ": it took in dvc.lock after the registration"
    yield Link("git commit", True, f"{commit[:12]} is in this repository{late}")
    lock = git.ask("show", f"{commit}:dvc.lock")
    yield _equal(
        "dvc.lock of the commit",
        None if lock is None else _sha256(lock),
        subject.tags.get("dvc_lock_sha256"),
        "dvc.lock of the commit",
        "the version's tag",
    )
    provenance = read_json(subject.router / "provenance.json")
    environment = git.ask("show", f"{commit}:requirements.lock")
    yield _equal(
        "environment",
        None if environment is None else _sha256(environment),
        provenance["sha256"].get("requirements.lock"),
        "requirements.lock of the commit",
        "provenance.json",
    )
    if subject.artifacts is not None:
        params = subject.artifacts / "params.yaml"
        committed = git.ask("show", f"{commit}:params.yaml")
        yield _equal(
            "params.yaml",
            file_sha256(params) if params.is_file() else None,
            None if committed is None else _sha256(committed),
            "params.yaml of the run",
            "the commit",
        )
    if subject.code is not None:
        yield _code(subject.code, commit)


def _code(code: Path, commit: str) -> Link:
    """The model's code, blob by blob, against the commit's."""
    committed = {}
    for line in git.text("ls-tree", "-r", commit, f"{PACKAGE.as_posix()}/").splitlines():
        entry, path = line.split("\t")
        committed[Path(path).relative_to(PACKAGE).as_posix()] = entry.split()[2]
    found = {}
    for file in code.rglob("*"):
        relative = file.relative_to(code)
        if file.is_file() and "__pycache__" not in relative.parts:
            data = file.read_bytes()
            found[relative.as_posix()] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    differ = sorted(name for name in {*committed, *found} if committed.get(name) != found.get(name))
    if differ:
        return Link("code", False, f"{len(differ)} files are not those of the commit, first {differ[0]}")
    return Link("code", True, f"{len(found)} files are those of the commit")


def _run(subject: Subject) -> Iterator[Link]:
    if subject.artifacts is None:
        yield Link("MLflow run", False, "no run with artifacts: it was registered by hand, or they are gone")
        return
    lock = subject.artifacts / "dvc.lock"
    yield _equal(
        "dvc.lock of the run",
        file_sha256(lock) if lock.is_file() else None,
        subject.tags.get("dvc_lock_sha256"),
        "dvc.lock of the run",
        "the version's tag",
    )
    if not lock.is_file():
        return
    outputs = lock_outputs(lock.read_bytes())
    summary = subject.artifacts / "metrics" / "summary.json"
    yield _equal(
        "metrics",
        hashlib.md5(summary.read_bytes()).hexdigest() if summary.is_file() else None,
        outputs.get("data/metrics/summary.json"),
        "metrics/summary.json of the run",
        "dvc.lock",
    )
    if summary.is_file():
        written = {name: float(value) for name, value in read_json(summary).items() if value is not None}
        differ = [name for name, value in written.items() if subject.figures.get(name) != value]
        detail = (
            f"{differ[0]} is {subject.figures.get(differ[0])} in MLflow, {written[differ[0]]} in summary.json"
            if differ
            else f"{len(written)} figures in MLflow are those of summary.json"
        )
        yield Link("figures", not differ, detail)


def lock_of(subject: Subject) -> bytes | None:
    """The dvc.lock that made it, as the run or else the commit has it."""
    if subject.artifacts is not None and (subject.artifacts / "dvc.lock").is_file():
        return (subject.artifacts / "dvc.lock").read_bytes()
    commit = commit_of(subject)
    return git.ask("show", f"{commit}:dvc.lock") if commit else None


def _router(subject: Subject) -> Iterator[Link]:
    provenance = read_json(subject.router / "provenance.json")
    expected = provenance["sha256"]
    decider = subject.router / "decider"
    for name in sorted(
        {*expected.get("policies", {}), *(path.stem for path in subject.router.glob("policies/*.json"))}
    ):
        policy = subject.router / "policies" / f"{name}.json"
        yield _equal(
            f"policy {name}",
            file_sha256(policy) if policy.is_file() else None,
            expected.get("policies", {}).get(name),
            f"policies/{name}.json",
            "provenance.json",
        )
    yield _equal(
        "decider",
        folder_sha256(decider) if decider.is_dir() else None,
        expected.get("decider"),
        "decider/",
        "provenance.json",
    )
    lock = lock_of(subject)
    if lock is None:
        yield Link("router folder", False, "no dvc.lock names it: changed, or not made by the DAG")
        return
    outputs = lock_outputs(lock)
    yield _equal(
        "router folder",
        dvc_md5(subject.router),
        outputs.get("data/router"),
        "the model's router/",
        "dvc.lock",
    )
    for name, path in OUTPUTS.items():
        yield _output(name, outputs.get(path), expected.get(name))


def _output(name: str, md5: str | None, sha256: str | None) -> Link:
    """A stage's output: dvc.lock knows its MD5, provenance.json its SHA-256; DVC's cache has the file."""
    if md5 is None or sha256 is None:
        return Link(name, False, f"{'dvc.lock' if md5 is None else 'provenance.json'} does not name it")
    cached = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    if not cached.is_file():
        return Link(name, None, f"{md5[:12]} is not in DVC's cache; `dvc pull` at that commit")
    data = cached.read_bytes()
    if hashlib.md5(data).hexdigest() != md5:
        return Link(name, False, f"{cached} was changed: its MD5 is not {md5[:12]}")
    return _equal(name, _sha256(data), sha256, "the file that dvc.lock names", "provenance.json")


def _checkpoints(subject: Subject) -> Iterator[Link]:
    description = read_json(subject.router / "router.json")
    recorded = read_json(subject.router / "provenance.json")["checkpoints"]
    arms = {name: description[name] for name in ("weak", "strong")}
    for arm, reference in arm_references(arms).items():
        name = f"{arm} checkpoint"
        if recorded.get(arm, {}).get("sha256") != reference.sha256:
            yield Link(name, False, "router.json and provenance.json name different weights")
            continue
        if (subject.router / WEIGHTS).is_dir():
            yield Link(name, None, "embedded; the Router checks them as it loads")
            continue
        try:
            found = find_checkpoint(reference.model)
        except UserError as error:
            yield Link(name, None, f"{reference.model} is not to be had here: {error}")
            continue
        yield _equal(name, found.sha256, reference.sha256, f"{reference.model} here", "router.json")


def chain(subject: Subject) -> list[Link]:
    """Every link of a version, in order from the registry down to the weights."""
    if not (subject.router / "provenance.json").is_file():
        return [Link("provenance", False, "the model has no provenance.json: it was not made by the DAG")]
    links = [*_run(subject)] if subject.code is not None or subject.artifacts is not None else []
    return [*links, *_commit(subject), *_router(subject), *_checkpoints(subject)]


def first_difference(before: Any, after: Any, where: str = "") -> str | None:
    """Where two JSON values differ first, with both values; None where they are equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            found = first_difference(before.get(key), after.get(key), f"{where}.{key}".lstrip("."))
            if found:
                return found
        return None
    return None if before == after else f"{where}: {before} before, {after} now"
