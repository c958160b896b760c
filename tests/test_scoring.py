"""Word errors are counted on normalised text, as jiwer counts them."""

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.errors import UserError
from whisper_router.scoring import NORMALISER, WordErrors, has_words, normalise, word_errors

WORDS = st.lists(
    st.sampled_from(["the", "cat", "Sat,", "on", "mat.", "colour", "it's", "twenty", "one", "Mr.", "uh"]),
    max_size=8,
).map(" ".join)
REFERENCES = WORDS.filter(normalise)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("the cat sat", "the cat sat", (0, 0, 0, 3)),
        ("the cat sat", "the dog sat", (1, 0, 0, 3)),
        ("the cat sat on the mat", "the cat on mat", (0, 2, 0, 6)),
        ("the cat", "the big fat cat", (0, 0, 2, 2)),
        ("one of his red dogs", "two of red dogs barked", (1, 1, 1, 5)),
        ("one word", "altogether other and more of them", (2, 0, 4, 2)),
        ("The CAT, sat!", "the cat sat", (0, 0, 0, 3)),
        ("It's colour", "it is color", (0, 0, 0, 3)),
        ("twenty-one", "21", (0, 0, 0, 1)),
        ("hello", "uh, hello", (0, 0, 0, 1)),
    ],
)
def test_counts_of_hand_made_examples(reference, hypothesis, counts):
    assert word_errors([reference], [hypothesis]) == [WordErrors(*counts)]


def test_an_empty_hypothesis_is_all_deletions():
    for nothing in ("", "   ", "?!", "[noise]"):
        assert word_errors(["three words here"], [nothing]) == [WordErrors(0, 3, 0, 3)]


@pytest.mark.parametrize(
    ("text", "expected"), [("...", False), ("?! -", False), ("", False), ("wait...", True)]
)
def test_punctuation_alone_is_no_reference(text, expected):
    assert has_words(text) is expected


@pytest.mark.parametrize("reference", ["", "  ", "?!", "[applause]", "(laughs)", "uh"])
def test_a_reference_without_words_is_refused_and_named(reference):
    with pytest.raises(UserError, match="has no words after normalisation") as caught:
        word_errors(["fine", reference], ["fine", "fine"])
    assert repr(reference) in str(caught.value)


def test_as_many_hypotheses_as_references_are_asked_for():
    assert word_errors([], []) == []
    with pytest.raises(ValueError):  # noqa: PT011
        word_errors(["one", "two"], ["one"])


@settings(max_examples=60)
@given(pairs=st.lists(st.tuples(REFERENCES, WORDS), min_size=1, max_size=5))
def test_counts_agree_with_jiwer_on_normalised_text(pairs):
    references, hypotheses = ([normalise(text) for text in side] for side in zip(*pairs, strict=True))
    counts = word_errors(*zip(*pairs, strict=True))
    assert sum(count.errors for count in counts) / sum(
        count.reference_words for count in counts
    ) == pytest.approx(jiwer.wer(references, hypotheses))
    for count, reference, hypothesis in zip(counts, references, hypotheses, strict=True):
        assert count.wer == pytest.approx(jiwer.wer(reference, hypothesis))
        assert count.reference_words == len(reference.split())
        assert count.reference_words - count.deletions + count.insertions == len(hypothesis.split())


@settings(max_examples=40)
@given(reference=REFERENCES, pairs=st.lists(st.tuples(REFERENCES, WORDS), max_size=4), hypothesis=WORDS)
def test_a_count_does_not_depend_on_the_other_pairs(reference, hypothesis, pairs):
    alone = word_errors([reference], [hypothesis])
    many = [*pairs, (reference, hypothesis)]
    assert word_errors(*zip(*many, strict=True))[-1:] == alone


def test_the_name_of_the_normaliser_carries_its_version():
    import whisper

    assert NORMALISER.endswith(whisper.__version__)
