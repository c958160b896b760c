"""The steps of a retraining. Each can be repeated: what was done is found done."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from whisper_router import git
from whisper_router.asr.reference import arm_references
from whisper_router.contest import ContestError, Performance, run_registered, short, unseen
from whisper_router.cost import Dims
from whisper_router.errors import UserError
from whisper_router.evaluation import build_pair, routed_cost, spent_on
from whisper_router.features.kinds import AnyExtractor
from whisper_router.files import read_json
from whisper_router.gate import Contest, Verdict, judge, size
from whisper_router.hashing import digest, file_sha256
from whisper_router.params import Params
from whisper_router.paths import ARMS, LABELS, MANIFEST, ROUTER, TRANSCRIPTS
from whisper_router.promotion import MODEL, RULE, VERDICT, champion, find_version, move_champion
from whisper_router.registry import LOCK
from whisper_router.retrain_options import GateOptions, RetrainOptions
from whisper_router.run import dvc_call

BRANCH = "retrain/"
NOTIFIED = "notified"
EXTRACTOR: TypeAdapter[AnyExtractor] = TypeAdapter(AnyExtractor)
METADATA = ("metadata.csv", "metadata.jsonl")


class RetrainError(UserError):
    """A retraining cannot go on."""


@contextmanager
def alone() -> Iterator[None]:
    """One retraining at a time in a project.

    Raises
    ------
    RetrainError
        Another one runs.
    """
    path = Path(os.environ["PREFECT_HOME"]) / "retrain.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RetrainError(f"another retraining of {Path.cwd()} runs (it holds {path})") from error
    try:
        yield
    finally:
        lock.release()


def take_in(params: Params, options: RetrainOptions) -> list[str]:
    """Move complete batches of the drop folder into their corpus; their names.

    A batch is a folder with metadata.csv or metadata.jsonl. Write it under a name with a leading dot and
    rename it when it is complete.

    Raises
    ------
    RetrainError
        ``corpus`` is not an audiofolder of params.yaml.
    """
    if options.drop is None:
        return []
    found = [corpus for corpus in params.ingest.corpora if corpus.name == options.corpus]
    if not found or found[0].kind != "audiofolder":
        raise RetrainError(
            f"params.yaml: retrain.corpus: {options.corpus!r} is not a corpus of kind audiofolder under "
            "ingest.corpora; batches of retrain.drop need one to go to"
        )
    target = Path(params.ingest.root) / found[0].path
    taken = []
    drop = Path(options.drop)
    for batch in sorted(drop.iterdir()) if drop.is_dir() else ():
        if batch.name.startswith(".") or not any((batch / name).is_file() for name in METADATA):
            continue
        number, place = 1, target / batch.name
        while place.exists():
            number += 1
            place = target / f"{batch.name}-{number}"
        target.mkdir(parents=True, exist_ok=True)
        temporary = target / f".{place.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(batch, temporary)
        temporary.rename(place)
        shutil.rmtree(batch)
        taken.append(place.name)
    return taken


def track(params: Params, options: RetrainOptions) -> Path | None:
    """Let DVC track the corpus that grows; its .dvc file, or None where it lies outside the project."""
    if options.corpus is None:
        return None
    (path,) = (corpus.path for corpus in params.ingest.corpora if corpus.name == options.corpus)
    folder = Path(params.ingest.root) / path
    if not folder.is_dir() or not folder.resolve().is_relative_to(Path.cwd()):
        return None
    dvc("add", "--quiet", str(folder))
    return folder.with_name(f"{folder.name}.dvc")


def dvc(*arguments: str) -> str:
    """Run DVC; what it prints.

    Raises
    ------
    RetrainError
        With what DVC says.
    """
    command, variables = dvc_call(*arguments)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RetrainError(f"dvc {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def stages() -> list[str]:
    """The stages of dvc.yaml in their order."""
    return list(YAML(typ="safe").load(Path("dvc.yaml").read_text())["stages"])


def run_stage(stage: str) -> bool:
    """Bring one stage up to date; False where it was, or where DVC had its outputs.

    Raises
    ------
    RetrainError
        It fails; its own message stands above.
    """
    command, variables = dvc_call("repro", "--single-item", stage)
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    ran = False
    for line in process.stdout or ():
        if line.startswith(("Running", "Stage", ">", f"{stage}:")):
            print(line, end="", flush=True)
        ran = ran or line.startswith("Running stage")
    if process.wait():
        raise RetrainError(f"stage {stage} stopped with code {process.returncode}; its message stands above")
    return ran


def branch_name() -> str:
    """The branch of the state that dvc.lock describes."""
    return f"{BRANCH}{file_sha256(LOCK)[:12]}"


def commit_lock(tracked: Path | None) -> str | None:
    """Commit dvc.lock, and the corpus's .dvc file, on their own branch; its name, None if nothing is new.

    Raises
    ------
    RetrainError
        Other tracked files are changed: what would be registered is not what a commit holds.
    """
    current = git.text("branch", "--show-current")
    if current.startswith(BRANCH):
        return current
    files = [str(LOCK), *([str(tracked), str(tracked.with_name(".gitignore"))] if tracked else [])]
    files = [name for name in files if Path(name).is_file()]
    changed = git.text("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{f}" for f in files))
    if changed:
        raise RetrainError(f"commit or undo these first, a version must come from a commit:\n{changed}")
    git.do("add", "--force", *files)
    if git.ask("diff", "--cached", "--quiet") is not None:
        return None
    branch = branch_name()
    same = git.text("show", f"{branch}:{LOCK}") == LOCK.read_text().strip()
    if same and git.text("rev-parse", f"{branch}^") == git.text("rev-parse", "HEAD"):  # an earlier run's
        git.do("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        git.do("reset", "--quiet")
        return branch
    git.do("switch", "--quiet", "-C", branch)
    git.do("commit", "--quiet", "-m", f"Retrained: dvc.lock {file_sha256(LOCK)[:12]}", "--", *files)
    return branch


def push(options: RetrainOptions) -> str:
    """Push data to the DVC remote, if there is one."""
    remotes = dvc("remote", "list").split()
    if not remotes:
        return "no DVC remote is configured: data stays in this project's cache"
    dvc("push", "--quiet", *(["--remote", options.remote] if options.remote else []))
    return f"data is on the DVC remote {options.remote or remotes[0]}"


def hold_contest(version: ModelVersion, current: ModelVersion) -> Contest:
    """Champion and challenger on the test speakers that neither has seen.

    Raises
    ------
    ContestError
        The champion cannot be judged: not loaded, failing, or its speakers not known.
    """
    manifest, labels, transcripts = (pd.read_parquet(path) for path in (MANIFEST, LABELS, TRANSCRIPTS))
    test = short(manifest[manifest["id"].isin(labels.loc[labels["split"] == "test", "id"])])
    rows = unseen(test, current).reset_index(drop=True)
    if rows.empty:
        raise ContestError(f"version {current.version} has seen every test speaker")
    labels = labels.set_index("id").loc[rows["id"]].reset_index()
    challenger = run_registered(str(version.version), rows)
    before = run_registered(str(current.version), rows)
    return Contest(
        before,
        challenger,
        pd.factorize(rows["speaker"])[0],
        labels["words"].to_numpy(),
        labels["errors_weak"].to_numpy(),
        labels["errors_strong"].to_numpy(),
        _macs(labels, transcripts, (before, challenger)),
        rows[["corpus", "language"]].fillna("-"),
    )


def _macs(
    labels: pd.DataFrame, transcripts: pd.DataFrame, sides: tuple[Performance, Performance]
) -> tuple[np.ndarray, np.ndarray] | None:
    """What both spend on each utterance, deciders left out; None where one has other arms than the labels."""
    arms = read_json(ARMS)
    references = arm_references(arms)
    today = [digest(references[name].spec()) for name in ("weak", "strong")]
    pair = build_pair(labels, transcripts, {name: Dims(**arm["dims"]) for name, arm in arms.items()})
    spent = []
    for side in sides:
        described = read_json(side.router / "router.json")
        bound = read_json(side.router / "policies" / f"{described['policy']}.json")["bound"]
        if [bound["weak_arm"], bound["strong_arm"]] != today:
            return None
        extractor: AnyExtractor = EXTRACTOR.validate_python(described["extractor"])
        paid = spent_on(extractor, {"macs": np.zeros(len(labels))})
        spent.append(routed_cost(pair, side.strong, paid)["macs"])
    return spent[0], spent[1]


def apply_gate(client: MlflowClient, version: str, options: GateOptions) -> list[Verdict]:
    """Judge a version against the champion and keep each rule's verdict on it, once."""
    found = find_version(client, version)
    kept = {key: value for key, value in found.tags.items() if key.startswith(RULE)}
    if VERDICT in found.tags:
        split = {key: value.partition(": ") for key, value in sorted(kept.items())}
        return [
            Verdict(key.removeprefix(RULE), word == "passed", said) for key, (word, _, said) in split.items()
        ]
    current = champion(client)
    verdicts = [size(sum(path.stat().st_size for path in ROUTER.rglob("*") if path.is_file()), options)]
    if current is None or current == version:
        verdicts.append(Verdict("improvement", True, "nothing serves yet"))
    else:
        try:
            verdicts += judge(hold_contest(found, find_version(client, current)), options)
        except ContestError as error:
            verdicts.append(
                Verdict("improvement", False, f"{error}; `whisper-router promote` decides by hand")
            )
    for verdict in verdicts:
        word = "passed" if verdict.passed else "failed"
        client.set_model_version_tag(MODEL, version, f"{RULE}{verdict.rule}", f"{word}: {verdict.detail}")
    passed = all(verdict.passed for verdict in verdicts)
    client.set_model_version_tag(MODEL, version, VERDICT, "passed" if passed else "failed")
    return verdicts


def finish(client: MlflowClient, version: str, passed: bool, trunk: str) -> None:
    """Let a version that passed serve and merge its branch; else go back to the trunk's state.

    A corpus that grew keeps its new audio either way: the next retraining has it.
    """
    branch = git.text("branch", "--show-current")
    if passed and champion(client) != version:
        move_champion(client, version, "promote", "passed the gate")
    if branch.startswith(BRANCH):
        git.do("switch", "--quiet", trunk)
        if passed:
            git.do("merge", "--quiet", "--no-edit", branch)
        else:
            dvc("checkout", "--quiet", *stages())


def notify(client: MlflowClient, version: str, outcome: dict[str, object], options: RetrainOptions) -> None:
    """Post the outcome to the webhook, once a version; a webhook that fails is reported and stops nothing."""
    if options.webhook is None or NOTIFIED in find_version(client, version).tags:
        return
    request = urllib.request.Request(
        options.webhook, json.dumps(outcome).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20):
            client.set_model_version_tag(MODEL, version, NOTIFIED, "true")
    except (urllib.error.URLError, OSError) as error:
        print(f"retrain: the webhook {options.webhook} was not reached: {error}", file=sys.stderr)


def outcome(version: str, verdicts: Sequence[Verdict], trunk: str) -> dict[str, object]:
    """What is told of a retraining."""
    passed = all(verdict.passed for verdict in verdicts)
    return {
        "model": MODEL,
        "version": version,
        "gate": "passed" if passed else "failed",
        "champion": passed,
        "rules": [asdict(verdict) for verdict in verdicts],
        "commit": git.text("rev-parse", "HEAD"),
        "branch": trunk,
    }
