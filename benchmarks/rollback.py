"""Seconds until a running service serves the version that a rollback or a promotion made the champion.

    whisper-router serve &                 # models:/whisper-router@champion, with two versions or more
    python benchmarks/rollback.py --url http://127.0.0.1:8000 --repeats 6

Rolls the champion back and promotes it again each time, so that it serves at the end as before. The clock
starts when the registry has moved the alias; the service is asked which version it serves, not for a
transcript.
"""

import argparse
import time

import httpx
import numpy as np

from whisper_router.promotion import champion, promote, registry, rollback


def seconds_until(url: str, version: str) -> float:
    """Seconds until the service says that it serves a version."""
    start = time.perf_counter()
    while True:
        (first, *_) = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
        if first["whisper_router"]["version"] == version:
            return time.perf_counter() - start
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--repeats", type=int, default=6)
    arguments = parser.parse_args()
    client, found = registry(), {"rollback": [], "promotion": []}
    serving = champion(client)
    if serving is None:
        parser.error("nothing is registered as champion")
    for _ in range(arguments.repeats):
        rollback("benchmark")
        found["rollback"].append(seconds_until(arguments.url, str(champion(client))))
        promote(serving, "benchmark")
        found["promotion"].append(seconds_until(arguments.url, serving))
    for name, seconds in found.items():
        print(f"{name}: median {np.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
