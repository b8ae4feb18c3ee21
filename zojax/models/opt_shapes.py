"""The published sizes of OPT (2205.01068, and ``config.json`` of each checkpoint on the hub)."""

from zojax.models.opt import OPTConfig


def _published(hidden_size: int, num_layers: int, num_heads: int) -> OPTConfig:
    return OPTConfig(
        vocab_size=50272,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        ffn_dim=4 * hidden_size,
        max_position_embeddings=2048,
        # 350M alone normalises after its sublayers and embeds in a narrower space.
        word_embed_proj_dim=512 if hidden_size == 1024 else hidden_size,
        do_layer_norm_before=hidden_size != 1024,
    )


OPT_SHAPES = {
    "opt-125m": _published(768, 12, 12),
    "opt-350m": _published(1024, 24, 16),
    "opt-1.3b": _published(2048, 24, 32),
    "opt-2.7b": _published(2560, 32, 32),
    "opt-6.7b": _published(4096, 32, 32),
    "opt-13b": _published(5120, 40, 40),
    "opt-30b": _published(7168, 48, 56),
    "opt-66b": _published(9216, 64, 72),
}
"""Architectures by the name after ``facebook/`` on the hub."""
