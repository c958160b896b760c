"""What a route cost in multiply-accumulates, beside sending everything to the strong arm."""

from collections.abc import Sequence
from typing import Any

from whisper_router.audio import SAMPLE_RATE
from whisper_router.cost import Dims, arm_macs, encoder_macs
from whisper_router.decision import Decision, Segment, Spent
from whisper_router.evaluation import first_blocks
from whisper_router.features.options import ArmName
from whisper_router.router import Router


def _dims(router: Router) -> dict[ArmName, Dims]:
    return {"weak": Dims(**router.weak.sizes), "strong": Dims(**router.strong.sizes)}


def work_macs(router: Router, spent: Sequence[Spent]) -> int:
    """Multiply-accumulates of work; both arms must be loaded."""
    return sum(
        _macs(dims, [work for work in spent if work.arm == arm]) for arm, dims in _dims(router).items()
    )


def _macs(dims: Dims, spent: list[Spent]) -> int:
    decoded = [(work.frames, work.tokens) for work in spent if work.tokens is not None]
    encoded = [
        encoder_macs(dims if work.blocks is None else first_blocks(dims, work.blocks), work.frames)
        for work in spent
        if work.tokens is None
    ]
    return arm_macs(dims, decoded) + sum(encoded)


def _always_strong(segment: Segment, dims: dict[ArmName, Dims], frames: int) -> int:
    """Measured where the strong arm ran; else as if it had needed the weak arm's tokens, in one attempt."""
    strong = [work for work in segment.spent if work.arm == "strong" and work.tokens is not None]
    if strong:
        return _macs(dims["strong"], strong)
    decoded = [work.tokens for work in segment.spent if work.tokens is not None]
    if not decoded:
        return 0  # no speech: the strong arm would not have decoded it either
    tokens = decoded[-1]
    return arm_macs(dims["strong"], [(frames, tokens - dims["weak"].prompt + dims["strong"].prompt)])


def savings(router: Router, made: Decision) -> dict[str, Any]:
    """Cost of a transcript in MACs, beside always-strong's on the same audio.

    The decider's own products, a thousandth of an encoder's, are left out; both arms must be loaded.
    """
    dims = _dims(router)
    routed = strong = 0
    for segment in made.segments:
        samples = round((segment.end_s - segment.start_s) * SAMPLE_RATE)
        routed += work_macs(router, segment.spent)
        strong += _always_strong(segment, dims, router.description.strong.decode.context(samples))
    return {
        "currency": "macs",
        "routed": routed,
        "always_strong": strong,
        "saved": round(1 - routed / strong, 4) if strong else 0.0,
        "estimated": any(segment.arm == "weak" for segment in made.segments),
    }
