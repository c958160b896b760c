"""The steps of a retraining. Each can be repeated: what was done is found done."""

import http.client
import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter

from whisper_router import git
from whisper_router.asr.reference import arm_references
from whisper_router.contest import ContestError, Performance, short, side_by_side, unseen
from whisper_router.cost import Dims
from whisper_router.evaluation import build_pair, routed_cost, spent_on
from whisper_router.features.kinds import AnyExtractor
from whisper_router.files import read_json
from whisper_router.gate import SIDES, Contest, Evidence, Verdict
from whisper_router.hashing import digest, file_sha256
from whisper_router.installed import check_installed
from whisper_router.intake import corpus_folder, dvc_file, require_trackable
from whisper_router.labelling import reference_texts
from whisper_router.params import Params, load_yaml
from whisper_router.paths import ARMS, LABELS, MANIFEST, ROUTER, TRANSCRIPTS
from whisper_router.promotion import MODEL, RULE, VERDICT, champion, find_version, move_champion
from whisper_router.reference import measured
from whisper_router.registry import LOCK, keep_evidence
from whisper_router.retrain_options import WEBHOOK, GateOptions, RetrainOptions, webhook
from whisper_router.retrain_state import BRANCH, RetrainError, foreign_changes, own_files
from whisper_router.run import dvc_call

NOTIFIED = "notified"
EXTRACTOR: TypeAdapter[AnyExtractor] = TypeAdapter(AnyExtractor)


def going_on() -> bool:
    """Whether a retraining that was killed is to be finished: HEAD is on its branch."""
    return git.text("branch", "--show-current").startswith(BRANCH)


def track(params: Params) -> Path | None:
    """Let DVC track the corpus that grows; its .dvc file, or None where there is no such corpus yet.

    Before the stages: the .dvc file lies in a folder that ingest depends on.

    Raises
    ------
    UserError
        DVC cannot track it.
    """
    if params.retrain.corpus is None:
        return None
    folder = corpus_folder(params)
    require_trackable(folder)
    if not folder.is_dir():
        return None
    dvc("add", "--quiet", str(folder))
    return dvc_file(folder)


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
    return list(load_yaml(Path("dvc.yaml"), "dvc.yaml")["stages"])


def up_to_date() -> bool:
    """Whether DVC finds no stage changed.

    Raises
    ------
    UserError
        Another package is installed than the project names.
    """
    check_installed()
    return not json.loads(dvc("status", "--json", *stages()))


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

    The commit is complete before a branch names it, and the branch before HEAD is on it. The branch of an
    earlier run with this dvc.lock is gone on with, so that a registered commit stays on a branch.

    Raises
    ------
    RetrainError
        Other tracked files are changed: what would be registered is not what a commit holds.
    """
    current = git.text("branch", "--show-current")
    if current.startswith(BRANCH):
        return current
    files = own_files(tracked)
    if changed := foreign_changes(files):
        listed = "\n".join(changed)
        raise RetrainError(f"commit or undo these first, a version must come from a commit:\n{listed}")
    git.do("add", "--force", *(name for name in files if Path(name).is_file()))
    if git.ask("diff", "--cached", "--quiet") is not None:
        return None
    branch = branch_name()
    if git.text("show", f"{branch}:{LOCK}") != LOCK.read_text().strip():
        message = f"Retrained: dvc.lock {file_sha256(LOCK)[:12]}"
        commit = git.do("commit-tree", git.do("write-tree"), "-p", "HEAD", "-m", message)
        git.do("branch", "--no-track", branch, commit)
    git.do("switch", "--quiet", "--discard-changes", branch)
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
    if not (labels["split"] == "test").any():
        raise ContestError(
            "no test speaker is unseen: the corpus is small and was cross-validated, so that the decider has "
            "learnt from every speaker; add utterances until there are splits (cross_validation.below), or "
            "give those of some new speakers the split test"
        )
    test = short(manifest[manifest["id"].isin(measured(labels[labels["split"] == "test"])["id"])])
    test = test.assign(text=list(reference_texts(test, transcripts).values()))
    rows = unseen(test, current).reset_index(drop=True)
    if rows.empty:
        raise ContestError(f"version {current.version} has seen every test speaker")
    labels = labels.set_index("id").loc[rows["id"]].reset_index()
    before, challenger = side_by_side([str(current.version), str(version.version)], rows)
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
) -> dict[str, np.ndarray] | None:
    """What both and either arm alone spend on each utterance, deciders left out.

    None where one has other arms than the labels.
    """
    arms = read_json(ARMS)
    references = arm_references(arms)
    today = [digest(references[name].spec()) for name in ("weak", "strong")]
    pair = build_pair(labels, transcripts, {name: Dims(**arm["dims"]) for name, arm in arms.items()})
    spent = {arm: getattr(pair, arm)["macs"] for arm in ("weak", "strong")}
    for name, side in zip(SIDES, sides, strict=True):
        described = read_json(side.router / "router.json")
        bound = read_json(side.router / "policies" / f"{described['policy']}.json")["bound"]
        if [bound["weak_arm"], bound["strong_arm"]] != today:
            return None
        extractor: AnyExtractor = EXTRACTOR.validate_python(described["extractor"])
        paid = spent_on(extractor, {"macs": np.zeros(len(labels))})
        spent[name] = routed_cost(pair, side.strong, paid)["macs"]
    return spent


def verdicts_of(version: ModelVersion) -> list[Verdict]:
    """The verdicts that a version carries; empty where it was not judged."""
    if VERDICT not in version.tags:
        return []
    tags = {key: value for key, value in sorted(version.tags.items()) if key.startswith(RULE)}
    split = {key.removeprefix(RULE): value.partition(": ") for key, value in tags.items()}
    return [Verdict(rule, word == "passed", said) for rule, (word, _, said) in split.items()]


def apply_gate(client: MlflowClient, version: str, options: GateOptions) -> list[Verdict]:
    """Judge a version against the champion and keep each rule's verdict on it, once."""
    found = find_version(client, version)
    if kept := verdicts_of(found):
        return kept
    current = champion(client)
    current = None if current == version else current
    contest, trouble = None, ""
    if current is not None:
        try:
            contest = hold_contest(found, find_version(client, current))
        except ContestError as error:
            trouble = str(error)
    size_bytes = sum(path.stat().st_size for path in ROUTER.rglob("*") if path.is_file())
    evidence = Evidence(options, size_bytes, current, contest, trouble)
    verdicts = evidence.judge()
    keep_evidence(client, found, evidence)
    for verdict in verdicts:
        word = "passed" if verdict.passed else "failed"
        client.set_model_version_tag(MODEL, version, f"{RULE}{verdict.rule}", f"{word}: {verdict.detail}")
    passed = all(verdict.passed for verdict in verdicts)
    client.set_model_version_tag(MODEL, version, VERDICT, "passed" if passed else "failed")
    return verdicts


def finish(client: MlflowClient, version: str, passed: bool, trunk: str) -> None:
    """Let a version that passed serve and merge its branch; else go back to the trunk's state.

    The trunk moves to the merged branch before HEAD leaves the branch: after a kill the next run merges. A
    corpus that grew keeps its new audio either way: the next retraining has it.
    """
    branch = git.text("branch", "--show-current")
    if passed and champion(client) != version:
        move_champion(client, version, "promote", "passed the gate")
    if not branch.startswith(BRANCH):
        return
    if passed:
        if git.ask("merge", "--quiet", "--no-edit", trunk) is None:
            git.ask("merge", "--abort")
            raise RetrainError(
                f"version {version} serves, but {branch} does not merge with {trunk}: merge {trunk} into "
                f"{branch} by hand and retrain again"
            )
        git.do("fetch", "--quiet", ".", f"{branch}:{trunk}")
    git.do("switch", "--quiet", trunk)
    if not passed:
        dvc("checkout", "--quiet", *stages())


def notify(client: MlflowClient, version: str, options: RetrainOptions) -> None:
    """Post the outcome to the webhook, once a version; a webhook that fails is reported and stops nothing."""
    url, found = webhook(), find_version(client, version)
    if url is None or NOTIFIED in found.tags or not verdicts_of(found):
        return
    body = json.dumps(outcome(found, options.branch)).encode()
    try:
        request = urllib.request.Request(url.get_secret_value(), body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20):
            client.set_model_version_tag(MODEL, version, NOTIFIED, "true")
    except urllib.error.HTTPError as error:
        print(f"retrain: the webhook of {WEBHOOK} answered {error.code}", file=sys.stderr)
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        why = f"{type(cause).__name__}{f': {cause.strerror}' if isinstance(cause, OSError) else ''}"
        print(f"retrain: the webhook of {WEBHOOK} was not reached: {why}", file=sys.stderr)


def outcome(version: ModelVersion, trunk: str) -> dict[str, object]:
    """What is told of a retraining."""
    return {
        "model": MODEL,
        "version": str(version.version),
        "gate": version.tags[VERDICT],
        "champion": version.tags[VERDICT] == "passed",
        "rules": [asdict(verdict) for verdict in verdicts_of(version)],
        "commit": version.tags["git_commit"],
        "branch": trunk,
    }
