"""check: expectations on the manifest."""

import pandas as pd
from prefect import flow

from flows.stage import main
from whisper_router.checks.run import run_checks
from whisper_router.checks.suites import manifest_frame, manifest_suite
from whisper_router.params import load_params
from whisper_router.paths import CHECKS, DOCS, MANIFEST
from whisper_router.progress import say


@flow(name="check")
def check() -> None:
    """Fail, by name, on an expectation that the manifest does not meet."""
    params = load_params()
    manifest = pd.read_parquet(MANIFEST)
    frame, expected = manifest_frame(manifest), manifest_suite(manifest)
    docs = DOCS / "manifest"
    verdicts = run_checks("manifest", frame, expected, params.checks, CHECKS / "manifest.json", docs)
    held = sum(verdict.passed for verdict in verdicts)
    say(f"check: {held} of {len(verdicts)} expectations hold on {len(frame)} utterances; {docs}/index.html")


if __name__ == "__main__":
    main(check)
