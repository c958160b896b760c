"""check: expectations on the manifest."""

import pandas as pd
from prefect import flow

from flows.stage import main
from whisper_router.checks.run import run_checks
from whisper_router.checks.suites import MANIFEST as EXPECTED
from whisper_router.checks.suites import manifest_frame
from whisper_router.params import load_params
from whisper_router.paths import CHECKS, DOCS, MANIFEST


@flow(name="check")
def check() -> None:
    """Fail, by name, on an expectation that the manifest does not meet."""
    params = load_params()
    frame = manifest_frame(pd.read_parquet(MANIFEST))
    docs = DOCS / "manifest"
    verdicts = run_checks("manifest", frame, EXPECTED, params.checks, CHECKS / "manifest.json", docs)
    held = sum(verdict.passed for verdict in verdicts)
    print(f"check: {held} of {len(verdicts)} expectations hold on {len(frame)} utterances; {docs}/index.html")


if __name__ == "__main__":
    main(check)
