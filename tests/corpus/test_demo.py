"""The demo corpus: reproducible, disjoint splits, noise at the level asked for."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_router.corpus.demo import (
    CONDITIONS,
    SPLIT_SIZES,
    babble_noise,
    make_demo,
    mix,
    pink_noise,
    reverberate,
    rms,
    telephone,
)

SENTENCES = Path(__file__).parents[2] / "data/corpora/demo/sentences.txt"
RATE = 16_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return make_demo(SENTENCES, tmp_path_factory.mktemp("demo"), 80, seed=3)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def speech(rng: np.random.Generator) -> np.ndarray:
    return np.sin(np.arange(2 * RATE) / 7.0) * rng.uniform(0.1, 1.0, 2 * RATE)


def files(rows: list[dict]) -> dict[str, bytes]:
    return {row["id"]: Path(row["audio"]).read_bytes() for row in rows}


def without_audio(rows: list[dict]) -> dict[str, dict]:
    return {row["id"]: {key: value for key, value in row.items() if key != "audio"} for row in rows}


def test_same_seed_makes_the_same_bytes_whatever_the_number_of_utterances(corpus, tmp_path):
    again = make_demo(SENTENCES, tmp_path, 12, seed=3)
    assert [row["id"] for row in again] == [row["id"] for row in corpus[:12]]
    assert files(again) == files(corpus[:12])
    assert without_audio(again) == without_audio(corpus[:12])


def test_a_row_does_not_depend_on_the_other_sentences(corpus, tmp_path):
    alone = tmp_path / "one.txt"
    alone.write_text(corpus[5]["text"] + "\n", encoding="utf-8")
    assert files(make_demo(alone, tmp_path, 10, seed=3)) == files(corpus[5:6])


def test_other_seed_makes_another_corpus(corpus, tmp_path):
    sentences = tmp_path / "some.txt"
    sentences.write_text("".join(row["text"] + "\n" for row in corpus[:5]), encoding="utf-8")
    other = files(make_demo(sentences, tmp_path, 5, seed=4))
    assert other.keys() == files(corpus[:5]).keys()
    assert all(other[key] != content for key, content in files(corpus[:5]).items())


def test_every_split_has_its_own_texts_and_speakers(corpus):
    by_split = defaultdict(list)
    for row in corpus:
        by_split[row["split"]].append(row)
    assert set(by_split) == set(SPLIT_SIZES)
    for key in ("text", "speaker"):
        values = [{row[key] for row in rows} for rows in by_split.values()]
        assert len(set.union(*values)) == sum(map(len, values))
    assert len({row["text"] for row in corpus}) == len(corpus)


def test_every_row_is_complete(corpus):
    assert {row["tags"]["condition"] for row in corpus} == set(CONDITIONS)
    for row in corpus:
        assert set(row) == {"id", "audio", "text", "speaker", "split", "language", "tags"}
        assert row["language"] == "en"
        bounds = CONDITIONS[row["tags"]["condition"]][1]
        assert set(row["tags"]) == {"condition", "speed"} | ({"snr_db"} if bounds else set())
        assert all(isinstance(value, str) for value in row["tags"].values())
        assert 0.5 <= float(row["tags"]["speed"]) <= 2.5
        if bounds:
            assert bounds[0] <= float(row["tags"]["snr_db"]) <= bounds[1]


def test_files_are_16_khz_mono_pcm(corpus):
    for row in corpus:
        info = soundfile.info(row["audio"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (RATE, 1, "FLAC", "PCM_16")
        assert 0.8 <= info.duration <= 12.0
    assert not [path for path in Path(corpus[0]["audio"]).parent.iterdir() if path.suffix != ".flac"]


def test_sentences_differ_by_more_than_case_and_punctuation():
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    bare = {"".join(letter for letter in line.lower() if letter.isalnum() or letter == " ") for line in lines}
    assert len(bare) == len(lines) == 440


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 3.5, 20.0])
@pytest.mark.parametrize("kind", ["pink", "white", "babble"])
def test_mix_reaches_the_ratio_asked_for(speech, rng, snr_db, kind):
    noise = {
        "pink": lambda: pink_noise(speech.size, rng),
        "white": lambda: rng.standard_normal(speech.size),
        "babble": lambda: babble_noise(speech.size, rng.standard_normal(RATE), rng),
    }[kind]()
    added = mix(speech, noise, snr_db) - speech
    assert 20.0 * np.log10(rms(speech) / rms(added)) == pytest.approx(snr_db, abs=0.5)


def test_pink_noise_has_equal_power_in_every_octave(rng):
    power = np.abs(np.fft.rfft(pink_noise(1 << 16, rng))) ** 2
    octaves = [power[1 << k : 2 << k].sum() for k in range(8, 14)]
    assert max(octaves) < 1.5 * min(octaves)


def test_reverberation_keeps_the_ratio_of_direct_sound_to_tail(rng):
    impulse = np.zeros(RATE)
    impulse[0] = 1.0
    response = reverberate(impulse, rt60_s=0.6, direct_db=-3.0, rng=rng)
    tail = np.sum(response[1:] ** 2)
    assert 10.0 * np.log10(response[0] ** 2 / tail) == pytest.approx(-3.0, abs=0.1)
    early, late = (np.sum(response[round(at * RATE) :][:800] ** 2) for at in (0.05, 0.35))
    assert 10.0 * np.log10(early / late) == pytest.approx(30.0, abs=3.0)


def test_telephone_passes_its_band_only():
    times = np.arange(RATE) / RATE
    levels = {
        hertz: rms(
            telephone(np.sin(2 * np.pi * 1000 * times) + np.sin(2 * np.pi * hertz * times))
            - telephone(np.sin(2 * np.pi * 1000 * times))
        )
        for hertz in (60, 2000, 7000)
    }
    assert levels[2000] > 0.5
    assert levels[60] < 0.1
    assert levels[7000] < 0.1
