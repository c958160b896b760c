"""An encoder that stops after its first blocks, and goes on from there where its text is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from whisper.model import AudioEncoder

from whisper_router.asr.arm import Arm, log_mel
from whisper_router.asr.engine import Encoding
from whisper_router.asr.torch_engine import TorchEncoder
from whisper_router.audio import Audio
from whisper_router.errors import UserError


@dataclass(frozen=True)
class Started:
    """A batch after the first blocks of the encoder, every row at the same context."""

    mel: Tensor  # (batch, mels, 2 * frames)
    made: list[
        Tensor
    ]  # conv front end, then each block so far; (batch, frames, width), in the encoder's type

    @property
    def states(self) -> list[Tensor]:
        """The same in float32."""
        return [state.float() for state in self.made]

    def rows(self, index: Sequence[int]) -> "Started":
        """The same, of some rows only."""
        chosen = torch.tensor(list(index), dtype=torch.long)
        return Started(self.mel[chosen], [state[chosen] for state in self.made])


def torch_encoder(arm: Arm, blocks: int) -> AudioEncoder:
    """The modules of the arm's encoder.

    Raises
    ------
    UserError
        Its engine cannot stop between blocks, or it has no more than ``blocks``.
    """
    if not isinstance(arm.encoder, TorchEncoder):
        raise UserError(
            f"decode.engine {arm.options.engine} of the strong arm runs its encoder as a whole; for an "
            f"extractor with blocks: {blocks} set that engine to torch, or leave out blocks"
        )
    check_blocks(arm.sizes["audio_layers"], blocks)
    return arm.encoder._encoder


def check_blocks(layers: int, blocks: int) -> None:
    """Whether an encoder of so many layers can stop after ``blocks``.

    Raises
    ------
    UserError
        It cannot.
    """
    if blocks >= layers:
        raise UserError(
            f"blocks {blocks}: the strong encoder has {layers}; give fewer than {layers}, or leave blocks out"
        )


@torch.inference_mode()
def begin(arm: Arm, audios: Sequence[Audio], blocks: int | None) -> Started | Encoding:
    """Log-mel and encoding of utterances that share a context, up to the first blocks; None: all.

    Raises
    ------
    UserError
        The engine cannot stop there.
    """
    if blocks is None:
        return arm.encode_audio(audios)
    encoder = torch_encoder(arm, blocks)
    (context,) = {arm.options.context(audio.size) for audio in audios}
    mel = log_mel(audios, context, arm.n_mels)
    x = F.gelu(encoder.conv1(mel.to(encoder.conv1.weight.dtype)))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)  # (batch, frames, width)
    made = [(x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)]
    for block in encoder.blocks[:blocks]:
        made.append(block(made[-1]))
    return Started(mel, made)


@torch.inference_mode()
def whole(arm: Arm, started: Started | Encoding) -> Encoding:
    """The whole encoding, from where it was stopped."""
    if isinstance(started, Encoding):
        return started
    blocks = len(started.made) - 1
    encoder = torch_encoder(arm, blocks)
    earlier, x = started.made[:-1], started.made[-1]
    for block in encoder.blocks[blocks:]:
        earlier = [*earlier, x]
        x = block(x)
    return Encoding(started.mel, encoder.ln_post(x).float(), earlier)
