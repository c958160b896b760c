"""The router as an MLflow model, logged as code."""

import base64
import binascii
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

if not __name__.startswith("whisper_router"):  # run from a model's folder: it stays as it was registered
    sys.dont_write_bytecode = True
    if __spec__ is not None and __spec__.cached:
        Path(__spec__.cached).unlink(missing_ok=True)

import whisper_router

SEND = (
    "column audio holds base64 or other text, not the bytes of a file: MLflow decodes base64 in "
    '{"dataframe_split": {"columns": ["audio"], "data": [["<base64>"]]}} and '
    '{"dataframe_records": [{"audio": "<base64>"}]} only, not in inputs or instances; in Python give a '
    "DataFrame of bytes"
)
MAGIC = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\x1aE\xdf\xa3")  # of sound files


def _is_text(value: Any) -> bool:
    """Whether a value is text, or a sound file in base64: what MLflow makes of ``inputs``."""
    if isinstance(value, bytes):
        try:
            head = base64.b64decode(value[:16], validate=True)
        except binascii.Error:
            return False
        return head.startswith(MAGIC) or head[4:8] == b"ftyp"
    return isinstance(value, str)


def _sources(package: Path) -> dict[str, bytes]:
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*.py")}


def refuse_other_code(logged: Path) -> None:
    """Refuse to run where another whisper_router than the model's own is imported already.

    Raises
    ------
    MlflowException
        The imported package differs from the one that was logged with the model.
    """
    imported = Path(whisper_router.__file__).parent
    if imported.resolve() != logged.resolve() and _sources(imported) != _sources(logged):
        raise MlflowException.invalid_parameter_value(
            f"this process has imported whisper_router from {imported}, which is not the code that this "
            f"model was logged with ({logged}); load the model in a process of its own, without that package"
        )


class RouterModel(PythonModel):
    """Routes and transcribes each row's audio; a bad row gets an error and the others go on."""

    def load_context(self, context: Any) -> None:
        """Load the packaged router."""
        folder = Path(context.artifacts["router"])
        refuse_other_code(folder.parents[1] / "code" / "whisper_router")
        from whisper_router.router import Router

        self.router = Router.load(folder)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row an utterance: text, model, score, threshold, duration_s, segments, error.

        Raises
        ------
        MlflowException
            A parameter that the router cannot honour, or text where audio's bytes belong.
        """
        from whisper_router.errors import UserError
        from whisper_router.serving.formats import FORMATS, render, segment_rows
        from whisper_router.serving.language import check_language, language_of
        from whisper_router.serving.signature import OUTPUTS, PARAMS

        given: dict[str, Any] = {name: default for name, (_, default) in PARAMS.items()} | (params or {})
        column = list(model_input["audio"])
        text = [i for i, value in enumerate(column) if _is_text(value)]
        if column and len(text) == len(column):
            raise MlflowException.invalid_parameter_value(SEND)
        if given["response_format"] not in FORMATS:
            raise MlflowException.invalid_parameter_value(
                f"response_format {given['response_format']!r} is none of {', '.join(FORMATS)}"
            )
        audio = [bytes(a) if isinstance(a, bytes | bytearray | memoryview) else b"" for a in column]
        try:
            check_language(self.router, given["language"])
            route = self.router.route(given["policy"] or None, given["threshold"])
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        made = self.router.process(audio, [route] * len(audio), not given["decide_only"])
        rows: list[dict[str, Any]] = []
        for one in made:
            row = {name: getattr(one, name) for name in OUTPUTS}
            row["segments"] = json.dumps(segment_rows(one)) if one.error is None else None
            if len(rows) in text:
                row["error"] = SEND
            if one.text is not None:
                row["text"] = render(one, given["response_format"], language_of(self.router))
            rows.append(row)
        return pd.DataFrame(rows, columns=list(OUTPUTS), dtype=object)  # so that null is null in JSON


set_model(RouterModel())
