"""The step decoder against openai-whisper's own forward pass."""

import pytest
import torch

from whisper_router.asr.attention import StepDecoder

TOKENS = 9


@pytest.fixture(scope="module", params=["english", "multilingual"])
def model(request, make_arm):
    return make_arm(request.param).decoder.model


@pytest.fixture(scope="module")
def encoded():
    return torch.randn(4, 37, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(50_000, (4, TOKENS), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def whole(model, tokens, encoded) -> tuple[torch.Tensor, torch.Tensor]:
    """States and logits of Whisper's decoder on all tokens at once."""
    states = []
    hook = model.decoder.ln.register_forward_hook(lambda module, inputs, output: states.append(output))
    logits = model.decoder(tokens, encoded)
    hook.remove()
    return states[0], logits


@torch.inference_mode()
@pytest.mark.parametrize("prompt", [1, 4, TOKENS])
def test_states_and_logits_equal_the_whole_sequence_at_once(model, encoded, tokens, prompt):
    states, logits = whole(model, tokens, encoded)
    decoder = StepDecoder(model, encoded, TOKENS)
    steps = [decoder.step(tokens[:, :prompt])]
    steps += [decoder.step(tokens[:, i : i + 1]) for i in range(prompt, TOKENS)]
    made = torch.cat(steps, dim=1)
    torch.testing.assert_close(made, states, atol=1e-4, rtol=1e-4)
    for i in range(TOKENS):
        torch.testing.assert_close(decoder.logits(made[:, i]), logits[:, i], atol=1e-3, rtol=1e-4)


@torch.inference_mode()
def test_kept_rows_go_on_as_if_alone(model, encoded, tokens):
    decoder = StepDecoder(model, encoded, TOKENS)
    decoder.step(tokens[:, :3])
    decoder.keep(torch.tensor([3, 1]))
    middle = decoder.step(tokens[[3, 1], 3:4])
    decoder.keep(torch.tensor([1]))
    last = decoder.step(tokens[[1], 4:5])
    states, _ = whole(model, tokens, encoded)
    torch.testing.assert_close(middle[:, 0], states[[3, 1], 3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last[:, 0], states[[1], 4], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_two_batches_may_run_in_turn_on_one_model(model, encoded, tokens):
    states, _ = whole(model, tokens, encoded)
    decoders = [StepDecoder(model, encoded[rows], TOKENS) for rows in ([0, 1], [2])]
    for i in range(3):
        made = [
            decoder.step(tokens[rows, i : i + 1])
            for decoder, rows in zip(decoders, ([0, 1], [2]), strict=True)
        ]
        torch.testing.assert_close(torch.cat(made)[:, 0], states[:3, i], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_several_tokens_after_others_are_refused(model, encoded, tokens):
    decoder = StepDecoder(model, encoded, TOKENS)
    decoder.step(tokens[:, :3])
    with pytest.raises(ValueError, match="one at a time"):
        decoder.step(tokens[:, 3:6])
