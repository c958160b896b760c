"""Where the stages' outputs lie, from the project's folder."""

from pathlib import Path

DATA = Path("data")
AUDIO = DATA / "audio"  # made by ingest: the demo's speech
MANIFEST = DATA / "manifest.parquet"
REJECTED = DATA / "rejected.json"
CHECKS = DATA / "checks"
CHECKED = (CHECKS / "manifest.json", CHECKS / "labels.json")
DOCS = DATA / "docs"  # Data Docs: nothing depends on them
TRANSCRIPTS = DATA / "transcripts.parquet"
LABELS = DATA / "labels.parquet"
ARMS = DATA / "arms.json"
FEATURES = DATA / "features"
DECIDER = DATA / "decider"
POLICY = DATA / "policy"
ROUTER = DATA / "router"
METRICS = DATA / "metrics"
PLOTS = DATA / "plots"
REPORT = DATA / "report.html"
