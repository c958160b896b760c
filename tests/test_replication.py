"""The replication: out-of-fold figures of every candidate, and the document made of them."""

import json

import numpy as np
import pandas as pd
import pytest

from whisper_router.asr.weights import find_checkpoint
from whisper_router.files import read_json
from whisper_router.replication import DOCUMENT, WORK, candidates, find_pair, replicate, write_document

SPEAKERS, EACH = 6, 3


@pytest.fixture
def table(tmp_path, monkeypatch, speech, wav):
    """Sound of some speakers with references that the random arms get wrong in different ways."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    rows = []
    for i in range(SPEAKERS * EACH):
        (tmp_path / f"{i}.wav").write_bytes(wav(speech(0.5 + 0.1 * i, i)))
        rows.append({"id": f"u{i:02}", "audio": f"{i}.wav", "text": f"word {i}", "speaker": f"s{i // EACH}"})
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_utterance_is_scored_once_out_of_fold_and_the_document_says_so(table, checkpoints, monkeypatch):
    pair = {
        arm: (name, find_checkpoint(str(checkpoints[name])))
        for arm, name in (("weak", "english"), ("strong", "multilingual"))
    }
    quick = {"epochs": 1, "channels": 8}
    tried = [
        type(made)(made.name, made.extractor, made.options.model_copy(update=quick)) for made in candidates()
    ]
    result = replicate(table, pair, tried, 3, 0)
    write_document(result)
    again = replicate(table, pair, tried, 3, 0)
    assert again == result  # from the content store and the finished trainings

    scores = pd.read_parquet(WORK / "scores.parquet").set_index("id")
    assert len(scores) == SPEAKERS * EACH
    assert np.isfinite(scores.to_numpy(dtype=float)).all()
    assert set(result["candidates"]) == {made.name for made in tried}
    paper, compact = (result["candidates"][name] for name in ("paper", "paper-compact"))
    assert paper["bytes"] == SPEAKERS * EACH * 1500 * 3 * 64 * 2
    assert compact["bytes"] < paper["bytes"] / 20
    assert result["corpus"]["speakers"] == SPEAKERS
    text = DOCUMENT.read_text()
    assert read_json(DOCUMENT.with_suffix(".json")) == json.loads(json.dumps(result))
    for made in tried:
        for threshold in ("0.5", "0.3"):
            share = result["candidates"][made.name]["metrics"][threshold]["strong_share"]["value"]
            assert f"| {made.name} | {threshold} | {share:.1%} " in text
    for currency in ("macs", "macs_paper"):
        assert DOCUMENT.with_name(f"paper-replication-{currency}.png").stat().st_size > 10_000


def test_the_pair_asked_for_and_only_that_is_looked_for(checkpoints):
    found = find_pair(str(checkpoints["english"]), str(checkpoints["multilingual"]))
    assert [model for model, _ in found.values()] == [
        str(checkpoints[n]) for n in ("english", "multilingual")
    ]
