"""What an audit compares: a version with all its records, its commit, dvc.lock and DVC's cache."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from whisper_router import git
from whisper_router.errors import UserError
from whisper_router.files import parse_json
from whisper_router.hashing import digest, file_sha256
from whisper_router.installed import VERSION
from whisper_router.params import load_yaml
from whisper_router.promotion import MODEL, find_version, registry
from whisper_router.registry import VERSIONED
from whisper_router.router import WEIGHTS
from whisper_router.seal import META
from whisper_router.serving.uri import local_path, place_of

HOLDS, BROKEN, UNCOMMITTED, UNCHECKED = "holds", "BROKEN", "UNCOMMITTED", "not checked"
CACHE = Path(".dvc/cache/files/md5")
PACKAGE = "src/whisper_router/"
CODE = "code/whisper_router/"
LOGGED = {
    "MLmodel",
    "conda.yaml",
    "python_env.yaml",
    "requirements.txt",
    "input_example.json",
    "serving_input_example.json",
    META,
}  # files that MLflow writes beside the code


@dataclass(frozen=True)
class Link:
    """One comparison; ``holds`` is None where it could not be made here, or where nothing is wrong yet."""

    name: str
    holds: bool | None
    detail: str
    remedy: str = ""  # what to do where it does not hold
    outcome: str = ""  # a state of its own; left out, ``holds`` says it

    @property
    def state(self) -> str:
        """The state in a word."""
        return self.outcome or {True: HOLDS, False: BROKEN, None: UNCHECKED}[self.holds]


@dataclass(frozen=True)
class Subject:
    """What is audited."""

    title: str
    router: Path  # the packaged folder
    version: str | None = None  # of the registry
    model: Path | None = None  # the whole folder that MLflow logged
    artifacts: Path | None = None  # of the MLflow run
    gone: str | None = None  # where the run's artifacts should be, if they are not there
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)  # of the MLflow run
    metrics: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)  # name: (step, value)


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes: what DVC records."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def dvc_md5(folder: Path) -> str:
    """What DVC writes into dvc.lock for a folder: MD5 over the listing of its files and their MD5."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    listing = [
        {"md5": file_md5(path), "relpath": path.relative_to(folder).as_posix()}
        for path in files
        if path.relative_to(folder).parts[0] != WEIGHTS
    ]
    listing.sort(key=lambda entry: tuple(entry["relpath"].split("/")))
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def lock_outputs(lock: bytes) -> dict[str, str]:
    """MD5 of every output in a dvc.lock, by path.

    Raises
    ------
    UserError
        It is no lock.
    """
    try:
        stages = load_yaml(lock, "dvc.lock")["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"dvc.lock is not what DVC wrote ({error!r}); restore it from git") from error


def cached(md5: str) -> Path:
    """Where DVC's cache has a file or a folder's listing."""
    return CACHE / md5[:2] / md5[2:]


def cached_folder(md5: str) -> dict[str, str] | None:
    """MD5 of the files of a folder in DVC's cache, by path in it; None where its listing is not there."""
    path = cached(md5)
    if not path.is_file() or f"{file_md5(path)}.dir" != md5:
        return None
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_bytes())}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not DVC's listing of a folder ({error!r}); `dvc fetch` it again"
        ) from error


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
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{uri}: its files are gone: {place_of(uri)}; restore that folder, or serve another version"
        ) from error
    artifacts: Path | None = None
    gone: str | None = None
    params: dict[str, str] = {}
    metrics: dict[str, list[tuple[int, float]]] = {}
    if found.run_id:
        try:
            run = client.get_run(found.run_id)
        except MlflowException:
            gone = f"run {found.run_id} of the registry"
        else:
            params = run.data.params
            for name in run.data.metrics:
                history = client.get_metric_history(found.run_id, name)
                metrics[name] = [
                    (point.step, point.value)
                    for point in sorted(history, key=lambda point: (point.step, point.timestamp))
                ]
            try:
                artifacts = Path(mlflow.artifacts.download_artifacts(run_id=found.run_id))
            except (MlflowException, OSError):
                gone = local_path(run.info.artifact_uri)
    return Subject(
        f"{MODEL} version {found.version}",
        model / "artifacts" / "router",
        str(found.version),
        model,
        artifacts,
        gone,
        found.tags,
        params,
        metrics,
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
    for commit, lock in _locks("--all"):
        if lock_outputs(lock).get("data/router") == md5:
            return Subject(str(folder), folder, tags={"git_commit": commit, "dvc_lock_sha256": sha256(lock)})
    working = Path("dvc.lock")
    if working.is_file() and lock_outputs(working.read_bytes()).get("data/router") == md5:
        head = git.text("rev-parse", "HEAD") or "none"
        tags = {
            "git_commit": head,
            "dvc_lock_sha256": file_sha256(working),
            "uncommitted": "dvc.lock,params.yaml",
        }
        return Subject(str(folder), folder, tags=tags)
    return Subject(str(folder), folder)


def _locks(*commits: str) -> Iterator[tuple[str, bytes]]:
    """Commits that changed dvc.lock, the newest first, with what it held."""
    for commit in git.text("log", *commits, "--format=%H", "--", "dvc.lock").split():
        lock = git.ask("show", f"{commit}:dvc.lock")
        if lock:
            yield commit, lock


def uncommitted(subject: Subject) -> list[str]:
    """What was not committed when the version was registered."""
    return [path for path in subject.tags.get("uncommitted", "").split(",") if path]


def commit_of(subject: Subject) -> str | None:
    """The commit that is audited: the recorded one.

    Where the registration said that files were not committed, it is the descendant of the recorded commit
    that took them in, if there is one.
    """
    recorded, wanted = subject.tags.get("git_commit"), subject.tags.get("dvc_lock_sha256")
    if recorded is None or not uncommitted(subject):
        return recorded
    later = git.text(
        "log", "--all", "--reverse", "--ancestry-path", "--format=%H", f"^{recorded}", "--", *VERSIONED
    )
    candidates = [recorded, *later.split()]
    fits = [commit for commit in candidates if sha256(git.ask("show", f"{commit}:dvc.lock") or b"") == wanted]
    if not fits:
        return recorded
    return max(fits, key=lambda commit: _matches(subject, commit))  # the first of those that match most


def _matches(subject: Subject, commit: str) -> int:
    """How many of the run's files, and of the model's code, are those of a commit."""
    found = 0
    for name in ("params.yaml", "dvc.yaml"):
        path = subject.artifacts / name if subject.artifacts is not None else None
        found += (
            path is not None and path.is_file() and path.read_bytes() == git.ask("show", f"{commit}:{name}")
        )
    return found + (subject.model is not None and not code_differences(subject.model, commit))


def code_differences(model: Path, commit: str) -> list[str]:
    """What may be executed of a model and is not as the commit has it: each file, and what it is."""
    blobs = {}
    for line in git.text("ls-tree", "-r", commit, PACKAGE).splitlines():
        entry, path = line.split("\t")
        blobs[path.removeprefix(PACKAGE)] = entry.split()[2]
    if not blobs and (record := git.ask("show", f"{commit}:{VERSION}")):
        return _installed_differences(model, parse_json(VERSION, record).get("sha256"))
    committed = {f"code/whisper_router/{name}": blob for name, blob in blobs.items()}
    if "serving/pyfunc.py" in blobs:
        committed["pyfunc.py"] = blobs["serving/pyfunc.py"]
    found = {}
    for file in model.rglob("*"):
        name = file.relative_to(model).as_posix()
        if file.is_file() and name not in LOGGED and not name.startswith("artifacts/router/"):
            data = file.read_bytes()
            found[name] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    differences = []
    for name in sorted({*committed, *found}):
        if name not in committed:
            differences.append(f"{name} (not in the commit)")
        elif name not in found:
            differences.append(f"{name} (missing)")
        elif found[name] != committed[name]:
            differences.append(f"{name} (edited)")
    return differences


def _installed_differences(model: Path, recorded: str | None) -> list[str]:
    """The same where the commit names an installed package by its hash instead of holding its source."""
    files = {file.relative_to(model).as_posix(): file for file in model.rglob("*") if file.is_file()}
    package = {
        name.removeprefix(CODE): file_sha256(file) for name, file in files.items() if name.startswith(CODE)
    }
    differences = []
    if digest(package) != recorded:
        differences.append(f"{CODE} (not the package that {VERSION} names)")
    for name, file in sorted(files.items()):
        if name == "pyfunc.py":
            if file_sha256(file) != package.get("serving/pyfunc.py"):
                differences.append(f"{name} (edited)")
        elif name not in LOGGED and not name.startswith((CODE, "artifacts/router/")):
            differences.append(f"{name} (not in the commit)")
    return differences


def code_record(commit: str) -> str:
    """The path of a commit that says which code made its versions."""
    return PACKAGE.rstrip("/") if git.text("ls-tree", commit, PACKAGE) else str(VERSION)


def lock_of(subject: Subject) -> bytes | None:
    """The dvc.lock that made it, as the run or else the commit has it."""
    if subject.artifacts is not None and (subject.artifacts / "dvc.lock").is_file():
        return (subject.artifacts / "dvc.lock").read_bytes()
    commit = commit_of(subject)
    lock = git.ask("show", f"{commit}:dvc.lock") if commit else None
    if subject.model is None and uncommitted(subject) and (lock is None or not _made_by(subject, lock)):
        return Path("dvc.lock").read_bytes()
    return lock


def _made_by(subject: Subject, lock: bytes) -> bool:
    return sha256(lock) == subject.tags.get("dvc_lock_sha256")


def equal(
    name: str, found: str | None, expected: str | None, what: str, where: str, remedy: str = ""
) -> Link:
    """A link of two hashes; None stands for what is missing."""
    if found is None or expected is None:
        missing = what if found is None else where
        return Link(name, False, f"{missing} is missing", remedy)
    if found == expected:
        return Link(name, True, f"{what} = {where}, {found[:12]}")
    return Link(name, False, f"{what} is {found[:12]}, {where} says {expected[:12]}", remedy)


def named(differences: list[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return ", ".join(differences[:3]) + more


def first_difference(before: Any, after: Any, where: str = "") -> str | None:
    """Where two JSON values differ first, with both values; None where they are equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            found = first_difference(before.get(key), after.get(key), f"{where}.{key}".lstrip("."))
            if found:
                return found
        return None
    return None if before == after else f"{where}: {before} before, {after} now"
