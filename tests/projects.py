"""A project's folder as the stages of the DAG leave it, around a packaged router."""

import shutil
from pathlib import Path

import pandas as pd

from whisper_router.files import read_json, write_json
from whisper_router.verdict import RANDOM, Standing, Verdict

SUMMARY = {"wer_weak": 0.31, "wer_strong": 0.17, "wer_routed": 0.2, "strong_share": 0.5, "unknown": None}
VERDICT = Verdict(
    outcome="route",
    leaning="route",
    policy="half",
    policies=1,
    currency="macs",
    tolerance=1.0,
    models={"weak": "weak.pt", "strong": "strong.pt"},
    reference="text",
    utterances=40,
    speakers=12,
    hard=9,
    standings=(
        Standing("weak", 0.31, 0.3, 0.0, 0.15),
        Standing("strong", 0.17, 1.0, 1.0, 0.002),
        Standing("half", 0.171, 0.6, 0.5, 0.008),
        Standing(RANDOM, 0.24, 0.6, 0.43, None),
    ),
    dominated_by=None,
    resolution=1.2,
    more=None,
)
CURVE = [{"c": 0.1, "train_loss": 0.6, "dev_loss": 0.7}, {"c": 1.0, "train_loss": 0.5, "dev_loss": 0.8}]
PARAMS = """\
ingest:
  corpora:
    - {name: calls, kind: table, path: calls.jsonl}
extractors:
  encoder: {kind: encoder, pool: 4}
  confidence: {kind: confidence}
deciders:
  encoder: {kind: logistic, extractor: encoder}
  confidence: {kind: logistic, extractor: confidence}
policies:
  half: {kind: strong_share, decider: encoder, share: 0.5}
router: {policy: half}
"""


def lay_out(folder: Path, router: Path, lock: str) -> None:
    """Write params.yaml, dvc.yaml, dvc.lock and data/."""
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "dvc.lock").write_text(lock)
    shutil.rmtree(folder / "data", ignore_errors=True)
    data = folder / "data"
    shutil.copytree(router, data / "router")
    arms = read_json(router / "router.json")
    write_json(data / "arms.json", {arm: arms[arm] | {"dims": {}} for arm in ("weak", "strong")})
    VERDICT.write(data / "metrics" / "verdict.json")
    for name in ("summary", "test", "policies"):
        write_json(data / "metrics" / f"{name}.json", SUMMARY)
    for name in ("encoder", "confidence"):
        write_json(data / "decider" / name / "curve.json", CURVE)
    pd.DataFrame({"speaker": ["ann", "bob"], "split": ["train", "test"]}).to_parquet(data / "labels.parquet")
    (data / "plots").mkdir()
    (data / "plots" / "frontier.png").write_bytes(b"a chart")
    (data / "report.html").write_text("<p>a report</p>\n")
