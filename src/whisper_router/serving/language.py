"""The language that a request may name: the one that the router's arms decode."""

from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from whisper_router.errors import UserError
from whisper_router.router import Router


def language_of(router: Router) -> str:
    """The language of the router's arms: of the strong one, where the weak knows only English."""
    return router.description.strong.decode.language


def check_language(router: Router, language: str | None) -> None:
    """Refuse a language that the router was not trained and calibrated for.

    Raises
    ------
    UserError
        Another language than the arms', or none that Whisper knows.
    """
    if not language:
        return
    name = language.strip().lower()
    code = name if name in LANGUAGES else TO_LANGUAGE_CODE.get(name)
    ours = language_of(router)
    if code != ours:
        raise UserError(
            f"language {language!r}: this router was trained and calibrated for {ours!r}; send that or leave "
            "it out"
        )
