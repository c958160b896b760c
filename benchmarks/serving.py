"""Throughput and latency of the HTTP service: several clients beside one -> docs/benchmark-serving.{md,json}.

    python benchmarks/serving.py --router data/router --audio FOLDER_OR_MANIFEST.jsonl

The clients and the server share the machine's cores. Each client sends the next recording when it has its
answer. Texts are compared with those of ``Router.transcribe``. A profile says where the workers' time goes.
"""

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from whisper_router.asr.arm import Arm
from whisper_router.environment import cores
from whisper_router.files import write_json, write_text
from whisper_router.machine import machine_name
from whisper_router.router import Router

OUT = Path("docs/benchmark-serving.json")
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


def recordings(audio: Path, count: int) -> list[Path]:
    """Recordings of a folder or a manifest, evenly spread over it."""
    if audio.is_dir():
        found = sorted(path for path in audio.rglob("*") if path.suffix in SUFFIXES)
    else:
        found = [audio.parent / json.loads(line)["audio"] for line in audio.read_text().splitlines()]
    return found[:: max(1, len(found) // count)][:count]


@contextmanager
def served(router: str, workers: int | None = None) -> Iterator[str]:
    """A server process; its address."""
    command = [sys.executable, "-c", "from whisper_router.cli import app; app()", "serve", "--port", "0"]
    command += ["--router", router, *(["--workers", str(workers)] if workers else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if " at http" not in line:
            raise SystemExit(f"the server did not start: {line}")
        yield line.split(" at ")[1].strip()
    finally:
        process.terminate()
        process.wait()


def load(url: str, files: list[Path], clients: int, seconds: float) -> dict[str, Any]:
    """Run clients for a while; requests that were begun in time are finished and counted."""
    data = [path.read_bytes() for path in files]
    order, lock = itertools.cycle(range(len(files))), threading.Lock()
    latencies: list[float] = []
    sound: list[float] = []
    texts: dict[int, set[str]] = {}
    errors: list[str] = []
    begun = time.monotonic()

    def client() -> None:
        with httpx.Client(timeout=300) as session:
            while time.monotonic() - begun < seconds:
                with lock:
                    i = next(order)
                sent = time.monotonic()
                answer = session.post(f"{url}/v1/audio/transcriptions", files={"file": ("a", data[i])})
                took = time.monotonic() - sent
                with lock:
                    if answer.status_code != 200:
                        errors.append(answer.text)
                        continue
                    latencies.append(took)
                    sound.append(float(answer.headers["x-whisper-router-duration-s"]))
                    texts.setdefault(i, set()).add(answer.json()["text"])

    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client) for _ in range(clients)]:
            future.result()
    took = time.monotonic() - begun
    return {
        "clients": clients,
        "seconds": round(took, 2),
        "requests": len(latencies),
        "errors": len(errors),
        "requests_per_s": round(len(latencies) / took, 3),
        "sound_per_s": round(sum(sound) / took, 2),
        "p50_s": round(float(np.quantile(latencies, 0.5)), 3),
        "p95_s": round(float(np.quantile(latencies, 0.95)), 3),
        "texts": {str(i): sorted(found) for i, found in sorted(texts.items())},
    }


def profile(router: Router, files: list[Path], batch: int) -> dict[str, float]:
    """Seconds of encoding and of decoding one after another and in batches, on one thread."""
    spent = {"encode": 0.0, "decode": 0.0}
    encode, decode = Arm.encode, Arm.decode

    def timed(name: str, method: Any) -> Any:
        def run(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                spent[name] += time.perf_counter() - begun

        return run

    torch.set_num_threads(1)
    made = {}
    Arm.encode, Arm.decode = timed("encode", encode), timed("decode", decode)  # type: ignore[method-assign]
    try:
        for size in (1, batch):
            spent.update(encode=0.0, decode=0.0)
            begun = time.perf_counter()
            for start in range(0, len(files), size):
                router.transcribe(files[start : start + size])
            total = time.perf_counter() - begun
            made |= {f"{name}_s_batch_{size}": round(value, 2) for name, value in spent.items()}
            made[f"total_s_batch_{size}"] = round(total, 2)
    finally:
        Arm.encode, Arm.decode = encode, decode  # type: ignore[method-assign]
    return made


def page(told: dict[str, Any]) -> str:
    """The figures as Markdown."""
    many, profiled, batch = told["runs"][1], told["profile"], told["batch"]
    columns = ("clients", "requests", "errors", "requests_per_s", "sound_per_s", "p50_s", "p95_s")
    rows = "\n".join("| " + " | ".join(str(run[name]) for name in columns) + " |" for run in told["runs"])
    gain = profiled["total_s_batch_1"] / profiled[f"total_s_batch_{batch}"]
    return f"""# The HTTP service under load

`python benchmarks/serving.py` on {told["machine"]}, whose {told["cores"]} cores the clients use too.
Router: {told["arms"]["weak"]} -> {told["arms"]["strong"]}, policy {told["policy"]};
{told["workers"]} workers on one thread each. {told["recordings"]} recordings of {told["mean_s"]:.1f} s on
average ({told["audio"]}) are sent round and round; each client sends its next request when it has its answer.

| clients | requests | errors | requests/s | seconds of sound a second | p50 s | p95 s |
|---|---|---|---|---|---|---|
{rows}

{many["clients"]} clients get **{told["ratio"]:.2f} times** the throughput of one at the same settings.
{told["equal"]} of {told["compared"]} texts are those of `Router.transcribe`.

## Where the time goes

{told["profiled"]} of the recordings through `Router.transcribe` on one thread, in seconds:

| | encoders | decoders | all |
|---|---|---|---|
| singly | {profiled["encode_s_batch_1"]} | {profiled["decode_s_batch_1"]} | {profiled["total_s_batch_1"]} |
| {batch} a call | {profiled[f"encode_s_batch_{batch}"]} | {profiled[f"decode_s_batch_{batch}"]} | \
{profiled[f"total_s_batch_{batch}"]} |

Batches alone make it {gain:.2f} times as fast on a core; the rest of the gain is the other cores.
A request runs on one thread, as all of the DAG does, so that its text does not depend on the number
of cores: one client alone leaves {told["cores"] - 1} of {told["cores"]} cores idle.
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--router", default="data/router")
    parser.add_argument("--audio", type=Path, default=Path("data/audio"))
    parser.add_argument("--recordings", type=int, default=48)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120, help="of the load by several clients")
    parser.add_argument("--alone", type=float, default=60, help="seconds of the load by one client")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    files = recordings(chosen.audio, chosen.recordings)
    router = Router.load(chosen.router)
    torch.set_num_threads(1)
    with served(chosen.router, chosen.workers) as url:
        load(url, files, 2, 3)
        runs = [load(url, files, 1, chosen.alone), load(url, files, chosen.clients, chosen.seconds)]
    expected = router.transcribe(files)
    compared = [(i, text) for run in runs for i, found in run.pop("texts").items() for text in found]
    few = files[:16]
    told = {
        "machine": machine_name(),
        "cores": cores(),
        "workers": chosen.workers or cores(),
        "router": chosen.router,
        "arms": {arm: getattr(router.description, arm).model for arm in ("weak", "strong")},
        "policy": router.policy.name,
        "recordings": len(files),
        "audio": chosen.audio.parent.name if chosen.audio.is_file() else chosen.audio.name,
        "mean_s": round(float(np.mean([one.duration_s for one in expected])), 2),
        "runs": runs,
        "ratio": round(runs[1]["sound_per_s"] / runs[0]["sound_per_s"], 3),
        "compared": len(compared),
        "equal": sum(expected[int(i)].text == text for i, text in compared),
        "profiled": len(few),
        "batch": 8,
        "profile": profile(router, few, 8),
    }
    write_json(chosen.out, told)
    write_text(chosen.out.with_suffix(".md"), page(told))
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
