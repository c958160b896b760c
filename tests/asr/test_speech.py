"""Windows without speech: by duration, level and voice before decoding, by Whisper's rule after it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from whisper_router.asr import speech
from whisper_router.asr.decoding import Hypothesis, suppressed_tokens
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.speech import no_speech, voice_s
from whisper_router.audio import SAMPLE_RATE

DEFAULT = DecodeOptions()


def noise(kind: str, seconds: float, db: float = -30.0) -> np.ndarray:
    """Sound that nobody speaks in."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    random = np.random.default_rng(1)
    made = {
        "white": random.normal(size=times.size),
        "brown": np.cumsum(random.normal(size=times.size)),
        "tone": np.sin(2 * np.pi * 440 * times),
        "hum": sum(np.sin(2 * np.pi * 50 * k * times) / k for k in range(1, 9))
        + 0.05 * random.normal(size=times.size),
        "beeps": np.sin(2 * np.pi * 1000 * times) * (times % 1 < 0.2),
    }[kind]
    made = made - made.mean()
    return (made / np.sqrt((made**2).mean()) * 10 ** (db / 20)).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.099])
def test_less_than_a_tenth_of_a_second_is_no_speech(seconds):
    assert no_speech(noise("white", seconds), DEFAULT) == "duration"


@pytest.mark.parametrize("level", [0.0, 1 / 32768, 1e-4])
def test_digital_silence_is_no_speech(level):
    assert no_speech(level * np.sign(noise("white", 5)), DEFAULT) == "level"


@pytest.mark.parametrize("kind", ["white", "brown", "tone", "hum", "beeps"])
@pytest.mark.parametrize("db", [-20.0, -55.0])
def test_noise_and_tones_are_no_speech(kind, db):
    assert no_speech(noise(kind, 5, db), DEFAULT) == "voice"


def test_without_a_voice_threshold_all_sound_is_decoded():
    assert no_speech(noise("tone", 5), DecodeOptions(voice_threshold=None)) is None


def test_the_detector_leaves_the_threads_of_torch_alone():
    code = (
        "import torch; torch.set_num_threads(2); import numpy as np; "
        "from whisper_router.asr.speech import voice_s; voice_s(np.zeros(16000, np.float32), 0.3); "
        "print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_voice_is_measured_in_seconds():
    assert voice_s(noise("white", 3), 1e-9) == pytest.approx(3, abs=speech.FRAME_S)


@pytest.mark.parametrize("vocabulary", ["english", "multilingual"])
def test_no_special_token_is_ever_emitted(make_arm, clips, vocabulary):
    arm = make_arm(vocabulary)
    tokenizer = arm.decoder.tokenizer
    embedding = arm.decoder.model.decoder.token_embedding.weight
    with torch.inference_mode():
        strongest = 4 * embedding.norm(dim=1).max()
        for token in (tokenizer.eot + 2, tokenizer.eot + 60, tokenizer.timestamp_begin + 5):
            embedding[token] *= strongest / embedding[token].norm()
        made = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
    assert "<|" not in made[0].text
    assert {tokenizer.eot + 60, tokenizer.timestamp_begin + 5} <= set(suppressed_tokens(tokenizer))
    assert tokenizer.eot not in suppressed_tokens(tokenizer)


def test_whispers_rule_drops_an_unlikely_text_and_tries_no_more(make_arm, plain, clips):
    options = plain.model_copy(
        update={"logprob_threshold": -1e-6, "no_speech_threshold": 0.0, "temperatures": (0.0, 0.4, 1.0)}
    )
    arm = make_arm("english", options)
    (made,) = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
    assert (made.text, made.no_speech, made.tokens, len(made.attempts)) == ("", "decoder", 0, 1)
    assert made.no_speech_prob > 0 > made.avg_logprob


@pytest.mark.parametrize(
    "change", [{"no_speech_threshold": None}, {"no_speech_threshold": 1.0}, {"logprob_threshold": -100.0}]
)
def test_a_likely_text_or_a_heard_voice_is_kept(make_arm, plain, clips, change):
    options = {"logprob_threshold": -1e-6, "no_speech_threshold": 0.0, **change}
    arm = make_arm("english", plain.model_copy(update=options))
    (made,) = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
    assert made.no_speech is None
    assert made.text


def test_an_arm_decodes_only_what_holds_speech(make_arm, plain, clips, calls):
    arm = make_arm("english")
    silence = np.zeros_like(clips[0])
    made = arm.transcribe(arm.encode_audio([clips[0], silence]), [clips[0], silence])
    (alone,) = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
    assert made[0].text == alone.text
    assert made[1] == Hypothesis.silent("level")
    assert calls.decoded[arm.sha256] == 2
