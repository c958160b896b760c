"""What the served model takes and gives."""

import io

import numpy as np
import pandas as pd
import soundfile
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from whisper_router.audio import SAMPLE_RATE


def signature() -> ModelSignature:
    """One binary column in: encoded audio. A row an utterance out."""
    inputs = Schema([ColSpec("binary", "audio")])
    outputs = Schema(
        [
            ColSpec("string", "text", required=False),
            ColSpec("string", "model", required=False),
            ColSpec("double", "score", required=False),
            ColSpec("double", "threshold"),
            ColSpec("string", "error", required=False),
        ]
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def example() -> pd.DataFrame:
    """A second of silence as a WAV file: the form of a request, and nobody's voice."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return pd.DataFrame({"audio": [buffer.getvalue()]})
