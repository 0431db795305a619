"""A GGUF file as a folder of safetensors, configuration and tokenizer.

transformers reads GGUF: one tensor after the other, and the header once each for configuration, tokenizer and weights.
With a vocabulary of 150,000 that takes minutes, so a Qwen2 is read here: the header once, the tensors side by side, to
the same values bit by bit (tests/model/test_gguf_weights.py). Other architectures are left to transformers.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader, ReaderTensor
    from transformers import PreTrainedModel, Qwen2Config

#: rows of a matrix that are dequantized at a time, which bounds the memory that they take in float32
ROWS = 8192
#: the names of GGUF's matrices with a row for each token
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


def convert_gguf(gguf: Path, target: Path, dtype: str, tied: bool) -> None:
    """Write the model in `gguf` to the folder `target`.

    Args:
        dtype: of the saved weights: float32 or bfloat16.
        tied: embedding and output are one matrix, as in the publisher's original. A file that holds both holds them in
            different precision; the output, which is the more precise, is taken for both.
    """
    import torch
    from gguf import GGUFReader
    from transformers import Qwen2ForCausalLM

    reader = GGUFReader(gguf)
    if _field(reader, "general.architecture") != "qwen2":
        _convert_by_transformers(gguf, target, getattr(torch, dtype))
        return
    with torch.device("meta"):
        model = Qwen2ForCausalLM(qwen2_config(reader, tied)).to(getattr(torch, dtype))
    model.load_state_dict(read_weights(reader, model, tied), strict=not tied, assign=True)
    model.tie_weights()
    model.save_pretrained(target)
    save_tokenizer(reader, target)


def _convert_by_transformers(gguf: Path, target: Path, dtype: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Not `load_in_4bit` or the like: a model that stays GGUF-quantized cannot be saved as safetensors.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=dtype
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def _field(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def qwen2_config(reader: GGUFReader, tied: bool) -> Qwen2Config:
    """The configuration in the header."""
    from transformers import Qwen2Config

    def number(name: str) -> Any:
        return _field(reader, f"qwen2.{name}")

    return Qwen2Config(
        vocab_size=len(_field(reader, "tokenizer.ggml.tokens")),
        hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=number("attention.head_count"),
        num_key_value_heads=number("attention.head_count_kv"),
        max_position_embeddings=number("context_length"),
        rms_norm_eps=float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),  # a float32 in the file
        rope_parameters={"rope_type": "default", "rope_theta": number("rope.freq_base")},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
    )


def read_weights(reader: GGUFReader, model: PreTrainedModel, tied: bool) -> dict[str, torch.Tensor]:
    """The weights by the names of `model`, in its type; without the output's own where it is tied."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.QWEN2, model.config.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sources = {}
    for name in model.state_dict():
        if tied and name == "lm_head.weight":
            continue
        stem, _, suffix = name.rpartition(".")
        source = f"{names.get_name(stem)}.{suffix}"
        sources[name] = OUTPUT if tied and source == EMBEDDING and OUTPUT in tensors else source
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        values = pool.map(lambda source: dequantized(tensors[source], model.dtype), sources.values())
        return dict(zip(sources, values, strict=True))


def dequantized(tensor: ReaderTensor, dtype: torch.dtype) -> torch.Tensor:
    """The values of a tensor; of a matrix some rows at a time."""
    import numpy
    import torch
    from gguf.quants import dequantize

    shape = [int(size) for size in reversed(tensor.shape)]
    out = torch.empty(shape, dtype=dtype)
    for first in range(0, shape[0], ROWS):
        rows = numpy.require(dequantize(tensor.data[first : first + ROWS], tensor.tensor_type), requirements="CW")
        out[first : first + ROWS] = torch.from_numpy(rows.reshape(-1, *shape[1:]))
    return out


def save_tokenizer(reader: GGUFReader, target: Path) -> None:
    """Qwen2's tokenizer out of the header's vocabulary and merges; rows of the embedding without a token have none."""
    from gguf import TokenType
    from transformers import AddedToken, Qwen2Tokenizer

    tokens, merges = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.merges")
    kinds = _field(reader, "tokenizer.ggml.token_type")
    named = (TokenType.NORMAL, TokenType.CONTROL, TokenType.USER_DEFINED)
    vocabulary = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in named}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(merge.split(" ")) for merge in merges],
        eos_token=tokens[_field(reader, "tokenizer.ggml.eos_token_id")],
        pad_token=tokens[_field(reader, "tokenizer.ggml.padding_token_id")],
        unk_token=None,
    )
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED):
            tokenizer.add_tokens(AddedToken(token, special=kind == TokenType.CONTROL, normalized=False))
    if misplaced := [
        token for token in tokenizer.get_added_vocab() if tokens[tokenizer.get_added_vocab()[token]] != token
    ]:
        raise AssertionError(f"tokens at other places than in the file: {misplaced[:5]}")
    tokenizer.chat_template = _field(reader, "tokenizer.chat_template")
    tokenizer.save_pretrained(target)
