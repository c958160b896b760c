"""Each expectation fails by its own name on what it is about, and on nothing else."""

import json
import os
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import numpy as np
import pandas as pd
import pytest

from whisper_router.checks.options import Severities
from whisper_router.checks.run import CheckFailedError, run_checks
from whisper_router.checks.suites import (
    FEATURES,
    LABELS,
    MANIFEST,
    Check,
    features_frame,
    labels_frame,
    manifest_frame,
    manifest_suite,
)
from whisper_router.corpus.options import FOLDS, SPLITS

STRICT = Severities(**dict.fromkeys(Severities.model_fields, "fail"))
SUITES = {"manifest": MANIFEST, "labels": LABELS, "features": FEATURES}
Verdicts = Mapping[str, Mapping[str, Any]]


def manifest() -> pd.DataFrame:
    rows = [
        {
            "id": f"u{i:02d}",
            "sha256": f"{i:064x}",
            "duration_s": 0.5 if i == 0 else 15.0 if i == 1 else 2.5,
            "text": f"word number {i}",
            "speaker": f"s{i // 2 % 8}",
            "split": SPLITS[i // 2 % 4],
            "language": "en",
            "level_db": -23.0,
            "clipped": 0.0,
        }
        for i in range(32)
    ]
    return pd.DataFrame(rows)


def labels() -> pd.DataFrame:
    rows = [
        {"id": f"u{i}", "split": SPLITS[i % 4], "label": i // 4 % 2, "wer_weak": 0.1 * i, "wer_strong": 0.0}
        for i in range(16)
    ]
    return pd.DataFrame(rows)


def transcripts() -> pd.DataFrame:
    rows = [{"id": f"u{i}", "arm": arm, "compression_ratio": 1.1} for i in range(16) for arm in ("w", "s")]
    return pd.DataFrame(rows)


def labels_checked(frame: pd.DataFrame) -> pd.DataFrame:
    return labels_frame(frame, transcripts())


def features() -> dict[str, np.ndarray]:
    return {f"u{i}": np.full((1 + i, 3, 2), i, np.float16) for i in range(6)}


def verdicts(path: Path) -> dict[str, dict[str, Any]]:
    return {verdict["name"]: verdict for verdict in json.loads(path.read_text())["verdicts"]}


@pytest.fixture
def passes(tmp_path: Path) -> Callable[[str, pd.DataFrame], Verdicts]:
    def run(suite: str, frame: pd.DataFrame) -> Verdicts:
        path = tmp_path / "verdict.json"
        found = run_checks(suite, frame, SUITES[suite], Severities(), path, tmp_path / "docs")
        assert all(verdict.passed for verdict in found)
        return verdicts(path)

    return run


@pytest.fixture
def fails(tmp_path: Path) -> Callable[[str, pd.DataFrame], tuple[Verdicts, str]]:
    def run(suite: str, frame: pd.DataFrame) -> tuple[Verdicts, str]:
        path = tmp_path / "verdict.json"
        with pytest.raises(CheckFailedError) as caught:
            run_checks(suite, frame, SUITES[suite], STRICT, path, tmp_path / "docs")
        return verdicts(path), str(caught.value)

    return run


def named(
    suite: tuple[Check, ...], found: Verdicts, message: str, wanted: Mapping[str, list[str] | None]
) -> None:
    """The checks that failed are those wanted, each with its examples, meaning and remedy."""
    failed = {name: list(verdict["examples"]) for name, verdict in found.items() if not verdict["passed"]}
    assert set(failed) == set(wanted)
    for name, examples in wanted.items():
        assert examples is None or failed[name] == examples, name
    assert f"expectation {', '.join(check.name for check in suite if check.name in wanted)} failed" in message
    for check in suite:
        said = f"{check.name}: {check.meaning}" in message and check.remedy in message
        assert said == (check.name in wanted), check.name


def test_a_good_table_passes_twice_with_equal_bytes_and_data_docs(tmp_path):
    for name in ("first", "second"):
        docs = tmp_path / f"docs-{name}"
        found = run_checks(
            "manifest", manifest_frame(manifest()), MANIFEST, Severities(), tmp_path / f"{name}.json", docs
        )
        assert [verdict.name for verdict in found] == [check.name for check in MANIFEST]
        assert "manifest" in (docs / "index.html").read_text()
    first = (tmp_path / "first.json").read_bytes()
    assert first == (tmp_path / "second.json").read_bytes()
    whole = json.loads(first)
    assert (whole["suite"], whole["rows"]) == ("manifest", 32)
    assert set(whole) == {"suite", "rows", "verdicts"}
    assert {key for verdict in whole["verdicts"] for key in verdict} == {
        "name",
        "meaning",
        "remedy",
        "severity",
        "passed",
        "unexpected",
        "examples",
    }


def test_each_expectation_of_the_manifest_names_the_rows_that_break_it(fails):
    frame = manifest().set_index("id", drop=False)
    frame.loc["u02", "id"] = "u03"
    frame.loc["u08", "sha256"] = "not a hash"
    frame.loc["u09", "duration_s"] = 0.09
    frame.loc["u10", "duration_s"] = 30.01
    frame.loc[["u25", "u26"], "sha256"] = "d" * 64
    frame.loc[["u14", "u15"], "sha256"] = "a" * 64
    frame.loc["u22", "level_db"] = -45.5
    frame.loc["u23", "clipped"] = 0.002
    frame.loc["u27", "text"] = "\u0441\u043b\u043e\u0432\u043e one two"
    frame.loc["u11", "text"] = "?!"
    frame.loc[["u16", "u17"], "text"] = ["Colour!", "color"]
    frame.loc["u17", ["speaker", "split"]] = ["new", "dev"]
    frame.loc["u18", ["speaker", "split"]] = ["two", "dev"]
    frame.loc["u19", ["speaker", "split"]] = ["two", "train"]
    found, message = fails(
        "manifest", manifest_frame(frame[frame["split"] != "calibration"].reset_index(drop=True))
    )
    named(
        MANIFEST,
        found,
        message,
        {
            "ids_unique": ["u03", "u03"],
            "audio_readable": ["u08"],
            "duration_bounds": ["u09", "u10"],
            "text_not_empty": ["u11"],
            "speakers_in_one_split": ["u18", "u19"],
            "texts_in_one_split": ["u16", "u17"],
            "audio_in_one_split": ["u25", "u26"],
            "all_splits_present": None,
            "long_audio_in_test": ["u10"],
            "audio_once": ["u14", "u15", "u25", "u26"],
            "audible": ["u22"],
            "not_clipped": ["u23"],
            "known_characters": ["u27"],
            "word_rate": ["u09", "u10", "u11"],
        },
    )


def test_medians_that_are_not_those_of_speech_are_seen_with_their_value(fails):
    frame = manifest().assign(duration_s=28.0, text=[f"{i} word" for i in range(32)])
    found, message = fails("manifest", manifest_frame(frame))
    named(
        MANIFEST,
        found,
        message,
        {"word_rate": None, "median_word_rate": ["it is 0.07143"], "median_duration": ["it is 28"]},
    )


def test_audio_over_30_s_is_right_in_test_alone_and_other_languages_have_other_characters(passes):
    frame = manifest().set_index("id", drop=False)
    frame.loc["u06", ["duration_s", "text"]] = [600.0, "such a long talk " * 100]
    frame.loc["u27", ["text", "language"]] = ["\u0441\u043b\u043e\u0432\u043e one two", "ru"]
    passes("manifest", manifest_frame(frame.reset_index(drop=True)))


def test_what_only_warns_is_printed_and_another_severity_fails(tmp_path, capsys):
    frame = manifest_frame(manifest().assign(level_db=-50.0))
    output = tmp_path / "verdict.json"
    run_checks("manifest", frame, MANIFEST, Severities(), output, tmp_path / "docs")
    said = capsys.readouterr().out
    assert said.startswith("manifest: warning: audible: The level of an utterance is at least -45 dB")
    assert "Not so: 32 rows: u00, u01, u02, u03, u04, .... Listen to these" in said
    verdict = verdicts(output)["audible"]
    assert (verdict["severity"], verdict["passed"]) == ("warn", False)
    with pytest.raises(CheckFailedError, match="manifest: expectation audible failed"):
        run_checks("manifest", frame, MANIFEST, Severities(audible="fail"), output, tmp_path / "docs")


def test_data_docs_show_each_meaning_and_remedy(tmp_path):
    run_checks(
        "manifest", manifest_frame(manifest()), MANIFEST, Severities(), tmp_path / "v.json", tmp_path / "docs"
    )
    for folder in ("expectations", "validations"):
        (page,) = (tmp_path / "docs" / folder).rglob("*.html")
        text = unescape(" ".join(page.read_text().split()))
        for check in MANIFEST:
            assert f"{check.name}: {check.meaning} Remedy: {check.remedy}" in text, (folder, check.name)


def test_an_unknown_split_is_seen(fails):
    frame = manifest()
    frame.loc[frame["speaker"] == "s5", "split"] = "validation"
    found, message = fails("manifest", manifest_frame(frame))
    named(MANIFEST, found, message, {"all_splits_present": None})


def test_the_split_that_is_missing_or_unknown_is_named(fails):
    frame = manifest()
    frame.loc[frame["split"] == "dev", "split"] = "validation"
    _, message = fails("manifest", manifest_frame(frame))
    found = message.partition("Not so: ")[2]
    assert "dev" in found
    assert "validation" in found


def test_a_manifest_that_is_cross_validated_needs_no_splits(tmp_path):
    whole = manifest().assign(split=FOLDS)
    suite = manifest_suite(whole)
    assert [check for check in MANIFEST if check.name != "all_splits_present"] == list(suite)
    path = tmp_path / "verdict.json"
    found = run_checks("manifest", manifest_frame(whole), suite, STRICT, path, tmp_path / "docs")
    assert all(verdict.passed for verdict in found)
    assert manifest_suite(manifest()) == MANIFEST


def test_good_labels_pass(passes):
    assert list(passes("labels", labels_checked(labels()))) == [check.name for check in LABELS]


def test_each_expectation_of_the_labels_names_the_rows_that_break_it(fails):
    frame = labels()
    frame.loc[0, "id"] = "u4"
    frame.loc[5, ["wer_weak", "wer_strong"]] = -0.1
    frame.loc[frame["split"] == "test", "label"] = 1
    found, message = fails("labels", labels_checked(frame))
    named(
        LABELS,
        found,
        message,
        {
            "ids_unique": ["u4", "u4"],
            "wer_bounds": ["u5"],
            "both_classes_present": ["u11", "u15", "u3", "u7"],
        },
    )


def test_a_text_that_loops_and_a_reference_that_no_arm_understands_are_seen(fails):
    frame, made = labels(), transcripts()
    frame.loc[7, ["wer_weak", "wer_strong"]] = [1.2, 1.0]
    frame.loc[8, ["wer_weak", "wer_strong"]] = [1.2, 0.99]
    made.loc[(made["id"] == "u9") & (made["arm"] == "s"), "compression_ratio"] = 2.5
    found, message = fails("labels", labels_frame(frame, made))
    named(LABELS, found, message, {"one_arm_understands": ["u7"], "hypotheses_do_not_loop": ["u9"]})


def test_no_more_than_five_examples_are_shown_and_all_are_counted(fails):
    frame = labels()
    frame["label"] = 0
    found, _ = fails("labels", labels_checked(frame))
    assert len(found["both_classes_present"]["examples"]) == 5
    assert found["both_classes_present"]["unexpected"] == 16


def test_a_wer_that_is_not_a_number_is_seen(fails):
    frame = labels()
    frame.loc[3, "wer_strong"] = np.nan
    found, message = fails("labels", labels_checked(frame))
    named(LABELS, found, message, {"wer_bounds": ["u3"]})


def test_a_missing_hash_or_duration_is_seen(fails):
    frame = manifest()
    frame.loc[4, "sha256"] = None
    frame.loc[5, "duration_s"] = np.nan
    found, message = fails("manifest", manifest_frame(frame))
    named(MANIFEST, found, message, {"audio_readable": ["u04"], "duration_bounds": ["u05"]})


def test_good_features_pass(passes):
    made = features()
    assert list(passes("features", features_frame(made, list(made)))) == [check.name for check in FEATURES]


def test_each_expectation_of_the_features_names_the_utterances_that_break_it(fails):
    made = features()
    ids = [*made, "absent"]
    made |= {
        "extra": np.zeros((2, 3, 2), np.float16),
        "infinite": np.full((2, 3, 2), np.inf, np.float16),
        "nan": np.full((2, 3, 2), np.nan, np.float16),
        "none": np.zeros((0, 3, 2), np.float16),
        "wide": np.zeros((2, 3, 9), np.float16),
    }
    found, message = fails("features", features_frame(made, [*ids, "infinite", "nan", "none", "wide"]))
    named(
        FEATURES,
        found,
        message,
        {
            "ids_match_labels": ["absent", "extra"],
            "finite": ["absent", "infinite", "nan"],
            "shape": ["absent", "none", "wide"],
        },
    )


def test_the_suites_name_each_check_once():
    for suite in SUITES.values():
        assert len({check.name for check in suite}) == len(suite)


def test_each_check_has_a_severity_and_each_severity_a_check():
    assert {check.name for suite in SUITES.values() for check in suite} == set(Severities.model_fields)


def test_rows_without_a_transcript_are_not_held_to_have_one(passes):
    texts = ["" if i % 2 else text for i, text in enumerate(manifest()["text"])]
    mixed = manifest().assign(text=texts, reference=["strong" if not text else "text" for text in texts])
    assert [*passes("manifest", manifest_frame(mixed))] == [check.name for check in MANIFEST]
    labelled = labels().assign(reference="strong", wer_weak=2.0)
    assert "one_arm_understands" not in passes("labels", labels_checked(labelled))


def test_what_is_about_texts_is_left_out_where_no_row_has_one(passes):
    found = passes("manifest", manifest_frame(manifest().assign(text="", reference="strong")))
    about = {"text_not_empty", "texts_in_one_split", "word_rate", "median_word_rate"}
    assert {check.name for check in MANIFEST} - set(found) == about


def test_an_empty_text_of_a_row_that_has_a_transcript_still_fails(fails):
    frame = manifest_frame(manifest().assign(reference="text", text=""))
    assert "text_not_empty" in fails("manifest", frame)[1]
