"""`make demo`: the DAG on the demo's speech, the registry, one clip through the registered champion."""

import subprocess
from typing import Any

import pandas as pd
from rich.console import Console

from whisper_router.params import load_yaml
from whisper_router.paths import LABELS, MANIFEST
from whisper_router.policy.samples import rows_of
from whisper_router.promotion import CHAMPION, MODEL
from whisper_router.registry import LOCK, register
from whisper_router.router import Router
from whisper_router.run import run
from whisper_router.summary import show_next, show_summary


def _committed_lock() -> str | None:
    """dvc.lock of HEAD where nothing else differs from HEAD, so that a difference is the machine's."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", ".", f":!{LOCK}"], capture_output=True, text=True, check=False
    )
    head = subprocess.run(["git", "show", f"HEAD:{LOCK}"], capture_output=True, text=True, check=False)
    if changed.returncode or changed.stdout.strip() or head.returncode:
        return None
    return head.stdout


def lock_difference(committed: str, made: str) -> str | None:
    """Why two locks differ, in a sentence; None where they are equal."""
    if committed == made:
        return None
    before, after = (load_yaml(text, "dvc.lock")["stages"] for text in (committed, made))
    code = [name for name in after if _own(before.get(name)) != _own(after[name])]
    if code:
        stages = ", ".join(code)
        return (
            f"dvc.lock as committed is of other code or params ({stages}); it was "
            "written anew: `whisper-router register --commit` commits it."
        )
    changed = [name for name in after if before[name].get("outs") != after[name].get("outs")]
    return (
        "This processor computes other last bits than the one that wrote the committed dvc.lock: outputs of "
        f"{', '.join(changed)} differ. The figures and dvc.lock are this machine's, "
        "so that the next run repeats nothing. `whisper-router register --commit` commits it and registers "
        "with that commit; `git checkout dvc.lock` puts the committed one back, and the next run starts anew."
    )


def _own(stage: Any) -> Any:
    """What a stage of the lock depends on, but for the outputs of other stages."""
    if stage is None:
        return None
    deps = [dep for dep in stage.get("deps", []) if not dep["path"].startswith("data/")]
    return stage["cmd"], deps, stage.get("params")


def run_demo(console: Console) -> None:
    """Run everything from audio to a routed transcript, and say where it all is."""
    committed = _committed_lock()
    run()
    difference = lock_difference(committed, LOCK.read_text()) if committed else None
    with console.status("registering the router in MLflow"):
        registered = register(force=True)  # a demonstration serves whatever the verdict
    labels = pd.read_parquet(LABELS)
    clip = rows_of(labels, "test")["id"].iloc[0]
    row = pd.read_parquet(MANIFEST).set_index("id").loc[clip]
    uri = f"models:/{MODEL}@{CHAMPION}" if registered.champion else f"models:/{MODEL}/{registered.version}"
    with console.status(f"transcribing one clip through {uri}"):
        (made,) = Router.load(uri).transcribe([row["audio"]])
    show_summary(console)
    state = "registered" if registered.new else "registered before"
    console.print(
        f"  model: {MODEL} version {registered.version} ({state}), {uri} in mlruns/mlflow.db",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"\n{row['audio']} through {uri}:", highlight=False)
    console.print(f"  said:   {row['text']}\n  heard:  {made.text}", highlight=False)
    console.print(
        f"  by {made.model} ({made.arm}): score {made.score:.3f}, threshold {made.threshold:.3f}",
        highlight=False,
    )
    if difference:
        console.print(f"\n{difference}", style="yellow", highlight=False)
    console.print()
    show_next(console)
    console.print(
        f"      .venv/bin/whisper-router transcribe --router {uri} YOUR.wav\n"
        "      your own audio: README.md, 'Your own corpus'",
        highlight=False,
        soft_wrap=True,
    )
