"""train, calibrate, package and evaluate on a corpus that is cross-validated, with tiny random Whispers."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router import environment
from whisper_router.asr.load import cost_dims
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.contest import ContestError
from whisper_router.corpus.options import FOLDS
from whisper_router.decider.scores import OUT_OF_FOLD, score_split
from whisper_router.errors import UserError
from whisper_router.features.hypothesis import confidence
from whisper_router.features.reading import identity_of, specs_of
from whisper_router.features.store import write_features
from whisper_router.files import read_json, write_json, write_parquet
from whisper_router.labelling import (
    Work,
    compute,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.params import load_params
from whisper_router.paths import (
    ARMS,
    CHECKED,
    DECIDER,
    FEATURES,
    LABELS,
    MANIFEST,
    METRICS,
    POLICY,
    REJECTED,
    REPORT,
    ROUTER,
    TRANSCRIPTS,
)
from whisper_router.policy.choose import choose
from whisper_router.policy.folds import part_of
from whisper_router.policy.samples import read_labelled, score
from whisper_router.retraining import hold_contest
from whisper_router.store import ContentStore

ROOT = Path(__file__).parents[1]
UTTERANCES, SPEAKERS, N_FOLDS = 24, 12, 3
COLUMNS = ["id", "audio", "offset_s", "duration_s", "sha256", "corpus", "speaker", "split", "text", "tags"]
PARAMS = """
ingest: {{root: corpora, corpora: [{{name: toy, kind: table, path: toy.csv}}]}}
cross_validation: {{folds: {folds}}}
arms:
  weak: {{model: {english}, decode: {plain}}}
  strong: {{model: {multilingual}, decode: {plain}}}
extractors: {{sure: {{kind: confidence}}}}
deciders: {{cascade: {{kind: logistic, extractor: sure}}}}
policies:
  half: {{kind: strong_share, decider: cascade, share: 0.5}}
  safe: {{kind: guarantee, decider: cascade, alpha: 0.4}}
router: {{policy: half}}
evaluate: {{bootstrap: 100, verify: 6}}
"""


@pytest.fixture(scope="module")
def flows() -> Iterator[dict[str, object]]:
    """The stages' modules; their tasks run without Prefect."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        for name, value in environment._DEFAULTS.items():
            patch.setenv(name, value)
        from flows import calibrate, evaluate, package, train

        patch.setattr(train, "cross_validate_one", train.cross_validate_one.fn)
        patch.setattr(train, "train_one", train.train_one.fn)
        patch.setattr(evaluate, "verify", evaluate.verify.fn)
        yield {"train": train, "calibrate": calibrate, "package": package, "evaluate": evaluate}


def lay_out(checkpoints, plain, make_speech, wav, make_arm, reference_of) -> None:
    """What featurize leaves; the labels are made up, so that each speaker has both."""
    text = PARAMS.format(folds=N_FOLDS, **checkpoints, plain=json.dumps(plain.model_dump(mode="json")))
    Path("params.yaml").write_text(text)
    Path("requirements.lock").write_text("")
    clips = [make_speech(0.6 + 0.03 * i, i) for i in range(UTTERANCES)]
    rows = []
    for i, clip in enumerate(clips):
        Path(f"{i}.wav").write_bytes(wav(clip))
        row = (f"u{i}", f"{i}.wav", 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip))
        rows.append((*row, "toy", f"toy/s{i // 2}", FOLDS, f"one two {i}", "{}"))
    columns = [
        "id",
        "audio",
        "offset_s",
        "duration_s",
        "sha256",
        "corpus",
        "speaker",
        "split",
        "text",
        "tags",
    ]
    manifest = pd.DataFrame(rows, columns=columns)
    write_parquet(MANIFEST, manifest)
    write_json(REJECTED, [])
    for path in CHECKED:
        write_json(path, {"verdicts": []})
    specs, found, made = {}, {}, {}
    for name, vocabulary in (("weak", "english"), ("strong", "multilingual")):
        arm, specs[name] = make_arm(vocabulary, plain), reference_of(checkpoints[vocabulary], plain)
        work = Work(arm.sha256, plain, True, ())
        run = partial(compute, arm, work=work, store=ContentStore(), title=name)
        found[name], _ = transcribe_all(work, utterances(manifest), 4, name, run)
        made[name] = {**specs[name].model_dump(mode="json"), "dims": cost_dims(arm)}
    write_json(ARMS, made)
    transcripts = transcripts_table(manifest, found, {})
    labels = labels_table(manifest, transcripts)
    labels["label"] = np.arange(UTTERANCES) % 2
    labels["errors_weak"], labels["errors_strong"] = 1 + labels["label"], 1
    write_parquet(TRANSCRIPTS, transcripts)
    write_parquet(LABELS, labels)
    identity = identity_of(load_params().extractors["sure"], specs_of(specs))
    features = [
        confidence(made, clip.size / SAMPLE_RATE) for made, clip in zip(found["weak"], clips, strict=True)
    ]
    write_features(FEATURES / "sure", zip(manifest["id"], features, strict=True), identity)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory, flows, checkpoints, plain, speech, wav, make_arm, reference_of
) -> Iterator[Path]:
    """The folder after evaluate."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WHISPER_ROUTER_CACHE", str(folder / "cache"))
        lay_out(checkpoints, plain, speech, wav, make_arm, reference_of)
        for name in ("train", "calibrate", "package", "evaluate"):
            getattr(flows[name], name).fn()
        yield folder


def test_every_utterance_has_a_score_of_a_fold_that_none_of_its_speaker_s_others_left(project):
    table = pd.read_parquet(DECIDER / "cascade" / OUT_OF_FOLD)
    labels = pd.read_parquet(LABELS)
    assert table["id"].tolist() == labels["id"].tolist()
    assert sorted(table["fold"].unique()) == list(range(N_FOLDS))
    assert (table["fold"].groupby(labels["speaker"]).nunique() == 1).all()


def test_the_packaged_thresholds_are_chosen_on_all_out_of_fold_scores(project):
    params = load_params()
    part = read_labelled(params, "calibration")
    sample, _ = score(params, "cascade", part)
    assert len(sample.scores) == UTTERANCES
    table = pd.read_parquet(DECIDER / "cascade" / OUT_OF_FOLD)
    np.testing.assert_array_equal(sample.scores, table["score"])
    final = score_split(params, "cascade", table["id"].tolist(), final=True)
    assert final.folds is None
    assert not np.array_equal(final.scores, sample.scores)
    policy = read_json(POLICY / "half.json")
    assert policy["calibration"]["utterances"] == UTTERANCES
    assert policy["threshold"] == choose(params.policies["half"], sample).threshold
    assert "the other folds" in read_json(POLICY / "safe.json")["promise"]["assumes"]


def test_figures_are_of_all_utterances_each_fold_at_a_threshold_of_the_others(project):
    params = load_params()
    sample, _ = score(params, "cascade", read_labelled(params, "test"))
    metrics = read_json(METRICS / "test.json")
    strong = 0
    for fold in range(N_FOLDS):
        others = part_of(sample, np.flatnonzero(sample.folds != fold))
        threshold = choose(params.policies["half"], others).threshold
        strong += int((sample.scores[sample.folds == fold] >= threshold).sum())
    assert metrics["counts"] == {
        "utterances": UTTERANCES,
        "speakers": SPEAKERS,
        "need_strong": UTTERANCES // 2,
        "sent_to_strong": strong,
        "folds": N_FOLDS,
    }
    assert isinstance(metrics["wer_routed"]["interval"], list)
    assert read_json(METRICS / "summary.json")["verified_with_router"] == 6


def test_the_report_says_so_and_the_router_carries_no_utterance(project):
    report = " ".join(REPORT.read_text().split())
    assert f"{UTTERANCES} utterances of {SPEAKERS} speakers in {N_FOLDS} folds by speaker" in report
    assert "nothing was trained or tuned on" not in report
    assert not list(ROUTER.rglob(OUT_OF_FOLD))


def test_drift_is_measured_against_scores_of_all_utterances(project):
    scores = pd.read_parquet(DECIDER / "cascade" / OUT_OF_FOLD)["score"].round(4)
    assert read_json(ROUTER / "baseline.json")["score"] == sorted(scores)


def test_no_contest_is_held_where_the_decider_has_learnt_from_every_speaker(project):
    with pytest.raises(ContestError, match=r"no test speaker is unseen: .* was cross-validated.*split test"):
        hold_contest(None, None)


def test_too_few_for_the_folds_are_refused_with_the_remedy(project, flows, monkeypatch, tmp_path):
    labels = pd.read_parquet(LABELS)
    monkeypatch.setattr(flows["train"], "LABELS", tmp_path / "labels.parquet")
    monkeypatch.setattr(flows["train"], "DECIDER", tmp_path / "decider")
    write_parquet(tmp_path / "labels.parquet", labels[labels["speaker"].isin(["toy/s0", "toy/s1"])])
    with pytest.raises(UserError, match=r"there are 2 speakers.*lower cross_validation\.folds, add"):
        flows["train"].train.fn()
