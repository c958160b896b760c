"""Word differences between two texts."""

from hypothesis import given
from hypothesis import strategies as st

from whisper_router.disagreement import Disagreement, disagreements

TEXTS = st.lists(st.sampled_from(["yes", "no", "good morning", "colour"]), max_size=6).map(" ".join)


def test_words_are_compared_after_normalisation():
    made = disagreements(
        ["Good morning, colour!", "", "a b c", ""], ["good morning color", "two words", "a x y c", ""]
    )
    assert made == [
        Disagreement(3, 3, 0),
        Disagreement(0, 2, 2),
        Disagreement(3, 4, 2),
        Disagreement(0, 0, 0),
    ]


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_it_is_the_same_from_either_side_and_no_more_than_the_longer(pairs):
    one = disagreements([a for a, _ in pairs], [b for _, b in pairs])
    other = disagreements([b for _, b in pairs], [a for a, _ in pairs])
    assert [found.differences for found in one] == [found.differences for found in other]
    for found in one:
        longer, shorter = (pick(found.words_weak, found.words_strong) for pick in (max, min))
        assert longer - shorter <= found.differences <= longer
