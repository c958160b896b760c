"""Each expectation fails by its own name on what it is about, and on nothing else."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import numpy as np
import pandas as pd
import pytest

from whisper_router.checks import (
    FEATURES,
    LABELS,
    MANIFEST,
    Check,
    CheckFailedError,
    features_frame,
    labels_frame,
    manifest_frame,
    run_checks,
)
from whisper_router.corpus.options import SPLITS

SUITES = {"manifest": MANIFEST, "labels": LABELS, "features": FEATURES}
Verdicts = Mapping[str, Mapping[str, Any]]


def manifest() -> pd.DataFrame:
    rows = [
        {
            "id": f"u{i:02d}",
            "sha256": f"{i:064x}",
            "duration_s": 0.1 if i == 0 else 30.0 if i == 1 else 2.5,
            "text": f"word number {i}",
            "speaker": f"s{i // 2 % 8}",
            "split": SPLITS[i // 2 % 4],
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


def features() -> dict[str, np.ndarray]:
    return {f"u{i}": np.full((1 + i, 3, 2), i, np.float16) for i in range(6)}


def verdicts(path: Path) -> dict[str, dict[str, Any]]:
    return {verdict["name"]: verdict for verdict in json.loads(path.read_text())["verdicts"]}


@pytest.fixture
def passes(tmp_path: Path) -> Callable[[str, pd.DataFrame], Verdicts]:
    def run(suite: str, frame: pd.DataFrame) -> Verdicts:
        path = tmp_path / "verdict.json"
        found = run_checks(suite, frame, SUITES[suite], path, tmp_path / "docs")
        assert all(verdict.passed for verdict in found)
        return verdicts(path)

    return run


@pytest.fixture
def fails(tmp_path: Path) -> Callable[[str, pd.DataFrame], tuple[Verdicts, str]]:
    def run(suite: str, frame: pd.DataFrame) -> tuple[Verdicts, str]:
        path = tmp_path / "verdict.json"
        with pytest.raises(CheckFailedError) as caught:
            run_checks(suite, frame, SUITES[suite], path, tmp_path / "docs")
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
        found = run_checks("manifest", manifest_frame(manifest()), MANIFEST, tmp_path / f"{name}.json", docs)
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
            "all_splits_present": None,
        },
    )


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


def test_good_labels_pass(passes):
    assert list(passes("labels", labels_frame(labels()))) == [check.name for check in LABELS]


def test_each_expectation_of_the_labels_names_the_rows_that_break_it(fails):
    frame = labels()
    frame.loc[0, "id"] = "u4"
    frame.loc[5, ["wer_weak", "wer_strong"]] = -0.1
    frame.loc[frame["split"] == "test", "label"] = 1
    found, message = fails("labels", labels_frame(frame))
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


def test_no_more_than_five_examples_are_shown_and_all_are_counted(fails):
    frame = labels()
    frame["label"] = 0
    found, _ = fails("labels", labels_frame(frame))
    assert len(found["both_classes_present"]["examples"]) == 5
    assert found["both_classes_present"]["unexpected"] == 16


def test_a_wer_that_is_not_a_number_is_seen(fails):
    frame = labels()
    frame.loc[3, "wer_strong"] = np.nan
    found, message = fails("labels", labels_frame(frame))
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
