"""Settings that every entry point makes: no telemetry, state inside the project, quiet logs."""

import os
from pathlib import Path

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_SHOW_STARTUP_TIPS": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "DASK_LOGGING__DISTRIBUTED": "warning",
}

# For processes that train, before they start: glibc keeps large blocks instead of giving them back to the
# system and faulting them in again at the next batch (benchmarks/training.py).
KEEP_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # Prefect's server, Dask's scheduler: never behind a proxy


def prepare() -> None:
    """Set what is not set already; call it before prefect, mlflow or great_expectations is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(Path(".prefect").absolute()))
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = _with_loopback(os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "")


def _with_loopback(no_proxy: str) -> str:
    """What no proxy is asked for: what the user names, and what runs on this machine."""
    given = [host.strip() for host in no_proxy.split(",") if host.strip()]
    return ",".join(given if "*" in given else dict.fromkeys([*given, *LOOPBACK]))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
