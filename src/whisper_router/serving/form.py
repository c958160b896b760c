"""What a client asks for: OpenAI's form fields, read strictly and within limits."""

import math
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile

from whisper_router.errors import UserError
from whisper_router.router import Router
from whisper_router.serving.formats import FORMATS, ResponseFormat
from whisper_router.serving.language import check_language
from whisper_router.serving.problem import Problem
from whisper_router.serving.settings import Settings

ROUTED = "routed"
ALIASES = ("whisper-1",)  # what OpenAI's clients ask for by default: routed
LISTS = ("timestamp_granularities", "include")  # sent with or without [] after the name
TEXTS = ("model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy")
FIELDS = frozenset({"file", *TEXTS, *LISTS, *(f"{name}[]" for name in LISTS)})


@dataclass(frozen=True)
class Asked:
    """A request that can be honoured, but for its audio."""

    audio: bytes
    model: str
    policy: str | None
    threshold: float | None
    language: str | None
    response_format: ResponseFormat


def parse_model(model: str) -> tuple[str | None, float | None]:
    """Policy and threshold of a model's name; a policy may still be one that nobody packaged.

    Raises
    ------
    Problem
        Not ``routed``, ``weak``, ``strong``, ``routed-<threshold>`` or ``routed-<policy>``.
    """
    if model == ROUTED or model in ALIASES:
        return None, None
    if model in ("weak", "strong"):
        return model, None
    prefix, _, rest = model.partition("-")
    if prefix != ROUTED or not rest:
        raise Problem(
            404,
            "model_not_found",
            f"model {model[:100]!r}: send routed, weak, strong, routed-<threshold> such as routed-0.42, or "
            "routed-<policy>; GET /v1/models lists them",
            "model",
        )
    try:
        threshold = float(rest)
    except ValueError:
        return rest, None
    if not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise Problem(
            400, "invalid_value", f"model {model[:100]!r}: the threshold must be from 0 to 1", "model"
        )
    return None, threshold


def _text(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1 or any(isinstance(value, UploadFile) for value in values):
        raise Problem(400, "invalid_value", f"{name}: send one text", name)
    return str(values[0]) if values else ""


def _texts(form: FormData, name: str) -> list[str]:
    return [str(value) for key in (f"{name}[]", name) for value in form.getlist(key)]


def _unsupported(name: str, message: str) -> Problem:
    return Problem(400, "unsupported_parameter", f"{name}: {message}", name)


async def read_form(form: FormData, settings: Settings) -> Asked:
    """Check a form that has arrived, and read its file.

    Raises
    ------
    Problem
        A field that is missing, unknown or cannot be honoured; a file that is empty or too large.
    """
    unknown = sorted(set(form) - FIELDS)
    if unknown:
        raise Problem(400, "unknown_parameter", f"unknown field {unknown[0][:100]!r}", unknown[0][:100])
    _refuse_unsupported(form)
    response_format = _text(form, "response_format") or "json"
    if response_format not in FORMATS:
        raise _unsupported("response_format", f"{response_format[:50]!r} is none of {', '.join(FORMATS)}")
    granularities = _texts(form, "timestamp_granularities")
    if set(granularities) - {"segment"}:
        message = "only segment, windows of at most 30 s: the arms give no times of words"
        raise _unsupported("timestamp_granularities", message)
    model = _text(form, "model") or ROUTED
    policy, threshold = parse_model(model)
    files = form.getlist("file")
    if len(files) != 1 or not isinstance(files[0], UploadFile):
        raise Problem(400, "missing_file", "file: send one audio file (bytes, not a path or URL)", "file")
    audio = await files[0].read()
    if not audio:
        raise Problem(400, "empty_file", "file: is empty", "file")
    if len(audio) > settings.max_bytes:
        message = f"file: {len(audio)} bytes, more than this server's limit of {settings.max_bytes}"
        raise Problem(413, "file_too_large", message, "file")
    language = _text(form, "language") or None
    return Asked(audio, model, policy, threshold, language, response_format)


def _refuse_unsupported(form: FormData) -> None:
    """What the arms cannot honour is refused rather than ignored; OpenAI's defaults pass."""
    temperature = _text(form, "temperature")
    try:
        if temperature and float(temperature) != 0:
            message = "the arms decode at 0, then at rising temperatures where that fails; send 0 or nothing"
            raise _unsupported("temperature", message)
    except ValueError as error:
        raise Problem(400, "invalid_value", "temperature: is not a number", "temperature") from error
    if _text(form, "prompt"):
        message = "the policy was calibrated without prompts, which change scores and texts; leave it out"
        raise _unsupported("prompt", message)
    if _text(form, "stream").lower() not in ("", "false", "0"):
        raise _unsupported("stream", "not offered; send false or nothing")
    if _text(form, "chunking_strategy") not in ("", "auto"):
        raise _unsupported("chunking_strategy", "audio is cut at silences; send auto or nothing")
    if _texts(form, "include"):
        raise _unsupported("include", "not offered; verbose_json has the mean log-probability of segments")


def check_route(asked: Asked, router: Router) -> None:
    """Refuse a policy or language that this router has not.

    Raises
    ------
    Problem
        404 for the policy, 400 for the language.
    """
    if asked.policy is not None and asked.policy not in (*router.policies, "weak", "strong"):
        message = f"model {asked.model[:100]!r}: the router's policies are {', '.join(router.policies)}"
        raise Problem(404, "model_not_found", message, "model")
    try:
        check_language(router, asked.language)
    except UserError as error:
        raise Problem(400, "unsupported_parameter", str(error)[:500], "language") from error
