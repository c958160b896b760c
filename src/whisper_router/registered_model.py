"""Run by its path: one registered model over WAV files, with the code that was logged with it.

    python -P registered_model.py URI FOLDER RESULTS

Appends a JSON line a file to RESULTS as soon as it is done; what stands there is not done again. It imports
nothing of this project, so that the model's own whisper_router is the one that is loaded.
"""

import json
import sys
import time
from pathlib import Path


def main(uri: str, folder: str, results: str) -> None:
    """Transcribe each file by itself; the seconds are the wall's, model loading left out."""
    import mlflow
    import pandas as pd

    sys.dont_write_bytecode = True  # a .pyc in the model's folder is code that nobody registered
    path = Path(results)
    lines = path.read_text().splitlines() if path.is_file() else []
    done = {json.loads(line)["file"] for line in lines}
    todo = [file for file in sorted(Path(folder).glob("*.wav")) if file.name not in done]
    if not todo:
        return
    model = mlflow.pyfunc.load_model(uri)
    model.predict(pd.DataFrame({"audio": [todo[0].read_bytes()]}))
    with path.open("a") as output:
        for file in todo:
            started = time.perf_counter()
            (row,) = model.predict(pd.DataFrame({"audio": [file.read_bytes()]})).to_dict("records")
            row = {name: row.get(name) for name in ("text", "model", "score", "threshold", "error")}
            seconds = time.perf_counter() - started
            output.write(json.dumps({"file": file.name, "seconds": seconds, **row}) + "\n")
            output.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
