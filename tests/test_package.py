"""What is packaged beside the router's policy."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flows import package
from flows.package import policies_of
from whisper_router.errors import UserError
from whisper_router.files import write_json
from whisper_router.params import Params

VALUES = {
    "ingest": {"corpora": [{"name": "calls", "kind": "table", "path": "calls.jsonl"}]},
    "extractors": {"confidence": {"kind": "confidence"}},
    "deciders": {name: {"kind": "logistic", "extractor": "confidence"} for name in ("one", "two")},
    "router": {"policy": "half"},
}


def params(**policies: str) -> Params:
    half = {name: {"kind": "strong_share", "decider": d, "share": 0.5} for name, d in policies.items()}
    return Params.model_validate({**VALUES, "policies": half})


def test_all_policies_of_the_decider_are_packaged():
    chosen = params(half="one", other="two", more="one")
    assert policies_of(chosen, "one") == ["half", "more"]


def test_a_policy_with_the_name_of_an_arm_is_refused():
    with pytest.raises(UserError, match=r"policies\.strong: that name asks for the strong arm"):
        policies_of(params(half="one", strong="one"), "one")
    assert policies_of(params(half="one", strong="two"), "one") == ["half"]


def test_the_baseline_is_the_calibration_split_as_it_is_routed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = ["a", "b", "c", "d"]
    labels = pd.DataFrame(
        {
            "id": ids,
            "speaker": ["ann", "bob", "bob", "eve"],
            "split": ["calibration", "calibration", "calibration", "test"],
            "duration_s": [1.0, 2.0, 3.0, 4.0],
            "words": [2, 3, 4, 5],
            "errors_weak": [1, 2, 3, 4],
            "errors_strong": [0, 1, 1, 2],
        }
    )
    heard = {
        "strong": ["good day", "good old day", "good", "no"],
        "weak": ["Good", "good old day", "good day", ""],
    }
    rows = [
        {"id": id_, "arm": arm, "hypothesis": text, "avg_logprob": -len(arm) - i, "no_speech": None}
        for arm, texts in heard.items()
        for i, (id_, text) in enumerate(zip(ids, texts, strict=True))
    ]
    (tmp_path / "data").mkdir()
    labels.to_parquet("data/labels.parquet")
    pd.DataFrame(rows[::-1]).to_parquet("data/transcripts.parquet")
    write_json(tmp_path / "data/policy/half.json", {"threshold": 0.5})
    scores = np.array([0.2, 0.5, 0.9])
    monkeypatch.setattr(package, "score_split", lambda params, decider, ids: SimpleNamespace(scores=scores))
    made = package.baseline(params(half="one"), "half")
    assert (made.policy, made.rows, made.strong_share) == ("half", 3, 0.666667)
    assert made.avg_logprob == [-8.0, -7.0, -4.0]
    assert made.by_speaker == {
        "words": [2, 7],
        "errors": [1, 2],
        "words_strong": [2, 4],
        "differences": [1, 1],
    }
