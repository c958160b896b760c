"""Energy is said to be measured only where the processor's own counters were read."""

import sys
from types import SimpleNamespace

import pytest

from whisper_router.energy import measure_joules

FOUND = SimpleNamespace(energy_consumed=2e-6, cpu_power=30.0, ram_power=10.0, codecarbon_version="3")


@pytest.mark.parametrize(
    ("hardware", "kind"),
    [
        (["RAM()", "CPU(Intel Rapl)"], "measured (RAPL)"),
        (["RAM()", "CPU(Intel Rapl)", "GPU() (A card)"], "measured (RAPL and NVML)"),
        (["RAM()", "CPU(Cpu Load)"], "estimated"),
        (["RAM()", "CPU(Cpu Load)", "GPU() (A card)"], "estimated"),
    ],
)
def test_kind_of_energy(monkeypatch, hardware, kind):
    calls = []

    class Tracker:
        def __init__(self, **_: object) -> None:
            self._conf, self.final_emissions_data = {"hardware": hardware}, FOUND

        def start(self) -> None:
            calls.append("start")

        def stop(self) -> None:
            calls.append("stop")

    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(OfflineEmissionsTracker=Tracker))
    reading = measure_joules(lambda: calls.append("work"))
    assert calls == ["start", "work", "stop"]
    assert reading.kind == kind
    assert reading.joules == pytest.approx(7.2)
    assert all(part in reading.how for part in (*hardware, "30.0 W", "10.0 W (always estimated)"))


def test_real_work_takes_energy():
    pytest.importorskip("codecarbon")
    reading = measure_joules(lambda: sum(range(2_000_000)))
    assert reading.joules > 0
    assert reading.kind == "estimated" or "RAPL" in reading.kind
