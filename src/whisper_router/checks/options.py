"""What params.yaml says about expectations: whether one that does not hold warns or fails its stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["warn", "fail"]


class Severities(BaseModel):
    """The severity of each expectation, by its name in ``suites.py``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # manifest and labels
    ids_unique: Severity = "fail"
    # manifest
    audio_readable: Severity = "fail"
    duration_bounds: Severity = "fail"
    long_audio_in_test: Severity = "fail"
    text_not_empty: Severity = "fail"
    speakers_in_one_split: Severity = "fail"
    texts_in_one_split: Severity = "fail"
    audio_in_one_split: Severity = "fail"
    all_splits_present: Severity = "fail"
    audio_once: Severity = "warn"
    audible: Severity = "warn"
    not_clipped: Severity = "warn"
    known_characters: Severity = "warn"
    word_rate: Severity = "warn"
    median_word_rate: Severity = "warn"
    median_duration: Severity = "warn"
    # labels
    wer_bounds: Severity = "fail"
    both_classes_present: Severity = "fail"
    one_arm_understands: Severity = "warn"
    hypotheses_do_not_loop: Severity = "warn"
    # features
    ids_match_labels: Severity = "fail"
    finite: Severity = "fail"
    shape: Severity = "fail"
