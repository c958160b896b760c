"""What utterances of alike speakers are worth."""

import numpy as np
import pytest

from whisper_router.clusters import design_effect


def test_independent_utterances_count_whole():
    random = np.random.default_rng(0)
    effects = [design_effect(random.normal(size=400), np.arange(400) % 40) for _ in range(50)]
    assert np.mean(effects) == pytest.approx(1, abs=0.25)


def test_speakers_who_repeat_themselves_count_once():
    assert design_effect(np.repeat(np.arange(40.0), 10), np.repeat(np.arange(40), 10)) == pytest.approx(10)


def test_half_of_the_variance_between_speakers():
    random = np.random.default_rng(1)
    speakers = np.repeat(np.arange(200), 5)
    values = random.normal(size=200)[speakers] + random.normal(size=1000)
    assert design_effect(values, speakers) == pytest.approx(1 + 4 * 0.5, abs=0.4)


@pytest.mark.parametrize("speakers", [np.zeros(5), np.arange(5)])
def test_where_speakers_cannot_be_told_from_utterances(speakers):
    assert design_effect(np.arange(5.0), speakers) == 1
