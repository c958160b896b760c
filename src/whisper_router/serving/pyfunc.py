"""The router as an MLflow model, logged as code."""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from whisper_router.router import Router


class RouterModel(PythonModel):
    """Routes and transcribes each row's audio; a bad row gets an error and the others go on."""

    def load_context(self, context: Any) -> None:
        """Load the packaged router."""
        self.router = Router.load(context.artifacts["router"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row an utterance: text, model, score, threshold, error."""
        audio = [
            bytes(a) if isinstance(a, bytes | bytearray | memoryview) else b"" for a in model_input["audio"]
        ]
        made = self.router.transcribe(audio)
        columns = ("text", "model", "score", "threshold", "error")
        return pd.DataFrame({name: [getattr(row, name) for row in made] for name in columns})


set_model(RouterModel())
