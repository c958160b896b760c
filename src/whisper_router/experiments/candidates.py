"""The configurations that are compared."""

from dataclasses import dataclass
from typing import Any

from whisper_router.decider.options import (
    DeciderOptions,
    GbtOptions,
    LogisticOptions,
    MlpOptions,
    ResnetOptions,
    TransformerOptions,
)
from whisper_router.features.kinds import AnyExtractor, BlocksExtractor, LogMelExtractor, dearest
from whisper_router.features.options import ConfidenceExtractor, Reads, SignalExtractor
from whisper_router.params import read_preset

EXTRACTORS: dict[str, AnyExtractor] = {
    "signal": SignalExtractor(kind="signal"),
    "confidence": ConfidenceExtractor(kind="confidence"),
    "weak_encoder": BlocksExtractor(kind="encoder", arm="weak", pool=4),
    "strong_encoder": BlocksExtractor(kind="encoder", arm="strong", pool=4),
    "logmel": LogMelExtractor(kind="logmel"),
}
TAGS = "tags"  # of the manifest, which no router sees


@dataclass(frozen=True)
class Part:
    """What a candidate reads of an extractor's features: all, some columns, or the first encoder states."""

    extractor: str
    columns: tuple[str, ...] = ()
    states: int | None = None  # the convolutions' output, then one a block


@dataclass(frozen=True)
class Candidate:
    """A decider to cross-validate."""

    name: str
    group: str
    parts: tuple[Part, ...]
    options: DeciderOptions
    nested: bool = True  # takes part in the choice by inner folds

    @property
    def reads(self) -> Reads:
        """The dearest that is paid before the decision; tags are costed as if the weak encoder had run."""
        return dearest(
            {
                "weak_encoder" if part.extractor == TAGS else EXTRACTORS[part.extractor].reads
                for part in self.parts
            }
        )

    @property
    def blocks(self) -> int | None:
        """Blocks of the strong encoder that are run before the decision, where not all are."""
        states = [part.states for part in self.parts if part.states is not None]
        return states[0] - 1 if states else None


FLOOR, PAPER, BEFORE, STRONG, CASCADE, BOTH = (
    "floor",
    "the paper's design",
    "before decoding, weak encoder",
    "before decoding, strong encoder",
    "cascade",
    "cascade, more than the hypothesis",
)
CHOICES = {"best before decoding": (BEFORE,), "best cascade": (CASCADE, BOTH)}
SNR, DURATION, SPEAKER = "SNR alone", "duration alone", "speaker tags alone"
HARD, SOFT = (0.0001, 0.001, 0.01), (0.001, 0.003, 0.01, 0.03, 0.1)  # c, for thousands of numbers and for few


def _logistic(**change: Any) -> LogisticOptions:
    return LogisticOptions(kind="logistic", extractor="", **({"c": SOFT} | change))


def _gbt(**change: Any) -> GbtOptions:
    return GbtOptions(kind="gbt", extractor="", **change)


def candidates(tags: bool) -> list[Candidate]:
    """Floors, the paper's design, deciders before decoding, cascades; ``tags``: the corpus has some."""
    signal, confidence = Part("signal"), Part("confidence")
    weak, strong = Part("weak_encoder"), Part("strong_encoder")
    preset = ResnetOptions.model_validate(read_preset("paper-compact")["deciders"]["paper-compact"])
    mlp = MlpOptions(kind="mlp", extractor="", epochs=12, patience=3)
    found = [
        Candidate(SNR, FLOOR, (Part("signal", ("snr_db",)),), _logistic(), False),
        Candidate(DURATION, FLOOR, (Part("signal", ("log_duration",)),), _logistic(), False),
        Candidate("signal statistics, logistic", FLOOR, (signal,), _logistic(), False),
        Candidate("signal statistics, trees", FLOOR, (signal,), _gbt(), False),
        Candidate("log-mel, logistic", FLOOR, (Part("logmel"),), _logistic(c=HARD), False),
        Candidate("log-mel, MLP", FLOOR, (Part("logmel"),), mlp, False),
        *([Candidate(SPEAKER, FLOOR, (Part(TAGS),), _logistic(), False)] if tags else []),
        Candidate("paper-compact", PAPER, (strong,), preset, False),
        Candidate("all layers, logistic", BEFORE, (weak,), _logistic(c=HARD)),
        Candidate("all layers, logistic, cost", BEFORE, (weak,), _logistic(c=HARD, objective="cost")),
        Candidate(
            "last layer and signal, logistic",
            BEFORE,
            (Part("weak_encoder", ("last",)), signal),
            _logistic(c=HARD),
        ),
        Candidate("all layers and signal, logistic", BEFORE, (weak, signal), _logistic(c=HARD)),
        Candidate("MLP on mean and deviation", BEFORE, (weak,), mlp, False),
        Candidate("MLP, attentive pooling", BEFORE, (weak,), mlp.model_copy(update={"attention": 32}), False),
        Candidate(
            "transformer",
            BEFORE,
            (weak,),
            TransformerOptions(kind="transformer", extractor="", width=32, blocks=1, epochs=6, patience=2),
            False,
        ),
        Candidate(
            "first 2 blocks, logistic", STRONG, (Part("strong_encoder", (), 3),), _logistic(c=HARD), False
        ),
        Candidate(
            "first 4 blocks, logistic", STRONG, (Part("strong_encoder", (), 5),), _logistic(c=HARD), False
        ),
        Candidate("all layers, logistic ", STRONG, (strong,), _logistic(c=HARD), False),
        Candidate(
            "mean log-probability alone", CASCADE, (Part("confidence", ("avg_logprob",)),), _logistic()
        ),
        Candidate(
            "8 least sure tokens alone", CASCADE, (Part("confidence", ("low8_logprob",)),), _logistic()
        ),
    ]
    objectives: tuple[dict[str, Any], ...] = (
        {},
        {"objective": "cost"},
        {"objective": "margin", "margin": 1},
        {"objective": "regression"},
    )
    for change in objectives:
        says = f", {change['objective']}" if change else ""
        found.append(Candidate(f"confidence, logistic{says}", CASCADE, (confidence,), _logistic(**change)))
        found.append(Candidate(f"confidence, trees{says}", CASCADE, (confidence,), _gbt(**change)))
    return [
        *found,
        Candidate(
            "confidence, logistic, isotonic", CASCADE, (confidence,), _logistic(calibration="isotonic")
        ),
        Candidate("confidence and signal, logistic", BOTH, (confidence, signal), _logistic()),
        Candidate("confidence and signal, trees", BOTH, (confidence, signal), _gbt()),
        Candidate("confidence and weak encoder, logistic", BOTH, (confidence, weak), _logistic(c=HARD)),
    ]


NO_TAGS = "no tag of the speakers (accent, age) that two of them share in these corpora"
NOT_MEASURED = {
    "wav2vec2 features": "no weights at hand",
    "an intermediate model as a third line": "no weights between the two arms at hand",
    "tiny -> base, base -> small, small -> large": "no weights of tiny, small and large at hand",
}
