"""What the served model takes and gives."""

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from whisper_router.audio import SAMPLE_RATE
from whisper_router.wav import wav_bytes

OUTPUTS = {
    "text": "string",
    "model": "string",
    "score": "double",
    "threshold": "double",
    "duration_s": "double",
    "segments": "string",
    "error": "string",
}
PARAMS: dict[str, tuple[str, object]] = {  # an empty text is a parameter left out
    "threshold": ("double", None),
    "policy": ("string", ""),
    "language": ("string", ""),
    "response_format": ("string", "text"),
    "decide_only": ("boolean", False),
}


def signature() -> ModelSignature:
    """One binary column in: encoded audio. A row an utterance out."""
    outputs = Schema([ColSpec(kind, name, required=False) for name, kind in OUTPUTS.items()])
    params = ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in PARAMS.items()])
    return ModelSignature(Schema([ColSpec("binary", "audio")]), outputs, params)


def example() -> pd.DataFrame:
    """A second of silence as a WAV file: the form of a request, and nobody's voice."""
    return pd.DataFrame({"audio": [wav_bytes(np.zeros(SAMPLE_RATE, np.float32))]})
