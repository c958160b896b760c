"""`make demo`: the DAG on the demo's speech, the registry, one clip through the registered champion."""

import subprocess
from pathlib import Path

import pandas as pd
from rich.console import Console

from whisper_router.paths import LABELS, MANIFEST
from whisper_router.registry import CHAMPION, MODEL, register
from whisper_router.router import Router
from whisper_router.run import run
from whisper_router.summary import show_summary

LOCK = Path("dvc.lock")


def _committed_lock() -> str | None:
    """dvc.lock of HEAD where nothing else differs from HEAD, so that a difference is the machine's."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", ".", f":!{LOCK}"], capture_output=True, text=True, check=False
    )
    head = subprocess.run(["git", "show", f"HEAD:{LOCK}"], capture_output=True, text=True, check=False)
    if changed.returncode or changed.stdout.strip() or head.returncode:
        return None
    return head.stdout


def run_demo(console: Console) -> None:
    """Run everything from audio to a routed transcript, and say where it all is."""
    committed = _committed_lock()
    try:
        run()
        same = committed is None or LOCK.read_text() == committed
        console.print("register: building the MLflow run ...")
        registered = register()
        labels = pd.read_parquet(LABELS)
        clip = labels.loc[labels["split"] == "test", "id"].iloc[0]
        row = pd.read_parquet(MANIFEST).set_index("id").loc[clip]
        uri = f"models:/{MODEL}@{CHAMPION}"
        (made,) = Router.load(uri).transcribe([row["audio"]])
    finally:
        if committed is not None:
            LOCK.write_text(committed)
    show_summary(console)
    state = "registered" if registered.new else "registered before"
    console.print(
        f"  model: {MODEL} version {registered.version} ({state}), {uri} in mlruns/mlflow.db", highlight=False
    )
    console.print(f"\n{row['audio']} through {uri}:", highlight=False)
    console.print(f"  said:   {row['text']}\n  heard:  {made.text}", highlight=False)
    console.print(
        f"  by {made.model} ({made.arm}): score {made.score:.3f}, threshold {made.threshold:.3f}",
        highlight=False,
    )
    if not same:
        console.print(
            "\nThis processor computes other last bits than the one that wrote the committed dvc.lock: the "
            "outputs' hashes differ. The figures are this machine's; dvc.lock was put back as committed, "
            "the registered run keeps the one of this machine.",
            style="yellow",
        )
    console.print(
        f"\nNext: .venv/bin/whisper-router transcribe --router {uri} YOUR.wav\n"
        "      or your own corpus: README.md, 'Your own corpus'",
        highlight=False,
    )
