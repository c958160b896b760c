"""A policy in a line of a terminal, and in the lines that ``-v`` adds."""

from textwrap import fill

from whisper_router.policy.calibrate import Figure, Policy
from whisper_router.policy.names import figure_names
from whisper_router.progress import COLUMNS
from whisper_router.reference import Reference


def share(value: float, digits: int = 0) -> str:
    """A share in percent."""
    return f"{value * 100:.{digits}f} %"


def policy_line(policy: Policy, width: int, reference: Reference) -> str:
    """Threshold, share to strong, WER and saving on the calibration split.

    Parameters
    ----------
    width : int
        Of the name's column.
    """
    known = policy.calibration
    saving = known.figures["saving_macs"].value or 0.0
    saves = f"saves {share(saving):>5}" if saving >= 0 else f"costs {share(-saving)} more"
    note = "  no promise" if policy.promise and not policy.promise.holds else ""
    return (
        f"{policy.name:<{width}}  thr {policy.threshold:.3f}  strong {share(known.strong_share):>5}  "
        f"{'WER' if reference.is_text else 'differs'} {share(known.wer_routed, 1):>6}  {saves}{note}"
    )


def policy_details(policy: Policy, reference: Reference) -> str:
    """Intervals of the figures, and the promise in full."""
    names = figure_names(reference)
    lines = [
        f"{names.get(key, key.replace('_', ' '))}: {_figure(figure)}"
        for key, figure in policy.calibration.figures.items()
    ]
    if policy.promise:
        lines += [policy.promise.says, policy.promise.assumes]
    return "\n".join(fill(line, COLUMNS, initial_indent="  ", subsequent_indent="    ") for line in lines)


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return f"none, {figure.reason}"
    if isinstance(figure.interval, str):
        return f"{share(figure.value, 1)}, no interval: {figure.interval}"
    between = f" ({' to '.join(share(end, 1) for end in figure.interval)})" if figure.interval else ""
    return f"{share(figure.value, 1)}{between}"
