"""How policies, and the figures that they promise and reach, are called."""

from whisper_router.cost_table import CURRENCY_LABEL
from whisper_router.reference import Reference

FIGURE_NAMES = {
    "threshold": "threshold",
    "strong_share": "share sent to strong",
    "wer_routed": "WER",
    "wer_rise": "WER above always-strong's",
    "harm_all": "sent to weak and worse, of all",
    "harm_weak": "worse, of those sent to weak",
    "mean_loss": "mean WER lost by going to weak",
    **{f"{currency}_routed": f"cost in {currency}" for currency in CURRENCY_LABEL},
}
FIGURE_NAMES |= {
    f"{name}_by_speaker": f"{FIGURE_NAMES[name]}, each speaker the same"
    for name in ("harm_all", "harm_weak", "mean_loss")
}


def figure_names(reference: Reference) -> dict[str, str]:
    """How figures are called: without transcripts they are about words that differ."""
    if reference.is_text:
        return FIGURE_NAMES
    text = f"{reference.strong}'s text"
    names = {
        "wer_routed": reference.wer,
        "wer_rise": reference.wer,
        "harm_all": f"sent to weak and differing from {text}, of all",
        "harm_weak": f"differing from {text}, of those sent to weak",
        "mean_loss": f"mean share of the words changed from {text}",
    }
    each = {f"{name}_by_speaker": f"{said}, each speaker the same" for name, said in names.items()}
    return FIGURE_NAMES | names | {name: said for name, said in each.items() if name in FIGURE_NAMES}


KIND_NAMES = {
    "fixed": "fixed threshold",
    "strong_share": "share to strong",
    "cost_budget": "cost budget",
    "wer_budget": "WER budget",
    "best_wer": "best WER",
    "guarantee": "guarantee",
}
