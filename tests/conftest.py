"""Tiny random Whispers, speech-like sound, and a small packaged router."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import whisper
from hypothesis import settings
from whisper.model import ModelDimensions, Whisper

from whisper_router import router
from whisper_router.asr import reference
from whisper_router.asr.arm import Arm
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE
from whisper_router.decider.logistic import LogisticDecider
from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.registry import decider_sha256, save_decider
from whisper_router.decider.training import Examples
from whisper_router.features.kinds import (
    AnyExtractor,
    BlocksExtractor,
    CombinedExtractor,
    LogMelExtractor,
    encoder_of,
)
from whisper_router.features.options import ConfidenceExtractor, SignalExtractor
from whisper_router.features.reading import Heard, identity_of, read_feature, specs_of
from whisper_router.features.store import FeatureReader, write_features
from whisper_router.files import write_json, write_text
from whisper_router.hashing import digest
from whisper_router.policy.calibrate import Bound, Calibration, Policy, share_threshold
from whisper_router.policy.options import StrongShareOptions
from whisper_router.router import RouterDescription
from whisper_router.scoring import NORMALISER

settings.register_profile("any machine", deadline=None, database=None)
settings.load_profile("any machine")

MULTILINGUAL, ENGLISH = 51865, 51864

# Short contexts, few tokens, no fallback: quick, and one encoding an utterance.
PLAIN = DecodeOptions(
    floor_frames=50,
    margin_frames=20,
    step_frames=10,
    max_tokens_per_s=2,
    temperatures=(0.0,),
    compression_ratio_threshold=100,
    logprob_threshold=-100,
    no_speech_threshold=None,
    voice_threshold=None,  # it hears no speech in what make_speech makes
)

CONFIDENCE, SIGNAL = ConfidenceExtractor(kind="confidence"), SignalExtractor(kind="signal")
MEL, WEAK = LogMelExtractor(kind="logmel"), BlocksExtractor(kind="encoder", pool=4)
BLOCK = BlocksExtractor(kind="encoder", arm="strong", pool=4, blocks=1)
EXTRACTORS: dict[str, AnyExtractor] = {
    "encoder": WEAK,
    "strong_encoder": BlocksExtractor(kind="encoder", arm="strong", pool=4),
    "first_block": BLOCK,
    "confidence": CONFIDENCE,
    "signal": SIGNAL,
    "logmel": MEL,
    "combined": CombinedExtractor(kind="combined", parts=(CONFIDENCE, SIGNAL, WEAK)),
    "combined_block": CombinedExtractor(kind="combined", parts=(MEL, SIGNAL, BLOCK)),
}


def pytest_configure() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_whisper(path: Path, vocabulary: int, seed: int, end_gain: float, no_speech_gain: float) -> Path:
    """A Whisper of 64 by 2 layers that listens to the sound and ends some texts early."""
    dims = ModelDimensions(80, 1500, 64, 2, 2, vocabulary, 448, 64, 2, 2)
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in Whisper(dims).state_dict().items():
        if name == "encoder.positional_embedding":
            state[name] = tensor
        elif tensor.ndim == 1:
            state[name] = torch.full_like(tensor, float(name.endswith("weight")))
        else:
            state[name] = torch.randn(tensor.shape, generator=random) / tensor[0].numel() ** 0.5
    state["decoder.positional_embedding"] *= 2
    for block in ("decoder.blocks.0", "decoder.blocks.1"):
        for part, gain in (("query", 3), ("key", 3), ("out", 10)):
            state[f"{block}.cross_attn.{part}.weight"] *= gain
    embedding = state["decoder.token_embedding.weight"]
    end = 50257 if vocabulary == MULTILINGUAL else 50256
    embedding *= 4
    embedding[end] *= end_gain
    embedding[end + 105] *= no_speech_gain
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": asdict(dims), "model_state_dict": state}, path)
    return path


def make_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Syllables of a gliding voice in a little noise, on the grid of 16-bit samples."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = random.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.5, 2) * times))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * random.uniform(2, 5) * times + random.uniform(0, 6)), 0, 1)
    samples = 0.1 * (voice * syllables + 0.02 * random.standard_normal(times.size))
    return (np.round(samples * 32768).astype(np.int16) / 32768).astype(np.float32)


def make_wav(audio: np.ndarray) -> bytes:
    """A WAV file of 16 bits that holds exactly these samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, (audio * 32768).astype(np.int16), SAMPLE_RATE, format="WAV")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def speech() -> Callable[..., np.ndarray]:
    return make_speech


@pytest.fixture(scope="session")
def wav() -> Callable[[np.ndarray], bytes]:
    return make_wav


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    return [make_speech(0.6 + 0.3 * seed, seed) for seed in range(6)]


@pytest.fixture(scope="session")
def plain() -> DecodeOptions:
    return PLAIN


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two Whispers by the name of their vocabulary."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        "english": random_whisper(folder / "english.pt", ENGLISH, 3, 4.0, -2.5),
        "multilingual": random_whisper(folder / "multilingual.pt", MULTILINGUAL, 1, 3.0, -10.0),
    }


@pytest.fixture(scope="session")
def make_arm(checkpoints: dict[str, Path]) -> Callable[..., Arm]:
    def make(vocabulary: str = "english", options: DecodeOptions = PLAIN) -> Arm:
        return load_arm(find_checkpoint(str(checkpoints[vocabulary])), options)

    return make


@pytest.fixture(scope="session")
def looping_arm(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Arm]:
    """An arm whose texts repeat themselves: its decoder does not know where in a text it is."""
    content = torch.load(checkpoints["english"], weights_only=True)
    content["model_state_dict"]["decoder.positional_embedding"] *= 0
    path = tmp_path_factory.mktemp("looping") / "looping.pt"
    torch.save(content, path)

    def make(options: DecodeOptions = PLAIN) -> Arm:
        return load_arm(find_checkpoint(str(path)), options)

    return make


def make_examples(folder: Path, features: Sequence[np.ndarray], labels: np.ndarray) -> Examples:
    """Stored features with their labels; utterances are called ``u0``, ``u1``, ..."""
    ids = [f"u{i}" for i in range(len(features))]
    write_features(folder, zip(ids, features, strict=True), {"made": "by a test"})
    return Examples(FeatureReader(folder), ids, np.asarray(labels))


def _reference(path: Path, options: DecodeOptions) -> ArmReference:
    found = find_checkpoint(str(path))
    return ArmReference(model=str(path), sha256=found.sha256, size=found.size, decode=options)


@pytest.fixture(scope="session")
def package_router(checkpoints: dict[str, Path], clips: list[np.ndarray]) -> Callable[..., Path]:
    """Writes a router's folder, English-only to multilingual; its policy sends half of the clips to each."""

    def package(
        folder: Path,
        kind: str,
        weak: DecodeOptions = PLAIN,
        strong: DecodeOptions = PLAIN,
        weak_weights: Path = checkpoints["english"],
        strong_weights: Path = checkpoints["multilingual"],
        batch_size: int = 4,
        c: float = 1.0,
        extractor: AnyExtractor | None = None,
    ) -> Path:
        arms = {"weak": _reference(weak_weights, weak), "strong": _reference(strong_weights, strong)}
        extractor = extractor or EXTRACTORS[kind]
        weights, decode = (weak_weights, weak) if extractor.arm == "weak" else (strong_weights, strong)
        hearing = decode.model_copy(update={"no_speech_threshold": None})  # or it has no words for the clips
        arm = _reference(weights, hearing).load()
        features = []
        for clip in clips:
            encoding = arm.encode_audio([clip])
            made = arm.decode(encoding, [clip])[0] if extractor.reads == "weak" else None
            states = encoding.states if encoder_of(extractor) else ()
            features.append(read_feature(extractor, Heard(clip, states, 0, made, encoding.mel[0])))
        identity = identity_of(extractor, specs_of(arms))
        options = LogisticOptions(kind="logistic", extractor=kind, c=(c,))
        toy = make_examples(folder.with_name(f"{folder.name}-features"), features, np.arange(len(clips)) % 2)
        decider, curve = LogisticDecider.fit(options, toy, toy, "toy")
        save_decider(folder / "decider", decider, options, identity)
        write_json(folder / "decider" / "curve.json", curve)
        half = StrongShareOptions(kind="strong_share", decider=kind, share=0.5)
        threshold = share_threshold(decider.score(features), half.share)
        policy = Policy(
            name="half",
            decider=kind,
            kind=half.kind,
            target=half.share,
            threshold=threshold,
            calibration=Calibration(
                utterances=len(clips),
                speakers=1,
                strong_share=0.5,
                wer_weak=0.3,
                wer_strong=0.1,
                wer_routed=0.2,
            ),
            bound=Bound(
                weak_arm=digest(arms["weak"].spec()),
                strong_arm=digest(arms["strong"].spec()),
                extractor=digest(identity),
                decider=decider_sha256(folder / "decider"),
                normaliser=NORMALISER,
                calibration_set=digest([]),
            ),
        )
        others = {"half": policy, "never": policy.model_copy(update={"name": "never", "threshold": 1.1})}
        for name, one in others.items():
            write_text(folder / "policies" / f"{name}.json", one.model_dump_json(indent=2) + "\n")
        description = RouterDescription(**arms, extractor=extractor, batch_size=batch_size, policy="half")
        write_json(folder / "router.json", description.model_dump(mode="json"))
        write_json(folder / "provenance.json", {"policy": "half", "decider": kind, "extractor": kind})
        return folder

    return package


@pytest.fixture(scope="session")
def routers(package_router: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A packaged router for each kind of extractor."""
    folder = tmp_path_factory.mktemp("routers")
    return {kind: package_router(folder / kind, kind) for kind in ("encoder", "confidence", "strong_encoder")}


@dataclass
class Calls:
    """Utterances that went through an arm, by the hash of its weights; spectrograms; arms loaded."""

    encoded: Counter[str] = field(default_factory=Counter)
    decoded: Counter[str] = field(default_factory=Counter)
    loaded: list[str] = field(default_factory=list)
    mels: int = 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    made = Calls()
    encode, decode, mel, load = Arm.encode, Arm.decode, whisper.log_mel_spectrogram, reference.load_arm

    def counted_encode(arm: Arm, spectrogram: torch.Tensor) -> object:
        made.encoded[arm.sha256] += len(spectrogram)
        return encode(arm, spectrogram)

    def counted_decode(arm: Arm, encoding: object, audios: list) -> object:
        made.decoded[arm.sha256] += len(audios)
        return decode(arm, encoding, audios)

    def counted_mel(audio: np.ndarray, *arguments: object, **options: object) -> torch.Tensor:
        made.mels += 1
        return mel(audio, *arguments, **options)

    def counted_load(checkpoint: object, options: DecodeOptions) -> Arm:
        made.loaded.append(checkpoint.sha256)
        return load(checkpoint, options)

    monkeypatch.setattr(Arm, "encode", counted_encode)
    monkeypatch.setattr(Arm, "decode", counted_decode)
    monkeypatch.setattr(whisper, "log_mel_spectrogram", counted_mel)
    for module in (reference, router):
        monkeypatch.setattr(module, "load_arm", counted_load)
    return made


@pytest.fixture(scope="session")
def examples() -> Callable[..., Examples]:
    return make_examples


@pytest.fixture(scope="session")
def reference_of() -> Callable[[Path, DecodeOptions], ArmReference]:
    """The reference of a checkpoint."""
    return _reference
