"""A small random Wav2Vec2 on disk."""

from pathlib import Path

import torch


def save_model(folder: Path, seed: int = 0, **change: object) -> Path:
    import transformers

    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        **change,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder
