"""Options -> an arm with its weights."""

from dataclasses import asdict

from whisper.model import ModelDimensions

from whisper_router.asr.arm import Arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import Checkpoint, load_whisper
from whisper_router.cost import Dims


def load_arm(checkpoint: Checkpoint, options: DecodeOptions) -> Arm:
    """Load an arm's weights."""
    return Arm(load_whisper(checkpoint), checkpoint.sha256, options)


def cost_dims(arm: Arm) -> dict[str, int]:
    """The sizes that the arm's cost depends on."""
    dims: ModelDimensions = arm.model.dims
    prompt = len(arm.tokenizer.sot_sequence_including_notimestamps)
    return asdict(
        Dims(dims.n_mels, dims.n_audio_state, dims.n_audio_layer, dims.n_text_layer, dims.n_vocab, prompt)
    )
