"""Real weights on the demo's speech: tiny.en and base."""

from pathlib import Path

import pytest
import whisper
from whisper import DecodingOptions
from whisper.tokenizer import get_tokenizer

from whisper_router.asr.arm import log_mel
from whisper_router.asr.decoding import suppressed_tokens
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import ENCODER_FRAMES, DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.corpus.demo import make_demo
from whisper_router.decode import load_audio
from whisper_router.router import Router
from whisper_router.scoring import word_errors

pytestmark = pytest.mark.real

CLEAN = (
    "The fog lifted around ten, and we could see the cathedral at Trondheim.",
    "It's cheaper to fly to Lisbon than to park at the airport.",
    "A puffin landed on the chart table and refused to leave.",
    "The surgeon found a small aneurysm behind his left knee.",
    "Her insulin had been left on a radiator all weekend.",
)
NOISY = "Harvest the sorrel while the leaves are still smaller than your palm."


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> dict[str, Path]:
    """Audio files by their sentence."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "sentences.txt").write_text("\n".join([*CLEAN, NOISY]) + "\n")
    rows = {row["text"]: row for row in make_demo(folder / "sentences.txt", folder, 6, seed=7)}
    conditions = {text: row["tags"]["condition"] for text, row in rows.items()}
    assert conditions == {**dict.fromkeys(CLEAN, "clean"), NOISY: "pink"}
    return {text: Path(row["audio"]) for text, row in rows.items()}


@pytest.fixture(scope="module")
def arms():
    return {name: load_arm(find_checkpoint(name), DecodeOptions()) for name in ("tiny.en", "base")}


@pytest.fixture(scope="module")
def alone(arms, spoken) -> dict[str, dict[str, str]]:
    """What each arm makes of each sentence by itself, at the default context."""
    audios = {text: load_audio(path) for text, path in spoken.items()}
    return {
        name: {
            text: made.text
            for text, audio in audios.items()
            for made in arm.decode(arm.encode_audio([audio]), [audio])
        }
        for name, arm in arms.items()
    }


@pytest.mark.parametrize("engine", ["torch", "ctranslate2"])
@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_full_context_text_equals_openai_whisper(arms, spoken, name, engine):
    plain = DecodeOptions(
        engine=engine,
        floor_frames=ENCODER_FRAMES,
        temperatures=(0.0,),
        compression_ratio_threshold=100,
        logprob_threshold=-100,
    )
    model = arms[name].decoder.model
    full = load_arm(find_checkpoint(name), plain)
    audios = [load_audio(path) for path in spoken.values()]
    mel = log_mel(audios, ENCODER_FRAMES, full.n_mels)
    made = full.decode(full.encode(mel), audios)
    suppressed = suppressed_tokens(get_tokenizer(model.is_multilingual, num_languages=model.num_languages))
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False, suppress_tokens=suppressed)
    for hypothesis, spectrogram in zip(made, mel, strict=True):
        expected = whisper.decode(model, spectrogram, options)
        assert hypothesis.text == expected.text
        assert hypothesis.tokens == len(expected.tokens)
        assert hypothesis.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
        assert hypothesis.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-3)
        assert [attempt.context for attempt in hypothesis.attempts] == [ENCODER_FRAMES]


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_int8_hears_what_torch_hears(spoken, alone, name):
    options = DecodeOptions(engine="ctranslate2", dtype="int8", encoder_dtype="bfloat16")
    fast = load_arm(find_checkpoint(name), options)
    audios = [load_audio(spoken[text]) for text in CLEAN]
    made = [fast.decode(fast.encode_audio([audio]), [audio])[0].text for audio in audios]
    counts = word_errors([alone[name][text] for text in CLEAN], made)
    assert sum(count.errors for count in counts) / sum(count.reference_words for count in counts) < 0.1


def test_short_context_understands_clean_speech(arms, spoken, alone):
    for text in CLEAN:
        assert arms["base"].options.context(load_audio(spoken[text]).size) < ENCODER_FRAMES / 2
    counts = word_errors(CLEAN, [alone["base"][text] for text in CLEAN])
    assert sum(count.errors for count in counts) / sum(count.reference_words for count in counts) < 0.25


@pytest.mark.parametrize("kind", ["confidence", "encoder"])
def test_router_gives_the_text_of_the_arm_alone(package_router, spoken, alone, tmp_path, kind):
    options = DecodeOptions()
    router = Router.load(
        package_router(
            tmp_path / "router",
            kind,
            weak=options,
            strong=options,
            weak_weights=find_checkpoint("tiny.en").path,
            strong_weights=find_checkpoint("base").path,
        )
    )
    texts = [CLEAN[0], NOISY]
    scores = [row.score for row in router.decide([spoken[text] for text in texts])]
    assert scores[0] != scores[1]
    made = router.transcribe([spoken[text] for text in texts], threshold=sum(scores) / 2)
    assert {row.arm for row in made} == {"weak", "strong"}
    for text, row in zip(texts, made, strict=True):
        assert Path(row.model).stem == ("tiny.en" if row.arm == "weak" else "base")
        assert row.text == alone[Path(row.model).stem][text]
    assert alone["tiny.en"] != alone["base"]


def test_first_blocks_are_gone_on_from_and_change_no_text(package_router, arms, spoken, alone, tmp_path):
    options = DecodeOptions()
    router = Router.load(
        package_router(
            tmp_path / "router",
            "first_block",
            weak=options,
            strong=options,
            weak_weights=find_checkpoint("tiny.en").path,
            strong_weights=find_checkpoint("base").path,
        )
    )
    blocks = router.strong.encoder._encoder.blocks
    run = [0] * len(blocks)

    def count(at: int):
        def hook(_module: object, given: tuple, _result: object) -> None:
            run[at] += len(given[0])

        return hook

    for i, block in enumerate(blocks):
        block.register_forward_hook(count(i))
    n = len(spoken)
    for threshold, arm, name, rest in ((0.0, "strong", "base", n), (1.1, "weak", "tiny.en", 0)):
        run[:] = [0] * len(blocks)
        made = router.transcribe(list(spoken.values()), threshold)
        assert {row.arm for row in made} == {arm}
        assert {text: row.text for text, row in zip(spoken, made, strict=True)} == alone[name]
        assert run == [n] + [rest] * (len(blocks) - 1)
