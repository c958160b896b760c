"""Great Expectations on manifest, labels and features: a failed expectation fails the stage by name."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.corpus.options import SPLITS
from whisper_router.errors import UserError
from whisper_router.files import write_json
from whisper_router.scoring import has_words, normalise


class CheckFailedError(UserError):
    """Expectations that did not hold, by name."""


@dataclass(frozen=True)
class Check:
    """One expectation with its meaning and remedy in plain words."""

    name: str
    meaning: str
    remedy: str
    expectation: str  # class name in great_expectations.expectations
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of a check."""

    name: str
    meaning: str
    remedy: str
    passed: bool
    unexpected: int
    examples: tuple[str, ...]


MANIFEST = (
    Check("ids_unique", "No id stands twice.", "Give each row its own id.",
          "ExpectColumnValuesToBeUnique", {"column": "id"}),
    Check("audio_readable", "Each row's audio was decoded to its end and hashed.", "Run ingest again.",
          "ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": "^[0-9a-f]{64}$"}),
    Check("duration_bounds", "Utterances last between 0.1 and 30 s.",
          "Set ingest.min_duration_s and ingest.max_duration_s.",
          "ExpectColumnValuesToBeBetween", {"column": "duration_s", "min_value": 0.1, "max_value": 30.0}),
    Check("text_not_empty", "References hold words after normalisation.", "Leave out rows without words.",
          "ExpectColumnValuesToBeBetween", {"column": "words", "min_value": 1}),
    Check("speakers_in_one_split", "No speaker stands in two splits.", "Correct the official split column.",
          "ExpectColumnValuesToBeBetween", {"column": "splits_of_speaker", "max_value": 1}),
    Check("texts_in_one_split", "No text stands in two splits.", "Run ingest again: it drops such rows.",
          "ExpectColumnValuesToBeBetween", {"column": "splits_of_text", "max_value": 1}),
    Check("all_splits_present", "Train, dev, calibration and test each hold rows.",
          "Add speakers, or change ingest.splits.",
          "ExpectColumnDistinctValuesToEqualSet", {"column": "split", "value_set": list(SPLITS)}),
)  # fmt: skip

LABELS = (
    Check("ids_unique", "One label an utterance.", "Run label again.",
          "ExpectColumnValuesToBeUnique", {"column": "id"}),
    Check("wer_bounds", "WER is a number, at least 0.", "Look at the transcripts of these ids.",
          "ExpectColumnValuesToBeBetween", {"column": "worst_wer", "min_value": 0.0}),
    Check("both_classes_present", "Each split holds utterances that need the strong arm and others.",
          "Use more or harder audio, or another pair of arms.",
          "ExpectColumnValuesToBeBetween", {"column": "classes_in_split", "min_value": 2}),
)  # fmt: skip

FEATURES = (
    Check("ids_match_labels", "Each labelled utterance has features, and no other.", "Run featurize again.",
          "ExpectColumnValuesToBeInSet", {"column": "labelled", "value_set": [True]}),
    Check("finite", "No feature is infinite or not a number.", "Look at the audio of these ids.",
          "ExpectColumnValuesToBeInSet", {"column": "finite", "value_set": [True]}),
    Check("shape", "Features have one width and at least one frame.", "Run featurize again.",
          "ExpectColumnValuesToBeInSet", {"column": "shape_right", "value_set": [True]}),
)  # fmt: skip


def manifest_frame(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with what its checks read."""
    text = manifest["text"].map(normalise)
    return manifest.assign(
        sha256=manifest["sha256"].fillna("none"),
        duration_s=manifest["duration_s"].fillna(-1.0),  # missing values are left out of expectations
        words=[len(words.split()) if has_words(words) else 0 for words in text],
        splits_of_speaker=manifest.groupby("speaker")["split"].transform("nunique"),
        splits_of_text=manifest.groupby(text)["split"].transform("nunique"),
    )


def labels_frame(labels: pd.DataFrame) -> pd.DataFrame:
    """The labels with what their checks read."""
    return labels.assign(
        worst_wer=labels[["wer_weak", "wer_strong"]].max(axis=1, skipna=False).fillna(-1.0),
        classes_in_split=labels.groupby("split")["label"].transform("nunique"),
    )


def features_frame(features: Mapping[str, np.ndarray], ids: Sequence[str]) -> pd.DataFrame:
    """A row an utterance: is it labelled, finite, of the right shape."""
    shapes = {id_: feature.shape for id_, feature in features.items()}
    width = Counter(shape[1:] for shape in shapes.values()).most_common(1)[0][0] if shapes else ()
    return pd.DataFrame(
        {
            "id": id_,
            "labelled": id_ in shapes and id_ in known,
            "finite": id_ in shapes and bool(np.isfinite(features[id_]).all()),
            "shape_right": id_ in shapes and shapes[id_][0] >= 1 and shapes[id_][1:] == width,
        }
        for known in [set(ids)]
        for id_ in sorted(known | set(shapes))
    )


def run_checks(
    name: str, frame: pd.DataFrame, checks: Sequence[Check], output: Path, docs: Path
) -> list[Verdict]:
    """Validate a table; write the verdicts as JSON without run id or clock, and Data Docs beside.

    Raises
    ------
    CheckFailedError
        Names the expectations that failed, with examples and remedies. The verdicts are written all the same.
    """
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
    site: Any = {"class_name": "SiteBuilder", "store_backend": store}
    context.add_data_docs_site(site_name=name, site_config=site)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for check in checks:
        kind = getattr(gx.expectations, check.expectation)
        notes = f"{check.name}: {check.meaning} Remedy: {check.remedy}"
        suite.add_expectation(kind(**check.arguments, meta={"name": check.name}, notes=notes))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        actions=[UpdateDataDocsAction(name="docs", site_names=[name])],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]},
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": frame})
    validation: Any
    (validation,) = outcome.run_results.values()
    by_name = {check.name: check for check in checks}
    verdicts = []
    for result in validation.results:
        check = by_name[result.expectation_config.meta["name"]]
        found = result.result.get("unexpected_index_list") or []
        examples = tuple(sorted(str(row["id"]) for row in found)[:5])
        if not result.success and not examples:
            missing = sorted(map(str, result.result.get("partial_missing_list") or []))
            unknown = sorted(map(str, result.result.get("partial_unexpected_list") or []))
            examples = tuple([f"no {name}" for name in missing] + [f"unknown {name}" for name in unknown])
        count = int(result.result.get("unexpected_count") or 0)
        if result.exception_info.get("raised_exception"):
            examples = (str(result.exception_info.get("exception_message")),)
        verdicts.append(
            Verdict(check.name, check.meaning, check.remedy, bool(result.success), count, examples)
        )
    verdicts.sort(key=lambda verdict: list(by_name).index(verdict.name))
    write_json(
        output, {"suite": name, "rows": len(frame), "verdicts": [asdict(verdict) for verdict in verdicts]}
    )
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        lines = [f"  {v.name}: {v.meaning} Not so: {', '.join(v.examples)}. {v.remedy}" for v in failed]
        names = ", ".join(verdict.name for verdict in failed)
        raise CheckFailedError(f"{name}: expectation {names} failed\n" + "\n".join(lines))
    return verdicts
