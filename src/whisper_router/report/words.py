"""How figures are named and written."""

from collections.abc import Mapping
from typing import Any

from whisper_router.cost import CURRENCIES
from whisper_router.cost_table import CURRENCY_LABEL, MEASURED
from whisper_router.params import Params

CHOICES = ("weak", "strong", "routed", "random", "oracle", "posthoc")
CHOICE_NAMES = {
    "weak": "always weak",
    "strong": "always strong",
    "routed": "routed",
    "random": "random at the same cost",
    "oracle": "oracle",
    "posthoc": "both, the surer text",
}
DEMO_NOTE = "Synthetic speech: these figures demonstrate the plumbing, not the quality of a router."


def is_demo(params: Params) -> bool:
    """Whether any figure comes from synthetic speech."""
    return any(corpus.kind == "demo" for corpus in params.ingest.corpora)


def currencies_of(metrics: Mapping[str, Any], first: str = "macs") -> dict[str, str]:
    """The currencies that metrics speak of and what they count, those that a user pays in before MACs.

    The paper's count is shown only where it is asked for as ``first``.
    """
    found = {name: meaning for name, meaning in {**MEASURED, **CURRENCIES}.items() if name != "macs_paper"}
    found = {first: CURRENCY_LABEL[first]} | found
    return {name: meaning for name, meaning in found.items() if f"{name}_routed" in metrics}


def summary(metrics: Mapping[str, Any], verified: int) -> dict[str, Any]:
    """The figures that a registered version carries.

    Where the strong arm's text is the reference its WER, 0 by definition, is no figure.
    """
    names = (
        "accuracy",
        "auroc",
        "gap_recovered",
        *(f"wer_{choice}" for choice in CHOICES),
        "wer_rise",
        "harm_all",
        "strong_share",
        *(f"saving_{currency}" for currency in currencies_of(metrics)),
    )
    return {
        **metrics["counts"],
        **{name: metrics[name]["value"] for name in names},
        **({} if metrics["reference"] == "text" else {"wer_strong": None}),
        "verified_with_router": verified,
    }


def deciding(metrics: Mapping[str, Any], currency: str) -> dict[str, float | None]:
    """The few figures that decide, for `dvc metrics` and `dvc exp show`; costs are of always-strong's."""
    figures = {
        "wer_weak": "wer_weak",
        "wer_strong": "wer_strong",
        "wer_routed": "wer_routed",
        "to_strong": "strong_share",
        "cost_weak": f"{currency}_weak",
        "cost_routed": f"{currency}_routed",
        "auroc": "auroc",
    }
    found = {
        name: None if (value := metrics[figure]["value"]) is None else round(value, 4)
        for name, figure in figures.items()
    }
    return found if metrics["reference"] == "text" else found | {"wer_strong": None}


def parts(figure: Mapping[str, Any], digits: int = 1) -> tuple[str, str]:
    """A figure, and its interval (empty where it has none or no width) or why there is no figure."""
    if figure["value"] is None:
        return "none", str(figure.get("reason", "not defined"))
    interval = figure.get("interval")
    if not isinstance(interval, list | tuple) or interval[0] == interval[1]:
        return f"{figure['value']:.{digits}%}", ""
    return f"{figure['value']:.{digits}%}", f"({interval[0]:.{digits}%} to {interval[1]:.{digits}%})"


def percent(figure: Mapping[str, Any], digits: int = 1) -> str:
    """A figure with its interval, or why there is none."""
    value, beside = parts(figure, digits)
    return f"{value}{':' if figure['value'] is None else ''} {beside}".strip()
