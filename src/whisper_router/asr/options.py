"""Decode options of an arm: part of its identity."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ENCODER_FRAMES = 1500  # encoder frames of 30 s: 20 ms each
SAMPLES_PER_FRAME = 320
TEXT_CONTEXT = 448  # tokens that Whisper's decoder holds

Engine = Literal["torch", "ctranslate2", "hf"]
Dtype = Literal["float32", "bfloat16", "int16", "int8"]
DTYPES: dict[Engine, tuple[Dtype, ...]] = {
    "torch": ("float32", "bfloat16"),
    "ctranslate2": ("float32", "int16", "int8"),
    "hf": ("float32", "bfloat16"),
}


class DecodeOptions(BaseModel):
    """How an arm decodes: greedy or by beam search, then Whisper's fallback on repetition and low confidence.

    The encoder sees the audio plus a margin, at least a floor, at most 30 s. An utterance whose hypothesis
    loops or is improbable is encoded again at 30 s, then decoded at rising temperatures; the last attempt
    counts, as in Whisper. A window without speech has an empty text: digital silence, under 0.1 s, and what
    the voice detector hears no voice in are not encoded; Whisper's own rule takes one decoding.

    Engine ``torch`` is openai-whisper's modules and the reference; its ``dtype`` is the encoder's, the
    decoder stays in float32. Engine ``ctranslate2`` is faster (extra ``fast``); its encoder gives the last
    layer only, unless ``encoder_dtype`` puts torch's encoder before CTranslate2's decoder. Engine ``hf`` runs
    a CTC model of another family (extra ``hf``), without retries and without Whisper's rule of no speech.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Engine = "torch"
    dtype: Dtype = "float32"
    encoder_dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="ctranslate2 only: torch's encoder in this type; null: CTranslate2's own"
    )
    beam_size: int = Field(1, ge=1, le=16, description="1: greedy; more: ctranslate2 only")
    language: str = "en"
    floor_frames: int = Field(500, ge=50, le=ENCODER_FRAMES, description="fewest encoder frames of 20 ms")
    margin_frames: int = Field(128, ge=0, le=ENCODER_FRAMES, description="frames of silence after the audio")
    step_frames: int = Field(
        100, ge=1, le=ENCODER_FRAMES, description="contexts are rounded up to a multiple"
    )
    max_tokens_per_s: float = Field(12.0, gt=0, description="a hypothesis stops at this rate plus 24 tokens")
    temperatures: tuple[float, ...] = Field((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), min_length=1)
    compression_ratio_threshold: float = Field(2.4, gt=1)
    logprob_threshold: float = Field(-1.0, lt=0)
    no_speech_threshold: float | None = Field(
        0.6,
        ge=0,
        le=1,
        description="a text under logprob_threshold is dropped where the decoder's probability of no speech "
        "is above this, and is not tried again, as in Whisper; null: never",
    )
    voice_threshold: float | None = Field(
        0.3,
        gt=0,
        lt=1,
        description="a window with under 0.1 s of voice, by Silero's detector at this probability, is not "
        "decoded; null: all are",
    )

    @model_validator(mode="after")
    def _greedy_first(self) -> "DecodeOptions":
        if self.temperatures[0] != 0 or list(self.temperatures) != sorted(set(self.temperatures)):
            raise ValueError(f"temperatures {self.temperatures}: start with 0.0 and rise")
        return self

    @model_validator(mode="after")
    def _fits_engine(self) -> "DecodeOptions":
        if self.dtype not in DTYPES[self.engine]:
            raise ValueError(
                f"dtype {self.dtype}: engine {self.engine} takes {' or '.join(DTYPES[self.engine])}"
            )
        if self.engine != "ctranslate2" and self.encoder_dtype is not None:
            raise ValueError(
                f"encoder_dtype {self.encoder_dtype}: for engine {self.engine} set dtype, and leave this out"
            )
        if self.engine != "ctranslate2" and self.beam_size > 1:
            raise ValueError(
                f"beam_size {self.beam_size}: engine {self.engine} is greedy; set ctranslate2, or 1 here"
            )
        return self

    def context(self, samples: int) -> int:
        """Encoder frames for that many samples at 16 kHz: a function of the utterance alone."""
        frames = max(self.floor_frames, -(-samples // SAMPLES_PER_FRAME) + self.margin_frames)
        return min(-(-frames // self.step_frames) * self.step_frames, ENCODER_FRAMES)

    def token_limit(self, samples: int, text_context: int) -> int:
        """Most text tokens: half the decoder's context, as in Whisper, or those of the fastest speech."""
        seconds = samples / SAMPLES_PER_FRAME / 50
        return min(text_context // 2, 24 + round(self.max_tokens_per_s * seconds))
