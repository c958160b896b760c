"""Whether a scheduled retraining has a reason to run."""

from pathlib import Path

from whisper_router.drift import find_drift, read_baseline, read_log, read_shadow
from whisper_router.errors import UserError
from whisper_router.intake import complete_batches
from whisper_router.promotion import CHAMPION, MODEL, champion, registry
from whisper_router.retrain_options import RetrainOptions
from whisper_router.retrain_state import BEGUN
from whisper_router.serving.uri import router_folder


def drifted(log: Path) -> str:
    """What of the champion's requests has drifted; empty where nothing has, or too few rows tell."""
    version = champion(registry())
    if version is None:
        return f"{MODEL} has no {CHAMPION} yet"
    baseline = read_baseline(router_folder(f"models:/{MODEL}/{version}"))
    try:
        found = find_drift(baseline, read_log(log, [version]), read_shadow(log, [version]))
    except UserError as error:
        print(f"retrain: drift is not measured: {error}")
        return ""
    names = [finding.name for finding in found if finding.verdict == "drift"]
    return f"drift of {', '.join(names)} in {log}" if names else ""


def why(options: RetrainOptions) -> str:
    """Why to retrain now; empty where there is no reason.

    Raises
    ------
    UserError
        There is no drop folder, or the champion's baseline cannot be read.
    """
    if BEGUN.is_file():
        return "the last run did not end"
    if options.when == "always":
        return "as scheduled"
    if options.drop and complete_batches(Path(options.drop)):
        return f"new audio in {options.drop}"
    return drifted(Path(options.log or ""))


def begin(options: RetrainOptions) -> bool:
    """Whether to retrain now. Once begun there is a reason until ``end``, through kills and failures."""
    reason = why(options)
    print(f"retrain: {reason or 'no drift and no new audio, nothing to do'}")
    if reason:
        BEGUN.parent.mkdir(parents=True, exist_ok=True)
        BEGUN.touch()
    return bool(reason)


def end() -> None:
    """This retraining is done."""
    BEGUN.unlink(missing_ok=True)
