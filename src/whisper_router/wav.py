"""Samples as the bytes of a file, for whoever takes files."""

import io

import soundfile

from whisper_router.audio import SAMPLE_RATE, Audio


def wav_bytes(audio: Audio) -> bytes:
    """A WAV file of 16 bits, mono, 16 kHz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
