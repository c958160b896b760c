"""A folder of audio to a table, by the registered model. Usage: python examples/folder.py FOLDER TABLE.csv

Run it in the project's folder, or set MLFLOW_TRACKING_URI. A file that is no audio gets its reason in the
column error; the others go on.
"""

import os
import sys
from pathlib import Path

import mlflow
import pandas as pd
from tqdm import tqdm

SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm"}
BATCH = 32


def main(folder: Path, table: Path) -> None:
    """Transcribe every recording below a folder."""
    mlflow.set_tracking_uri(
        os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlruns/mlflow.db').absolute()}"
    )
    model = mlflow.pyfunc.load_model("models:/whisper-router@champion")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    parts = []
    for start in tqdm(range(0, len(files), BATCH), unit="batch"):
        chosen = files[start : start + BATCH]
        made = model.predict(pd.DataFrame({"audio": [path.read_bytes() for path in chosen]}))
        made.insert(0, "file", [str(path.relative_to(folder)) for path in chosen])
        parts.append(made)
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    rows.to_csv(table, index=False)
    failed = int(rows["error"].notna().sum()) if len(rows) else 0
    print(f"{table}: {len(rows)} recordings, {failed} with an error")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
