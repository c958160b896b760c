"""What the content store, the outputs and DVC's cache take on the disk."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

from rich.console import Console
from rich.table import Table

from whisper_router.paths import DATA
from whisper_router.store import LIMIT, ContentStore

DVC_CACHE = Path(".dvc/cache")
KINDS = {
    "probes": "what ingest found in the audio",
    "segments": "segments of longer recordings, without loss",
    "decodes": "hypotheses",
    "encodings": "encoder states",
    "trainings": "states of training",
    "routed": "texts of the packaged router: what evaluate verifies, audio over 30 s",
    "leftover": "of killed runs, or a run going on",
}


def _files(folders: Iterable[Path]) -> dict[tuple[int, int], int]:
    """Sizes of all files below some folders by device and inode: hard links count once."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # a run renamed it
                status = path.lstat()
                if S_ISREG(status.st_mode):
                    found[status.st_dev, status.st_ino] = status.st_size
    return found


def size_text(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def show_cache(console: Console) -> dict[str, Any]:
    """Print what lies where, and the sum on the disk."""
    store = ContentStore()
    table = Table(title=f"content store {store.root}")
    for column in ("kind", "what", "entries", "size", "longest unused"):
        table.add_column(column, justify="right" if column in ("entries", "size") else "left")
    entries = list(store.entries())
    kinds: dict[str, dict[str, int]] = {}
    for kind, what in KINDS.items():
        part = [entry for entry in entries if entry.kind == kind]
        kinds[kind] = {"entries": len(part), "bytes": sum(entry.size for entry in part)}
        used = min((entry.used for entry in part), default=None)
        since = str(datetime.fromtimestamp(used, UTC).date()) if used else ""
        table.add_row(kind, what, str(len(part)), size_text(kinds[kind]["bytes"]), since)
    console.print(table)
    total = sum(entry.size for entry in entries)
    console.print(f"  {size_text(total)} of at most {size_text(store.limit())} ({LIMIT})", highlight=False)
    outputs, cache = _files([DATA]), _files([DVC_CACHE])
    shared = sum(size for key, size in outputs.items() if key in cache)
    everything = sum((outputs | cache | _files([store.root])).values())
    console.print(
        f"  {DATA}: {size_text(sum(outputs.values()))}; DVC's cache: {size_text(sum(cache.values()))}; "
        f"{size_text(shared)} are the same files by hard links",
        highlight=False,
    )
    console.print(f"  in all {size_text(everything)} on the disk", highlight=False)
    return {
        "store": kinds,
        "limit": store.limit(),
        "data": sum(outputs.values()),
        "dvc_cache": sum(cache.values()),
        "shared": shared,
        "sum": everything,
    }
