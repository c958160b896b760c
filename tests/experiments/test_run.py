"""The command compares deciders on the outputs of label, and every figure is what its name says."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router.asr.load import cost_dims
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.decider.options import GbtOptions, LogisticOptions, MlpOptions
from whisper_router.errors import UserError
from whisper_router.evaluation import Pair, Spent
from whisper_router.experiments import data, training
from whisper_router.experiments.candidates import (
    BEFORE,
    CASCADE,
    DURATION,
    FLOOR,
    PAPER,
    SNR,
    SPEAKER,
    STRONG,
    TAGS,
    Candidate,
    Part,
    candidates,
)
from whisper_router.experiments.data import Corpus, PooledReader, folder_of
from whisper_router.experiments.document import DOCUMENT, log_runs, write_document
from whisper_router.experiments.figures import curve, ranks
from whisper_router.experiments.run import experiment
from whisper_router.experiments.setting import Setting
from whisper_router.experiments.studies import fewer, per_doubling
from whisper_router.features.store import write_features
from whisper_router.files import write_json, write_parquet
from whisper_router.hashing import canonical_json
from whisper_router.labelling import labels_table, transcripts_table
from whisper_router.paths import ARMS, DATA, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.store import ContentStore

LINE = LogisticOptions(kind="logistic", extractor="", c=(0.01, 1.0))
TREES = GbtOptions(kind="gbt", extractor="", trees=20, min_in_leaf=2)
TRIED = [
    Candidate(SNR, FLOOR, (Part("signal", ("snr_db",)),), LINE, False),
    Candidate(DURATION, FLOOR, (Part("signal", ("log_duration",)),), LINE, False),
    Candidate("strong", PAPER, (Part("strong_encoder"),), LINE, False),
    Candidate("layers", BEFORE, (Part("weak_encoder"),), LINE),
    Candidate("mlp", BEFORE, (Part("weak_encoder"),), MlpOptions(kind="mlp", extractor="", epochs=1), False),
    Candidate("first block", STRONG, (Part("strong_encoder", (), 2),), LINE, False),
    Candidate("mel", FLOOR, (Part("logmel"),), LINE, False),
    Candidate("mel mlp", FLOOR, (Part("logmel"),), MlpOptions(kind="mlp", extractor="", epochs=1), False),
    Candidate(SPEAKER, FLOOR, (Part(TAGS),), LINE, False),
    Candidate("sure", CASCADE, (Part("confidence"),), LINE),
    Candidate("trees", CASCADE, (Part("confidence"), Part("signal")), TREES),
]
SURE, TREES_ON_BOTH = TRIED[-2:]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory, checkpoints, plain, reference_of, speech, wav
) -> Iterator[tuple[Path, pytest.MonkeyPatch]]:
    """Label's outputs over 36 utterances of twelve speakers, two random arms, two corpora."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WHISPER_ROUTER_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(training, "in_processes", lambda work, jobs, *_: [work(job) for job in jobs])
        DATA.mkdir()
        clips = [speech(0.6 + 0.05 * i, i) for i in range(36)]
        rows = []
        for i, clip in enumerate(clips):
            (folder / f"{i}.wav").write_bytes(wav(clip))
            rows.append((f"u{i}", f"{i}.wav", 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
        manifest = pd.DataFrame(rows, columns=["id", "audio", "offset_s", "duration_s", "sha256"])
        references = {
            "weak": reference_of(checkpoints["english"], plain),
            "strong": reference_of(checkpoints["multilingual"], plain),
        }
        arms = {name: reference.load() for name, reference in references.items()}
        made = {
            name: [arm.decode(arm.encode_audio([clip]), [clip])[0] for clip in clips]
            for name, arm in arms.items()
        }
        right = ["strong" if (i + i // 12) % 3 == 0 else "weak" for i in range(36)]  # what was really said
        manifest["text"] = [f"{made[name][i].text} word{i}" for i, name in enumerate(right)]
        manifest["corpus"] = np.where(np.arange(36) % 12 < 6, "one", "other")
        manifest["speaker"], manifest["split"] = [f"s{i % 12}" for i in range(36)], "train"
        accents = [canonical_json({"accent": "ab"[i % 12 % 2], "room": i}) for i in range(36)]
        manifest["tags"] = [tag if i % 12 < 6 else "{}" for i, tag in enumerate(accents)]
        transcripts = transcripts_table(manifest, made, {})
        write_parquet(MANIFEST, manifest)
        write_parquet(TRANSCRIPTS, transcripts)
        write_parquet(LABELS, labels_table(manifest, transcripts))
        write_json(
            ARMS,
            {
                name: {**references[name].model_dump(mode="json"), "dims": cost_dims(arms[name])}
                for name in arms
            },
        )
        data.open_reader.cache_clear()
        training._reader.cache_clear()
        yield folder, patch
        data.open_reader.cache_clear()
        training._reader.cache_clear()


@pytest.fixture(scope="module")
def made(project) -> tuple[dict, dict, Pair]:
    return experiment(3, 0, TRIED)


def test_every_candidate_has_its_row_and_the_choice_is_among_those_of_its_groups(made):
    report, curves, pair = made
    assert list(report["candidates"]) == [one.name for one in TRIED]
    assert set(report["best"]) == {"best before decoding", "best cascade"}
    assert set(report["best"]["best cascade"]["chosen"]) <= {"sure", "trees"}
    assert report["best"]["best before decoding"]["chosen"] == ["layers"] * 3
    assert set(report["differences"]["layers"]) == {SNR, DURATION}
    assert {row["candidate"] for row in report["across"]} <= {"layers", "sure", "trees"}
    assert report["compute"] == {
        "configurations": 11,
        "in the choice": 3,
        "trainings": 11 * 3 + 3 * 3 * 3,
        "training_seconds": report["compute"]["training_seconds"],
    }
    for name in [*report["candidates"], "best cascade, chosen in inner folds"]:
        line = curves[name]
        words = pair.words.sum()
        assert line["wer"].iloc[0] == pytest.approx(pair.weak_errors.sum() / words)
        assert line["wer"].iloc[-1] == pytest.approx(pair.strong_errors.sum() / words)


def test_a_cascade_pays_the_whole_weak_arm_and_a_first_block_less_than_the_strong_encoder(made):
    report, curves, _ = made
    lines, all_weak = report["lines"], {name: line["macs"].iloc[0] for name, line in curves.items()}
    assert lines["weak"]["macs"] < all_weak["sure"] < all_weak["first block"] < all_weak["strong"]
    assert all_weak["layers"] == pytest.approx(lines["weak"]["macs"], rel=0.02)
    assert curves["sure"]["macs"].iloc[-1] > 1 > all_weak["sure"]
    assert curves["first block"]["macs"].iloc[-1] == pytest.approx(1, rel=0.02)


def test_deciding_is_measured_beside_the_weak_arm(made):
    seconds = made[0]["seconds"]
    assert seconds["weak_arm"] > 0
    assert set(seconds["candidates"]) == {one.name for one in TRIED}
    for row in seconds["candidates"].values():
        wanted = (row["extractor"] + row["decider"]) / seconds["weak_arm"]
        assert row["share_of_weak"] == pytest.approx(wanted, abs=1e-2, rel=0.01)


def test_what_was_trained_is_not_trained_again(made, project, monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_fit", refused)
    again, _, _ = experiment(3, 0, TRIED)
    for name, row in again["candidates"].items():
        assert row == made[0]["candidates"][name]


def test_a_damaged_training_is_made_again_with_an_equal_result(made, project):
    setting = Setting.of(Corpus.load(), 3, 0)
    job = setting.job(SURE, setting.folds[0])
    before = training._train(job)
    path = ContentStore().value_path(training.KIND, training._key(job))
    path.write_text("{")
    after = training._train(job)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_the_document_names_every_candidate_and_what_was_not_measured(made, project):
    write_document(*made)
    text = DOCUMENT.read_text()
    for name in [*(one.name for one in TRIED), *made[0]["not_measured"]]:
        assert f"| {name} |" in text
    assert "None" not in text
    assert (
        json.loads(DOCUMENT.with_suffix(".json").read_text())["candidates"].keys()
        == made[0]["candidates"].keys()
    )
    assert DOCUMENT.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_each_configuration_is_one_mlflow_run_however_often_it_is_logged(made, project):
    assert log_runs(made[0]) == len(TRIED)
    assert log_runs(made[0]) == 0


def test_the_vector_of_a_combination_is_its_parts_side_by_side(made):
    parts = [PooledReader((part,))["u3"] for part in TREES_ON_BOTH.parts]
    np.testing.assert_array_equal(PooledReader(TREES_ON_BOTH.parts)["u3"], np.concatenate(parts, axis=1))
    reader = data.open_reader("weak_encoder")
    whole = reader["u3"].astype(np.float64)
    wanted = np.concatenate([whole.mean(axis=0).ravel(), whole.std(axis=0).ravel()])
    np.testing.assert_allclose(PooledReader((Part("weak_encoder"),))["u3"][0], wanted, rtol=1e-6)


def test_a_part_of_the_speakers_leaves_dev_and_test_alone(made):
    setting = Setting.of(Corpus.load(), 3, 0)
    fold, half = setting.folds[0], fewer(setting, setting.folds[0], 0.5)
    assert 0 < len(half.train) < len(fold.train)
    assert set(half.train) < set(fold.train)
    np.testing.assert_array_equal(half.test, fold.test)


def test_a_doubling_adds_what_the_learning_curve_rises_by():
    rows = [{"utterances": 100 * 2**i, "auroc": {"all": 0.6 + 0.03 * i, "one": None}} for i in range(4)]
    assert per_doubling(rows) == {"all": 0.03, "one": None}


def test_without_labels_the_command_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="whisper-router run"):
        Corpus.load()


def test_features_of_other_utterances_are_made_anew(made, project):
    write_features(folder_of("confidence"), [("u0", np.zeros((1, 2)))], {"options": "other"})
    data.open_reader.cache_clear()
    data.featurize(Corpus.load(), ["confidence"])
    assert len(data.open_reader("confidence").ids) == 36
    data.open_reader.cache_clear()


def test_utterances_are_ranked_within_their_fold_highest_score_first():
    scores, folds = np.array([0.1, 0.9, 0.5, 0.6]), np.array([0, 0, 1, 1])
    np.testing.assert_allclose(ranks(scores, folds), [0.5, 0.0, 0.5, 0.0])


def test_the_curve_reaches_what_the_order_of_the_scores_allows():
    ones = np.ones(10)
    weak = np.array([1, 0] * 5)
    costs = {"macs": ones}
    pair = Pair(
        np.arange(10), ones, weak, np.zeros(10), weak, ones, ones, costs, {"macs": 3 * ones}, costs, costs
    )
    line = curve(pair, weak.astype(float), np.zeros(10), Spent("weak", {"macs": 0 * ones}))
    assert line["wer"].iloc[50] == 0
    sent = np.ceil(line["share"].to_numpy() * 10 - 1e-6) / 10
    np.testing.assert_allclose(line["macs"], 1 / 3 + sent)


def test_names_of_candidates_are_their_own_and_their_parts_exist():
    found = candidates(tags=True)
    assert [one for one in found if one.name != SPEAKER] == candidates(tags=False)
    assert len({one.name for one in found}) == len(found)
    for one in found:
        for part in one.parts:
            names = data.NAMES.get(part.extractor, ("last",))
            assert set(part.columns) <= set(names)


def test_speaker_tags_are_compared_within_the_corpora_that_have_them(made):
    report, corpus = made[0], Corpus.load()
    assert list(corpus.tags) == ["one: accent=a", "one: accent=b"]
    tagged = (corpus.labels["corpus"] == "one").to_numpy()
    np.testing.assert_array_equal(corpus.tagged, tagged)
    row = report["candidates"][SPEAKER]["auroc"]
    assert row["other"]["value"] is None
    assert row["all"] == row["one"] != {"value": None}
    assert SPEAKER not in report["not_measured"]


def test_the_first_blocks_are_costed_as_the_pair_says(made):
    _, curves, pair = made
    first = curves["first block"]["macs"].iloc[0]
    least = (pair.weak["macs"] + pair.strong_blocks[1]["macs"]).sum() / pair.strong["macs"].sum()
    assert first == pytest.approx(least, rel=0.02)
    assert first > least  # the decider's own
