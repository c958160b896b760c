"""The expectations on manifest, labels and features, with what each means and what to do about it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.audio import WINDOW_S
from whisper_router.corpus.options import FOLDS, SPLITS
from whisper_router.reference import told
from whisper_router.scoring import has_words, normalise

LOOP_RATIO = 2.4  # compression ratio above which Whisper takes a text for a loop
QUIET_DB = -45.0  # RMS relative to full scale
CLIPPED_SHARE = 0.001
WORDS_PER_S = (0.2, 7.0)
KNOWN_CHARACTERS = re.compile(r"[a-z0-9 '.%$¢€£]")  # what Whisper's normaliser makes of English


@dataclass(frozen=True)
class Check:
    """One expectation with its meaning and remedy in plain words."""

    name: str
    meaning: str
    remedy: str
    expectation: str  # class name in great_expectations.expectations
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _between(column: str, low: float | None, high: float | None, **more: Any) -> tuple[str, dict[str, Any]]:
    bounds = {name: value for name, value in (("min_value", low), ("max_value", high)) if value is not None}
    return "ExpectColumnValuesToBeBetween", {"column": column, **bounds, **more}


def _median(column: str, low: float, high: float) -> tuple[str, dict[str, Any]]:
    return "ExpectColumnMedianToBeBetween", {"column": column, "min_value": low, "max_value": high}


MANIFEST = (
    Check("ids_unique", "No id stands twice.", "Give each row its own id.",
          "ExpectColumnValuesToBeUnique", {"column": "id"}),
    Check("audio_readable", "Each row's audio was decoded to its end and hashed.", "Run ingest again.",
          "ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": "^[0-9a-f]{64}$"}),
    Check("duration_bounds", "Utterances that get a label last between 0.1 and 30 s.",
          "Set ingest.min_duration_s and ingest.max_duration_s.",
          *_between("labelled_duration_s", 0.1, WINDOW_S)),
    Check("long_audio_in_test", "Audio over 30 s stands in the test split alone: it has no label.",
          "Run ingest again: it leaves such rows out.", *_between("long_elsewhere", None, 0)),
    Check("text_not_empty", "Transcripts hold words after normalisation.", "Leave out rows without words.",
          *_between("words", 1, None)),
    Check("speakers_in_one_split", "No speaker stands in two splits.", "Correct the official split column.",
          *_between("splits_of_speaker", None, 1)),
    Check("texts_in_one_split", "No text stands in two splits.", "Run ingest again: it drops such rows.",
          *_between("splits_of_text", None, 1)),
    Check("audio_in_one_split", "No audio, by the hash of its samples, stands in two splits.",
          "Run ingest again: it drops such rows.", *_between("splits_of_audio", None, 1)),
    Check("all_splits_present", "Train, dev, calibration and test each hold rows.",
          "Add speakers, or change ingest.splits.",
          "ExpectColumnDistinctValuesToEqualSet", {"column": "split", "value_set": list(SPLITS)}),
    Check("audio_once", "No audio, by the hash of its samples, stands in two rows.",
          "Remove the copies from the corpus: they count twice.",
          "ExpectColumnValuesToBeUnique", {"column": "sha256"}),
    Check("audible", f"The level of an utterance is at least {QUIET_DB:g} dB of full scale.",
          "Listen to these: a muted channel, or a gain set too low.", *_between("level_db", QUIET_DB, None)),
    Check("not_clipped", f"At most {CLIPPED_SHARE:.1%} of an utterance's samples are clipped at full scale.",
          "Record at a lower gain; clipped speech strains both arms.",
          *_between("clipped", None, CLIPPED_SHARE)),
    Check("known_characters", "English references hold only characters that Whisper's normaliser knows.",
          "Correct the encoding or the language of these rows; other characters always count as errors.",
          "ExpectColumnValuesToBeInSet", {"column": "odd_characters", "value_set": [""]}),
    Check("word_rate", "98 % of utterances hold {} to {} words a second.".format(*WORDS_PER_S),
          "Look for texts that belong to other audio, and for offsets that are wrong.",
          *_between("words_per_s", *WORDS_PER_S, mostly=0.98)),
    Check("median_word_rate", "Half of the utterances hold 0.7 to 4.5 words a second, as speech does.",
          "Look for texts that belong to other audio, and for durations in another unit.",
          *_median("words_per_s", 0.7, 4.5)),
    Check("median_duration", "The median utterance lasts between 1 and 25 s.",
          "Join fragments, or cut recordings into utterances: routing pays by the utterance.",
          *_median("duration_s", 1.0, 25.0)),
)  # fmt: skip

LABELS = (
    Check("ids_unique", "One label an utterance.", "Run label again.",
          "ExpectColumnValuesToBeUnique", {"column": "id"}),
    Check("wer_bounds", "WER is a number, at least 0.", "Look at the transcripts of these ids.",
          *_between("worst_wer", 0.0, None)),
    Check("both_classes_present", "Each split holds utterances that need the strong arm and others.",
          "Use more or harder audio, or another pair of arms.", *_between("classes_in_split", 2, None)),
    Check("one_arm_understands", "At least one arm's WER is below 1.",
          "Compare reference and audio of these ids: the text may belong to other audio.",
          *_between("best_wer", None, 1.0, strict_max=True)),
    Check("hypotheses_do_not_loop",
          f"No final hypothesis repeats itself (compression ratio over {LOOP_RATIO:g}).",
          "Listen to these ids: music, noise or another language. Their labels say which arm loops.",
          *_between("worst_compression", None, LOOP_RATIO)),
)  # fmt: skip

FEATURES = (
    Check("ids_match_labels", "Each labelled utterance has features, and no other.", "Run featurize again.",
          "ExpectColumnValuesToBeInSet", {"column": "labelled", "value_set": [True]}),
    Check("finite", "No feature is infinite or not a number.", "Look at the audio of these ids.",
          "ExpectColumnValuesToBeInSet", {"column": "finite", "value_set": [True]}),
    Check("shape", "Features have one width and at least one frame.", "Run featurize again.",
          "ExpectColumnValuesToBeInSet", {"column": "shape_right", "value_set": [True]}),
)  # fmt: skip


def manifest_suite(manifest: pd.DataFrame) -> tuple[Check, ...]:
    """The expectations on a manifest: one that is cross-validated needs no splits."""
    folds = (manifest["split"] == FOLDS).any()
    return tuple(check for check in MANIFEST if not (folds and check.name == "all_splits_present"))


def manifest_frame(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with what its checks read. Expectations leave missing values out: texts that rows without
    a transcript do not have.
    """
    text = manifest["text"].map(normalise)
    known = told(manifest)
    words = text.map(lambda words: len(words.split()) if has_words(words) else 0).where(known)
    duration = manifest["duration_s"].fillna(-1.0)
    long = duration > WINDOW_S
    outside = manifest["split"] != "test"
    english = manifest["language"] == "en"
    return manifest.assign(
        sha256=manifest["sha256"].fillna("none"),
        duration_s=duration,
        labelled_duration_s=duration.mask(long & ~outside),
        long_elsewhere=(long & outside).astype(int),
        words=words,
        words_per_s=words / duration.where(duration > 0),
        odd_characters=text.map(_odd_characters).where(english, ""),
        splits_of_speaker=manifest.groupby("speaker")["split"].transform("nunique"),
        splits_of_text=manifest.groupby(text)["split"].transform("nunique").where(known),
        splits_of_audio=manifest.groupby("sha256")["split"].transform("nunique"),
    )


def _odd_characters(text: str) -> str:
    return "".join(sorted(set(KNOWN_CHARACTERS.sub("", text))))


def labels_frame(labels: pd.DataFrame, transcripts: pd.DataFrame) -> pd.DataFrame:
    """The labels with what their checks read."""
    wer = labels[["wer_weak", "wer_strong"]]
    compression = transcripts.groupby("id")["compression_ratio"].max()
    return labels.assign(
        worst_wer=wer.max(axis=1, skipna=False).fillna(-1.0),
        best_wer=wer.min(axis=1).where(told(labels)),
        classes_in_split=labels.groupby("split")["label"].transform("nunique"),
        worst_compression=labels["id"].map(compression).astype(float),
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
