"""OpenAI's Python client against `whisper-router serve`. Usage: python examples/sdk.py FILE [URL]"""

import os
import sys
from pathlib import Path

from openai import OpenAI


def main(file: Path, url: str) -> None:
    """Transcribe a file and say which model did."""
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("WHISPER_ROUTER_SERVE_API_KEY", "none"))
    made = client.audio.transcriptions.create(model="routed", file=file, response_format="verbose_json")
    route = (made.model_extra or {})["whisper_router"]
    print(made.text)
    score, threshold, saved = route["score"], route["threshold"], route["cost"]["saved"]
    how = f"{route['arm']}; score {score:.3f}, threshold {threshold:.3f}"
    print(f"by {route['model']} ({how}); MACs saved: {saved:.0%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000")
