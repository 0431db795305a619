"""How much of a training fits a GPU's memory: tokens of a forward pass, activations, dequantized weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from text2sql.model.base import QuantizationOptions

#: tokens of a pass, as `train.pack_tokens: auto` has them on a CPU, and at least and at most on a GPU
CPU_TOKENS, LEAST_TOKENS, MOST_TOKENS = 4096, 2048, 32768
#: share of a GPU's memory that the estimate may fill; what is not counted must fit the rest
SHARE = 0.8
#: bytes of a 4-bit weight with its block's constants
NF4_BYTES = 0.56


class Budget(NamedTuple):
    """`tokens` of a pack at most, and of a forward pass (0: a pass is one pack); whether activations are computed twice
    instead of kept (gradient checkpointing); whether 4-bit weights are kept as plain ones, too, instead of being
    dequantized at each use."""

    tokens: int
    pass_tokens: int
    checkpointing: bool
    keeps_weights: bool


def parameter_count(base: Path) -> int:
    """The numbers in the safetensors files of a folder."""
    import torch
    from safetensors import safe_open

    count = 0
    for file in base.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            count += sum(torch.Size(weights.get_slice(k).get_shape()).numel() for k in weights.keys())  # noqa: SIM118
    return count


def training_budget(
    base: Path,
    quantization: QuantizationOptions,
    pack_tokens: int | Literal["auto"],
    checkpointing: bool | Literal["auto"],
    total: int | None,
) -> Budget:
    """What fits `total` bytes of a GPU, which has nothing else to hold; None: a CPU, which keeps all.

    Weights are kept where 4,096 tokens fit beside them, and activations are where they fit beside the weights.
    `checkpointing: true` asks for the least memory: weights are not kept either.
    """
    if total is None:
        return Budget(CPU_TOKENS if pack_tokens == "auto" else pack_tokens, 0, checkpointing is True, True)
    wanted = CPU_TOKENS if pack_tokens == "auto" else min(pack_tokens, CPU_TOKENS)
    numbers = parameter_count(base)
    four_bits = quantization.bits == 4
    kept, twice = bytes_per_token(base)
    free = SHARE * total - numbers * (NF4_BYTES if four_bits else 2)
    keeps = four_bits and checkpointing is not True and free - 2 * numbers >= wanted * kept
    free -= 2 * numbers * keeps
    twice_over = free < wanted * kept if checkpointing == "auto" else checkpointing
    fits = int(free / (twice if twice_over else kept))
    tokens = max(LEAST_TOKENS, min(fits, MOST_TOKENS)) if pack_tokens == "auto" else pack_tokens
    return Budget(tokens, tokens, twice_over, keeps)


def attention_shape(config: Any) -> tuple[int, int, int]:
    """A model's attention heads, key heads, and their width."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, width


def bytes_per_token(base: Path) -> tuple[float, float]:
    """What a token of a pass takes in 16 bits: with all activations kept, and with gradient checkpointing.

    Counted for a decoder of Llama's kind: what its operations keep for their backward passes, and logits in float32 for
    a third of the tokens, the answers.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    heads, groups, width = attention_shape(config)
    rotated = width * (2 * heads + 3 * groups)  # before and after rotation
    layer = 2.0 * (6 * config.hidden_size + rotated + width * heads + 4 * config.intermediate_size)
    logits = 12 * config.vocab_size / 3
    return config.num_hidden_layers * layer + logits, 2 * config.num_hidden_layers * config.hidden_size + layer + logits
