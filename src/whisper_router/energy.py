"""Joules of a stretch of work, by codecarbon's offline tracker."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Reading:
    """Energy of the whole machine, memory included, over a stretch of work.

    ``kind`` is ``measured (RAPL)`` where the processor has counters that can be read, else ``estimated``.
    """

    joules: float
    kind: str
    how: str


def can_measure() -> bool:
    """Whether codecarbon is installed."""
    return find_spec("codecarbon") is not None


def measure_joules(work: Callable[[], object]) -> Reading:
    """Run ``work`` and say what energy the machine took meanwhile, by counters where it has them."""
    os.environ.setdefault("CODECARBON_LOG_LEVEL", "error")
    from codecarbon import OfflineEmissionsTracker

    # It asks for a country; only emissions depend on it.
    tracker = OfflineEmissionsTracker(country_iso_code="USA", save_to_file=False, measure_power_secs=1)
    tracker.start()
    try:
        work()
    finally:
        tracker.stop()
    found, sources = tracker.final_emissions_data, [str(part) for part in tracker._conf["hardware"]]
    # The arms run on the processor: without its counters the figure is a model's, whatever a GPU counts.
    counters = [name for name in ("Rapl", "GPU") if any(name in source for source in sources)]
    names = " and ".join({"Rapl": "RAPL", "GPU": "NVML"}[name] for name in counters)
    kind = f"measured ({names})" if "Rapl" in counters else "estimated"
    how = (
        f"codecarbon {found.codecarbon_version}: {', '.join(sources)}; processor {found.cpu_power:.1f} W, "
        f"memory {found.ram_power:.1f} W (always estimated)"
    )
    return Reading(found.energy_consumed * J_PER_KWH, kind, how)
