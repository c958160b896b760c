"""check: expectations on the manifest."""

import pandas as pd
from prefect import flow

from flows.stage import main
from whisper_router.checks import MANIFEST as EXPECTED
from whisper_router.checks import manifest_frame, run_checks
from whisper_router.paths import CHECKS, DOCS, MANIFEST


@flow(name="check")
def check() -> None:
    """Fail, by name, on an expectation that the manifest does not meet."""
    frame = manifest_frame(pd.read_parquet(MANIFEST))
    verdicts = run_checks("manifest", frame, EXPECTED, CHECKS / "manifest.json", DOCS / "manifest")
    print(f"check: {len(verdicts)} expectations hold on {len(frame)} utterances; {DOCS}/manifest/index.html")


if __name__ == "__main__":
    main(check)
