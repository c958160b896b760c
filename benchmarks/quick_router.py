"""A router put together in a minute on labels that are made here, for benchmarks that need one."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sample import Clip

from whisper_router.asr.arm import Arm
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE
from whisper_router.decider.logistic import LogisticDecider
from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.registry import decider_sha256, save_decider
from whisper_router.decider.training import Examples
from whisper_router.features.extractors import extractor_identity, pool_states
from whisper_router.features.hypothesis import confidence
from whisper_router.features.kinds import BlocksExtractor
from whisper_router.features.options import ConfidenceExtractor, Extractor
from whisper_router.features.store import FeatureReader, write_features
from whisper_router.files import write_json, write_text
from whisper_router.hashing import digest
from whisper_router.policy.calibrate import Bound, Calibration, Policy, share_threshold
from whisper_router.policy.options import StrongShareOptions
from whisper_router.router import RouterDescription
from whisper_router.scoring import NORMALISER, word_errors

BATCH_SIZE = 16
EXTRACTORS: dict[str, Extractor] = {
    "cascade": ConfidenceExtractor(kind="confidence"),
    "encoder": BlocksExtractor(kind="encoder", arm="weak", pool=4),
}


def run_arm(arm: Arm, clips: Sequence[Clip], extractor: Extractor | None) -> tuple[list[Hypothesis], list]:
    """Hypotheses, and features of the encoder if an extractor reads it."""
    audios = [clip.audio for clip in clips]
    made: dict[int, Hypothesis] = {}
    features: dict[int, np.ndarray] = {}
    for rows in arm.batches(audios, BATCH_SIZE):
        chosen = [audios[i] for i in rows]
        encoding = arm.encode_audio(chosen)
        made |= dict(zip(rows, arm.decode(encoding, chosen), strict=True))
        if extractor is not None and extractor.kind == "encoder":
            states = (pool_states(encoding.states, k, a.size, extractor) for k, a in enumerate(chosen))
            features |= dict(zip(rows, states, strict=True))
    return [made[i] for i in range(len(clips))], [features[i] for i in sorted(features)]


def package(folder: Path, clips: Sequence[Clip], kind: str, models: tuple[str, str]) -> Path:
    """Label clips with both models, train a logistic decider, send half of the clips to the strong arm."""
    references, hypotheses, errors = {}, {}, {}
    features: list[np.ndarray] = []
    extractor = EXTRACTORS[kind]
    for arm, model in zip(("weak", "strong"), models, strict=True):
        found = find_checkpoint(model)
        options = DecodeOptions()
        references[arm] = ArmReference(model=model, sha256=found.sha256, size=found.size, decode=options)
        loaded = load_arm(found, options)
        hypotheses[arm], states = run_arm(loaded, clips, extractor if arm == "weak" else None)
        features = features or states
        counts = word_errors([clip.text for clip in clips], [made.text for made in hypotheses[arm]])
        errors[arm] = np.array([count.errors for count in counts])
    if extractor.kind == "confidence":
        pairs = zip(hypotheses["weak"], clips, strict=True)
        features = [confidence(made, clip.audio.size / SAMPLE_RATE) for made, clip in pairs]
    labels = (errors["weak"] > errors["strong"]).astype(int)
    options = LogisticOptions(kind="logistic", extractor=kind)
    identity = extractor_identity(extractor, references["weak"].spec())
    with TemporaryDirectory() as shards:
        ids = [clip.id for clip in clips]
        write_features(Path(shards), zip(ids, features, strict=True), identity)
        examples = Examples(FeatureReader(Path(shards)), ids, labels)
        decider, _ = LogisticDecider.fit(options, examples, examples, kind)
    save_decider(folder / "decider", decider, options, identity)
    half = StrongShareOptions(kind="strong_share", decider=kind, share=0.5)
    threshold = share_threshold(decider.score(features), half.share)
    nothing = Calibration(
        utterances=len(clips), speakers=0, strong_share=0.5, wer_weak=0, wer_strong=0, wer_routed=0
    )
    bound = Bound(
        weak_arm=digest(references["weak"].spec()),
        strong_arm=digest(references["strong"].spec()),
        extractor=digest(identity),
        decider=decider_sha256(folder / "decider"),
        normaliser=NORMALISER,
        calibration_set=digest([clip.id for clip in clips]),
    )
    policy = Policy(
        name="half",
        decider=kind,
        kind=half.kind,
        target=half.share,
        threshold=threshold,
        calibration=nothing,
        bound=bound,
    )
    write_text(folder / "policies/half.json", policy.model_dump_json())
    description = RouterDescription(
        weak=references["weak"],
        strong=references["strong"],
        extractor=extractor,
        batch_size=BATCH_SIZE,
        policy="half",
    )
    write_json(folder / "router.json", description.model_dump(mode="json"))
    return folder
