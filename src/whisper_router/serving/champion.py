"""The router that is served, and its successor once the registry or the folder holds another."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_router.errors import UserError
from whisper_router.hashing import folder_sha256
from whisper_router.paths import DATA
from whisper_router.router import Router
from whisper_router.verdict import VERDICT, Verdict

logger = logging.getLogger(__name__)


def _verdict(place: str) -> str | None:
    """The verdict on a packaged folder or a registered version."""
    if place.startswith("models:/"):
        from whisper_router.promotion import SAYS, registry

        name, version = place.removeprefix("models:/").rsplit("/", 1)
        said: str | None = registry().get_model_version(name, version).tags.get(SAYS)
        return said
    path = Path(place).parent / VERDICT.relative_to(DATA)
    return Verdict.read(path).headline if path.is_file() else None


@dataclass(frozen=True)
class Served:
    """A router with both arms loaded, and which version it is."""

    router: Router
    version: str
    verdict: str | None = None  # whether routing is worth it, in words; None where nothing says


class Champion:
    """Serves a router and watches its source.

    Requests keep the router that they began with: a swap loses none. The router that served before stays
    loaded, so that a rollback takes no loading.

    Parameters
    ----------
    source : str
        A packaged folder, or ``models:/name@alias``.
    reload_s : float
        How often the source is looked at; 0: only when woken.
    on_reload : callable
        Told ``"swapped"`` or ``"failed"``.
    """

    def __init__(
        self, source: str, reload_s: float = 0, on_reload: Callable[[str], None] = lambda result: None
    ) -> None:
        self._source, self._reload_s, self._on_reload = source, reload_s, on_reload
        self._seen: tuple[Any, str] | None = None  # of a folder: stamps of its files, and its version
        version, place = self._newest()
        self.current = self._load(version, place, None)
        self._before: Served | None = None
        self._refused: set[str] = set()
        self._trouble: str | None = None
        self._woken, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="champion", daemon=True)
        self._thread.start()

    def _newest(self) -> tuple[str, str]:
        """Version of what the source holds now, and where to load it from."""
        if self._source.startswith("models:/"):
            from whisper_router.serving.uri import model_version

            return model_version(self._source)
        folder = Path(self._source)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; `whisper-router run` packages a router")
        stamps = [(str(path), path.stat()) for path in sorted(folder.rglob("*"))]
        looks = [(name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stamps]
        if self._seen is None or self._seen[0] != looks:  # hashed only where something was written
            self._seen = looks, folder_sha256(folder)[:12]
        return self._seen[1], str(folder)

    @staticmethod
    def _load(version: str, place: str, before: Served | None) -> Served:
        router = Router.load(place)
        if before is not None:
            router.share_arms(before.router)
        _ = router.weak, router.strong
        return Served(router, version, _verdict(place))

    def wake(self) -> None:
        """Look at the source now."""
        self._woken.set()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping = True
        self._woken.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            woken = self._woken.wait(self._reload_s or None)
            self._woken.clear()
            if self._stopping:
                return
            if woken:
                self._refused.clear()
                self._trouble = None
            try:
                self._refresh()
                self._trouble = None
            except BaseException as error:  # a panic in Rust is no Exception; whatever it is, this goes on
                trouble = f"{type(error).__name__}: {error}"
                if self._trouble != trouble:  # said once, however often it is looked at
                    self._failed(f"the router stays at version {self.current.version}: {trouble}")
                self._trouble = trouble

    def _failed(self, message: str) -> None:
        logger.warning(message)
        self._on_reload("failed")

    def _refresh(self) -> None:
        version, place = self._newest()
        if version == self.current.version or version in self._refused:
            return
        current, before = self.current, self._before
        try:
            back = before is not None and before.version == version
            self.current = before if before and back else self._load(version, place, current)
        except BaseException as error:
            self._refused.add(version)  # and is not loaded again and again
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._failed(
                f"the router stays at version {current.version}; version {version} cannot be loaded: {reason}"
            )
            return
        self._before = current
        self._on_reload("swapped")
        logger.warning("the router is now version %s", version)
