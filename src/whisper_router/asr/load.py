"""Options -> an arm with its weights, on its engine."""

from dataclasses import asdict

from whisper.tokenizer import get_tokenizer

from whisper_router.asr.arm import Arm
from whisper_router.asr.engine import Decoder, Encoder
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.torch_engine import TorchDecoder, TorchEncoder
from whisper_router.asr.weights import Checkpoint, build_whisper, load_whisper, read_checkpoint
from whisper_router.cost import Dims

FIRST_MULTILINGUAL = 51865  # tokens of the multilingual vocabulary, with 99 languages


def load_arm(checkpoint: Checkpoint, options: DecodeOptions) -> Arm:
    """Load an arm's weights into its engine.

    Raises
    ------
    UserError
        The weights or the engine are not to be had.
    """
    dims, state = read_checkpoint(checkpoint)
    multilingual = dims.n_vocab >= FIRST_MULTILINGUAL
    tokenizer = get_tokenizer(
        multilingual,
        num_languages=99 + max(0, dims.n_vocab - FIRST_MULTILINGUAL),
        language=options.language,
        task="transcribe",
    )
    encoder: Encoder
    decoder: Decoder
    if options.engine == "torch":
        model = build_whisper(dims, state)
        encoder, decoder = TorchEncoder(model.encoder, options.dtype), TorchDecoder(model, tokenizer)
    else:
        from whisper_router.asr.ctranslate2_engine import CTranslate2Decoder, CTranslate2Encoder, load_model

        fast = load_model(asdict(dims), state, tokenizer, options.dtype)
        decoder = CTranslate2Decoder(
            fast, tokenizer, options.beam_size, lambda: TorchDecoder(load_whisper(checkpoint), tokenizer)
        )
        if options.encoder_dtype is None:
            encoder = CTranslate2Encoder(fast)
        else:
            encoder = TorchEncoder(build_whisper(dims, state).encoder, options.encoder_dtype)
    return Arm(dims, tokenizer, encoder, decoder, checkpoint.sha256, options)


def cost_dims(arm: Arm) -> dict[str, int]:
    """The sizes that the arm's cost depends on."""
    dims = arm.dims
    prompt = len(arm.tokenizer.sot_sequence_including_notimestamps)
    return asdict(
        Dims(dims.n_mels, dims.n_audio_state, dims.n_audio_layer, dims.n_text_layer, dims.n_vocab, prompt)
    )
