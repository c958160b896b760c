"""Word errors are counted on normalised text, as jiwer counts them."""

import unicodedata
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.normalizers import EnglishTextNormalizer

from whisper_router.errors import UserError
from whisper_router.scoring import NORMALISER, WordErrors, fold, has_words, normalise, word_errors

WORDS = st.lists(
    st.sampled_from(["the", "cat", "Sat,", "on", "mat.", "colour", "it's", "twenty", "one", "Mr.", "uh"]),
    max_size=8,
).map(" ".join)
REFERENCES = WORDS.filter(normalise)
SENTENCES = Path(__file__).parents[1] / "data/corpora/demo/sentences.txt"
APOSTROPHES = (
    "\u2019\u2018\u201b\u00b4\u0060\u02bb\u02bc\u02bd\u02b9\u02c8\u2032\u2035\u055a\ua78c\uff07\uff40\x91\x92"
)
DOUBLE_QUOTES = "\u201c\u201d\u201e\u00ab\u00bb\uff02\x93\x94"
HYPHENS = "\u2010\u2011\u2013\x96"
UNSEEN = (
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069"
    "\ufe0f\ufeff"
)
SPACES = "\u00a0\u202f\u2009\u3000"
WIDE = {ord(c): ord(c) + 0xFEE0 for c in map(chr, range(0x21, 0x7F)) if c.isalnum() or c in "?!,."}


@st.composite
def typographies(draw: st.DrawFn) -> tuple[str, str]:
    """A text as a plain keyboard types it, and as another program wrote it."""
    words = [
        "don't",
        "It's",
        "Mary's",
        "we'll",
        "they'd been",
        "can't,",
        '"yes"',
        "café",
        "twenty-one",
        "wait...",
    ]
    plain = draw(st.lists(st.sampled_from(words), min_size=1, max_size=6).map(" ".join))
    kinds = {"'": APOSTROPHES, '"': DOUBLE_QUOTES, "-": HYPHENS, " ": SPACES}
    written = plain.replace("...", draw(st.sampled_from(["...", "…"])))
    if draw(st.booleans()):
        written = unicodedata.normalize("NFD", written)
    if draw(st.booleans()):
        written = written.translate(WIDE)
    pieces = []
    for character in written:
        pieces.append(draw(st.sampled_from(character + kinds.get(character, ""))))
        pieces.append(draw(st.sampled_from(["", "", "", *UNSEEN])))
    return plain, "".join(pieces)


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


@pytest.mark.parametrize("apostrophe", APOSTROPHES, ids=ascii)
def test_any_apostrophe_makes_the_same_words(apostrophe):
    said = "I don't know, it's Mary's"
    written = said.replace("'", apostrophe)
    assert word_errors([said, written], [written, said]) == [WordErrors(0, 0, 0, 8)] * 2


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("the co\u00adoperation", "the cooperation"),
        ("\ufeffhel\u200blo \u202aworld\u202c", "hello world"),
        ("I DON\uff07T know 12".translate(WIDE), "I don't know 12"),
        ("I can\u2019t \ufb01nd it", "I can't find it"),
        ("it\u200d\u2019s", "it's"),
        ("don\u2019\ufe0ft go", "don't go"),
        ("he\u00a0said \u201cyes\u201d and \u2018no\u2019", "he said \"yes\" and 'no'"),
        ("the letter \u2018t\u2019 is", "the letter t is"),
        ("the letter 't' is", "the letter t is"),
        ("wait\u2026 what", "wait... what"),
        ("twenty\u2011one", "twenty-one"),
        ("a \x96 b \x93c\x94", 'a - b "c"'),
        ("the cafe\u0301's open", "the café's open"),
    ],
)
def test_two_typographies_of_a_text_are_one_text(written, plain):
    assert normalise(written) == normalise(plain)
    assert word_errors([plain], [written])[0].errors == 0


@settings(max_examples=200)
@given(typographies())
def test_any_typography_makes_the_same_words(pair):
    plain, written = pair
    assert normalise(written) == normalise(plain)
    assert normalise(fold(written)) == normalise(plain)


@settings(max_examples=300)
@given(
    st.text(st.one_of(st.characters(), st.sampled_from("'stm\"" + APOSTROPHES + UNSEEN + "½ŉ\u1ffd\u0301")))
)
def test_folding_is_idempotent(text):
    assert fold(fold(text)) == fold(text)


def test_plain_texts_are_as_whisper_s_normaliser_makes_them():
    whisper_s = EnglishTextNormalizer()
    sentences = [
        *SENTENCES.read_text().splitlines(),
        "2½ cups, 3,000 & £5.50 or 10%",
        "naïve (laughs) [noise]",
        "",
    ]
    assert len(sentences) > 400
    sentences += ["2½ cups, 3,000 & £5.50 or 10%", "naïve (laughs) [noise]", ""]
    assert [normalise(text) for text in sentences] == [whisper_s(text).strip() for text in sentences]


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
