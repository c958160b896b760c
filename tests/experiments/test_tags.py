"""Tags of the speakers as columns: shared by speakers, constant within one, apart by corpus."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.experiments.tags import speaker_tags
from whisper_router.hashing import canonical_json

ROW = st.tuples(
    st.sampled_from("AB"),
    st.integers(0, 4),
    st.dictionaries(st.sampled_from(["accent", "age"]), st.sampled_from("xyz")),
)


def manifest(rows: list[tuple[str, int, dict[str, str]]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"u{i}" for i in range(len(rows))],
            "corpus": [corpus for corpus, _, _ in rows],
            "speaker": [f"{corpus}{speaker}" for corpus, speaker, _ in rows],
            "tags": [canonical_json(tags) for _, _, tags in rows],
        }
    )


@settings(max_examples=100)
@given(rows=st.lists(ROW, max_size=20))
def test_a_column_is_one_value_of_a_tag_of_one_corpus_that_speakers_share(rows):
    made = speaker_tags(manifest(rows))
    assert made.shape[0] == len(rows)
    wanted = {}
    for corpus in "AB":
        inside = [(i, speaker, tags) for i, (where, speaker, tags) in enumerate(rows) if where == corpus]
        for tag in ("accent", "age"):
            held = [(i, speaker, tags[tag]) for i, speaker, tags in inside if tag in tags]
            if len({(speaker, value) for _, speaker, value in held}) > len(
                {speaker for _, speaker, _ in held}
            ):
                continue  # a speaker has two values: it is not the speaker's
            for value in {value for _, _, value in held}:
                if len({speaker for _, speaker, found in held if found == value}) > 1:
                    wanted[f"{corpus}: {tag}={value}"] = [i for i, _, found in held if found == value]
    assert set(made) == set(wanted)
    for name, held in wanted.items():
        assert np.flatnonzero(made[name]).tolist() == held


def test_a_corpus_without_tags_has_no_column():
    made = speaker_tags(manifest([("A", 0, {}), ("A", 1, {})]).assign(tags=None))
    assert made.shape == (2, 0)
