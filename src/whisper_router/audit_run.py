"""Links of an MLflow run: what is shown of a version, against dvc.lock, DVC's cache and the gate's rules."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from whisper_router.audited import (
    Link,
    Subject,
    cached,
    cached_folder,
    dvc_md5,
    equal,
    file_md5,
    first_difference,
    lock_outputs,
    named,
)
from whisper_router.contest import SPEAKERS, seen_speakers
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.gate import EVIDENCE, Evidence
from whisper_router.hashing import file_sha256
from whisper_router.params import load_params, load_yaml
from whisper_router.promotion import RULE, VERDICT
from whisper_router.registry import flat
from whisper_router.router import WEIGHTS
from whisper_router.seal import ARTIFACTS_TAG, GATE, GATE_TAG, RECORDED, artifacts_seal, gate_seal

SHOWN = "do not believe what the run shows; `git checkout COMMIT && dvc checkout` has what the DAG made"
JUDGE = "do not believe the gate's tags: compare the versions again (`whisper-router compare`) or retrain"
GONE = "restore that folder from a backup; without it only the model can be audited"


def run_links(subject: Subject, lock: bytes | None) -> Iterator[Link]:
    """Everything that the run holds, MLflow's own records of it, and the gate's verdict."""
    artifacts = subject.artifacts
    if artifacts is None and subject.gone:
        yield Link("MLflow run", False, f"its artifacts are gone: {subject.gone}", GONE)
    elif artifacts is None:
        yield Link("MLflow run", False, "no run: it was registered by hand", "`whisper-router register`")
    if artifacts is None:
        return
    yield equal(
        "run artifacts",
        artifacts_seal(artifacts),
        subject.tags.get(ARTIFACTS_TAG),
        "the run's artifacts",
        "the version's tag",
        SHOWN,
    )
    own = artifacts / "dvc.lock"
    yield equal(
        "dvc.lock of the run",
        file_sha256(own) if own.is_file() else None,
        subject.tags.get("dvc_lock_sha256"),
        "dvc.lock of the run",
        "the version's tag",
        SHOWN,
    )
    if lock is None:
        return
    outputs = lock_outputs(lock)
    yield from _shown(artifacts, outputs)
    yield from _speakers(artifacts, outputs)
    yield from _records(subject, artifacts, outputs)
    yield from gate_links(subject, artifacts)


def _shown(artifacts: Path, outputs: dict[str, str]) -> Iterator[Link]:
    """Report, plots, metrics and arms, as dvc.lock has them."""
    metrics = {f"metrics/{path.name}" for path in (artifacts / "metrics").glob("*")}
    metrics |= {path.removeprefix("data/") for path in outputs if path.startswith("data/metrics/")}
    for name in ("report.html", "plots", "arms.json", *sorted(metrics)):
        path = artifacts / name
        found = dvc_md5(path) if path.is_dir() else file_md5(path) if path.is_file() else None
        yield equal(name, found, outputs.get(f"data/{name}"), f"{name} of the run", "dvc.lock", SHOWN)


def _whole(md5: str | None) -> Path | None:
    """A file of DVC's cache that is there and undamaged."""
    path = cached(md5) if md5 else None
    return path if path is not None and path.is_file() and file_md5(path) == md5 else None


def _speakers(artifacts: Path, outputs: dict[str, str]) -> Iterator[Link]:
    """Whom it has seen decides whom a later gate may test on."""
    name, path = "speakers seen", artifacts / SPEAKERS
    labels = _whole(outputs.get("data/labels.parquet"))
    if not path.is_file():
        yield Link(name, False, f"{SPEAKERS} of the run is missing", SHOWN)
    elif labels is None:
        yield Link(name, None, "labels.parquet is not in DVC's cache", "`dvc pull` at that commit")
    else:
        said, made = set(read_json(path)["seen"]), set(seen_speakers(pd.read_parquet(labels)))
        detail = (
            f"{len(made)} speakers are those of labels.parquet"
            if said == made
            else f"{SPEAKERS} lacks {len(made - said)} speakers of labels.parquet, adds {len(said - made)}"
        )
        yield Link(name, said == made, detail, "" if said == made else SHOWN)


def _records(subject: Subject, artifacts: Path, outputs: dict[str, str]) -> Iterator[Link]:
    """MLflow's params, figures and curves, against what was recorded and the files they came from."""
    path = artifacts / RECORDED
    if not path.is_file():
        yield Link("MLflow params", False, f"{RECORDED} of the run is missing", SHOWN)
        return
    recorded = read_json(path)
    difference = first_difference(recorded["params"], dict(subject.params)) or _stated(
        artifacts / "params.yaml", subject.params
    )
    yield Link(
        "MLflow params",
        difference is None,
        difference or f"{len(subject.params)} params are as recorded, and as params.yaml says",
        "" if difference is None else SHOWN,
    )
    summary = artifacts / "metrics" / "summary.json"
    wanted: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in recorded["metrics"]:
        wanted.setdefault(name, []).append((step, value))
    from_files = {
        name: [(0, float(value))]
        for name, value in (read_json(summary) if summary.is_file() else {}).items()
        if value is not None
    }
    curves, missing = _curves(outputs)
    for name, files in (("figures", from_files), ("curves", curves)):
        mine = {key for key in {*wanted, *subject.metrics} if (key in from_files) == (name == "figures")}
        made = {key: subject.metrics.get(key) for key in mine}
        difference = first_difference({key: wanted.get(key) for key in mine}, made)
        difference = difference or first_difference(files, {key: made.get(key) for key in files})
        if name == "curves" and not missing and difference is None:
            difference = first_difference({key: curves.get(key) for key in mine}, made)
        beside = f"; {missing} are not in DVC's cache, `dvc pull`" if name == "curves" and missing else ""
        yield Link(
            name,
            difference is None,
            f"{difference} (steps and values of MLflow's last)"
            if difference
            else f"{len(mine)} of MLflow are as recorded, and as the DAG's files say{beside}",
            "" if difference is None else SHOWN,
        )


def _stated(path: Path, params: Mapping[str, str]) -> str | None:
    """The first value of params.yaml that MLflow has otherwise; None too where this code cannot read it."""
    try:
        read = flat(load_params(path).model_dump(mode="json"))
    except (UserError, ValidationError):
        return None
    stated = flat(load_yaml(path, str(path)))
    for key in sorted(stated.keys() & params.keys() & read.keys()):
        if params[key] != read[key]:
            return f"{key}: {read[key]} in params.yaml, {params[key]} in MLflow"
    return None


def _curves(outputs: dict[str, str]) -> tuple[dict[str, list[tuple[int, float]]], str]:
    """Training curves by MLflow's names, from the deciders in DVC's cache; and what of them is not there."""
    md5 = outputs.get("data/decider")
    listing = cached_folder(md5) if md5 else None
    if listing is None:
        return {}, "the deciders"
    curves: dict[str, list[tuple[int, float]]] = {}
    missing = 0
    for name, file in sorted(listing.items()):
        folder, _, base = name.rpartition("/")
        if base != "curve.json" or "/" in folder:
            continue
        path = _whole(file)
        if path is None:
            missing += 1
            continue
        points = read_json(path)
        for loss in ("train_loss", "dev_loss"):
            curves[f"{folder}.{loss}"] = [(step, float(point[loss])) for step, point in enumerate(points)]
    return curves, f"{missing} deciders" if missing else ""


def gate_links(subject: Subject, artifacts: Path) -> Iterator[Link]:
    """The verdict that the version carries, judged again from what it was judged by."""
    tags = {key: value for key, value in subject.tags.items() if key == VERDICT or key.startswith(RULE)}
    folder = artifacts / GATE
    if not tags and not folder.exists():
        return
    if not (folder / EVIDENCE).is_file():
        said = f"tag {sorted(tags)[0]} was set by hand: the run has no {GATE}/{EVIDENCE} that it came from"
        yield Link("gate", False, said, JUDGE)
        return
    yield equal(
        "gate's inputs",
        gate_seal(artifacts),
        subject.tags.get(GATE_TAG),
        f"{GATE}/ of the run",
        "the version's tag",
        JUDGE,
    )
    try:
        evidence = Evidence.read(folder, subject.router)
    except (UserError, ValueError, KeyError, TypeError) as error:
        yield Link("gate", False, f"{folder} cannot be read: {error}", JUDGE)
        return
    found = _gate_difference(evidence, subject, artifacts, tags)
    yield Link(
        "gate",
        found is None,
        found or f"{tags[VERDICT]}, judged again from what it was judged by",
        "" if found is None else JUDGE,
    )


def _gate_difference(
    evidence: Evidence, subject: Subject, artifacts: Path, tags: dict[str, str]
) -> str | None:
    files = [path for path in subject.router.rglob("*") if path.is_file()]
    size = sum(p.stat().st_size for p in files if p.relative_to(subject.router).parts[0] != WEIGHTS)
    if evidence.size_bytes != size:
        return f"it judged {evidence.size_bytes} bytes, the router has {size}"
    try:
        options = load_params(artifacts / "params.yaml").gate
    except UserError:
        options = evidence.options  # of another code's params: nothing to compare with
    if evidence.options != options:
        return first_difference(options.model_dump(), evidence.options.model_dump(), "gate")
    verdicts = evidence.judge()
    again = {f"{RULE}{v.rule}": f"{'passed' if v.passed else 'failed'}: {v.detail}" for v in verdicts}
    again[VERDICT] = "passed" if all(v.passed for v in verdicts) else "failed"
    differ = [key for key in sorted({*tags, *again}) if tags.get(key) != again.get(key)]
    if not differ:
        return None
    return f"tag {named(differ)}: {tags.get(differ[0])!r}, judged again {again.get(differ[0])!r}"
