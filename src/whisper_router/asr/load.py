"""Options -> an arm with its weights, on its engine."""

from dataclasses import asdict

from whisper.model import ModelDimensions
from whisper.tokenizer import Tokenizer, get_tokenizer

from whisper_router.asr.arm import Arm
from whisper_router.asr.engine import Decoder, Encoder
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.torch_engine import TorchDecoder, TorchEncoder
from whisper_router.asr.weights import Checkpoint, build_whisper, load_whisper, read_checkpoint
from whisper_router.cost import Dims
from whisper_router.errors import UserError

FIRST_MULTILINGUAL = 51865  # tokens of the multilingual vocabulary, with 99 languages


def load_arm(checkpoint: Checkpoint, options: DecodeOptions) -> Arm:
    """Load an arm's weights into its engine.

    Raises
    ------
    UserError
        The weights or the engine are not to be had, or are not for each other.
    """
    if checkpoint.path.is_dir() != (options.engine == "hf"):
        raise UserError(
            f"{checkpoint.path} with decode.engine {options.engine}: a folder of Hugging Face needs engine "
            "hf, a Whisper checkpoint torch or ctranslate2"
        )
    return _load_ctc(checkpoint, options) if options.engine == "hf" else _load_whisper(checkpoint, options)


def _load_whisper(checkpoint: Checkpoint, options: DecodeOptions) -> Arm:
    dims, state = read_checkpoint(checkpoint)
    tokenizer = _tokenizer(dims, options.language)
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
    prompt = len(tokenizer.sot_sequence_including_notimestamps)
    sizes = Dims(dims.n_mels, dims.n_audio_state, dims.n_audio_layer, dims.n_text_layer, dims.n_vocab, prompt)
    return Arm(encoder, decoder, dims.n_mels, asdict(sizes), checkpoint.sha256, options)


def _tokenizer(dims: ModelDimensions, language: str) -> Tokenizer:
    return get_tokenizer(
        dims.n_vocab >= FIRST_MULTILINGUAL,
        num_languages=99 + max(0, dims.n_vocab - FIRST_MULTILINGUAL),
        language=language,
        task="transcribe",
    )


def _load_ctc(checkpoint: Checkpoint, options: DecodeOptions) -> Arm:
    from whisper_router.asr.hf_engine import HfDecoder, HfEncoder, frame_macs, load_model

    model, tokenizer, normalise = load_model(checkpoint.path)
    sizes = Dims(0, model.config.hidden_size, model.config.num_hidden_layers, 0, 0, 0, frame_macs(model))
    encoder, decoder = HfEncoder(model, normalise, options.dtype), HfDecoder(model, tokenizer)
    return Arm(encoder, decoder, 0, asdict(sizes), checkpoint.sha256, options)


def cost_dims(arm: Arm) -> dict[str, int]:
    """The sizes that the arm's cost depends on."""
    return dict(arm.sizes)
