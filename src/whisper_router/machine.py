"""The machine that a measurement was made on."""

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from whisper_router.environment import cores

LIBRARIES = ("torch", "openai-whisper", "ctranslate2", "faster-whisper", "numpy", "codecarbon")


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine_name() -> str:
    """A name for files: processor and cores."""
    return f"{re.sub('[^a-z0-9]+', '-', cpu_model().lower()).strip('-')}-{cores()}-cores"


def describe_machine() -> dict[str, object]:
    """Processor, cores, memory, system and the versions of the libraries that compute."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions,
    }
