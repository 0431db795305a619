"""A model as a GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio), and llama.cpp to answer with it.

The file is written with the `gguf` package (llama.cpp's own), quantized by llama.cpp's own `llama_model_quantize`, and
run by llama.cpp; the last two come compiled with the wheel `cyllama`, which names the functions as llama.h does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from text2sql.errors import UserError

#: `llama_ftype` of llama.h
QUANTIZATIONS = {"F16": 1, "Q8_0": 7, "Q4_K_M": 15}
#: GGUF's names of the architectures; the layers of others are not known to be the same
ARCHITECTURES = {"qwen2": "qwen2", "llama": "llama", "mistral": "llama"}
#: tokens evaluated in one call
BATCH = 512


def write_gguf(model: Any, folder: Path, target: Path, template: str, bos: bool) -> None:
    """Write a transformers model with plain weights to `target`: matrices in float16, the rest in float32.

    Args:
        folder: where its tokenizer is.
        template: the chat template (Jinja) that frames one user message as in training.
        bos: whether llama.cpp has to put BOS before a prompt.

    Raises:
        UserError: the architecture or the tokenizer is none that can be written.
    """
    import gguf
    import numpy as np

    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise UserError(f"a {config.model_type} model cannot be exported", f"one of {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(target, architecture)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(target.stem)
    writer.add_file_type(QUANTIZATIONS["F16"])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_add_bos_token(bos)
    _add_tokenizer(writer, folder, config.vocab_size, template)
    ids = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(ids[architecture], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            values = _interleaved(values, heads)
        values = values.astype(np.float16) if values.ndim > 1 else values
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows of a query or key projection in the order of llama.cpp's rotary embedding: it turns neighbours (2i, 2i + 1)
    where transformers turns (i, i + half)."""
    rows, *rest = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: Any, folder: Path, size: int, template: str) -> None:
    """The vocabulary with the kinds of its tokens, merges, special tokens and template."""
    import gguf
    from gguf.vocab import LlamaHfVocab

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if content["model"].get("byte_fallback"):
        words = list(LlamaHfVocab(folder).all_tokens())
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([word for word, _, _ in words])
        writer.add_token_scores([score for _, score, _ in words])
        writer.add_token_types([kind for _, _, kind in words])
    else:
        kinds = [gguf.TokenType.UNUSED] * size
        tokens = [f"[PAD{number}]".encode() for number in range(size)]
        for token, number in content["model"]["vocab"].items():
            tokens[number], kinds[number] = token.encode(), gguf.TokenType.NORMAL
        for entry in content["added_tokens"]:
            kind = gguf.TokenType.CONTROL if entry["special"] else gguf.TokenType.USER_DEFINED
            tokens[entry["id"]], kinds[entry["id"]] = entry["content"].encode(), kind
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split_of(content["pre_tokenizer"]))
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=not content["model"].get("byte_fallback"), n_vocab=size)
    special.chat_template = template
    special.add_special_token.pop("bos", None)  # written above
    special.add_to_gguf(writer, quiet=True)


def _split_of(pre_tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which text is cut into words before merges are applied."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    forms = [step["type"] for step in steps]
    if "Digits" in forms:
        return "smollm"
    if "Split" in forms:
        return "qwen2"
    if forms == ["ByteLevel"]:
        return "gpt-2"
    raise UserError(f"a tokenizer that splits by {forms} cannot be exported", "export --merged instead")


def quantize(source: Path, target: Path, quantization: str) -> None:
    """Write the GGUF file `source` (F16) to `target` in another precision, by llama.cpp's own routine.

    Raises:
        UserError: llama.cpp is not installed, or it failed, most likely for lack of room.
    """
    llama = llama_cpp()
    options = llama.LlamaModelQuantizeParams()
    options.nthread, options.ftype = os.cpu_count() or 1, QUANTIZATIONS[quantization]
    try:
        llama.model_quantize(str(source), str(target), options)
    except RuntimeError as error:
        target.unlink(missing_ok=True)
        raise UserError(f"{target} could not be written: {error}", "look for room on the disk, then again") from error


def llama_cpp() -> Any:
    """llama.cpp's functions.

    Raises:
        UserError: it is not installed.
    """
    try:
        from cyllama.llama import llama_cpp as library
    except ImportError as error:
        raise UserError(f"llama.cpp is not installed ({error})", "pip install cyllama==0.2.18") from error
    library.disable_logging()  # hundreds of lines about each model
    return library


class LlamaCpp:
    """A GGUF file with room for `context` tokens, answering greedily, until it is closed. The tokens that a prompt
    shares with the one before stay in the cache."""

    def __init__(self, path: Path, context: int) -> None:
        self.llama = llama_cpp()
        self.model = self.llama.LlamaModel(path_model=str(path), verbose=False)
        options = self.llama.LlamaContextParams()
        options.n_ctx, options.n_batch = context, BATCH
        options.n_threads = options.n_threads_batch = os.cpu_count() or 1
        self.context = self.llama.LlamaContext(self.model, options, verbose=False)
        self.sampler = self.llama.LlamaSampler(self.llama.LlamaSamplerChainParams())
        self.sampler.add_greedy()
        self.vocab = self.model.get_vocab()
        self.cached: list[int] = []

    def close(self) -> None:
        """Free the memory of weights and cache."""
        self.context.close()
        self.model.close()

    def tokenize(self, text: str) -> list[int]:
        """As for a prompt from outside: names of special tokens mean these tokens; BOS where the model has one."""
        return list(self.vocab.tokenize(text, True, True))

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The tokens after `prompt` up to the end of the turn (which is left out), or `max_new_tokens`."""
        pairs = enumerate(zip(self.cached, prompt[:-1], strict=False))
        common = next((at for at, (a, b) in pairs if a != b), min(len(self.cached), len(prompt) - 1))
        self.context.memory_seq_rm(0, common, -1)
        self.cached = list(prompt[:common])
        self._evaluate(prompt[common:])
        answer: list[int] = []
        while len(answer) < max_new_tokens:
            token = self.sampler.sample(self.context, -1)
            if self.vocab.is_eog(token):
                break
            answer.append(token)
            self._evaluate([token])
        return answer

    def _evaluate(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), BATCH):
            part = list(tokens[start : start + BATCH])
            self.context.decode(self.llama.llama_batch_get_one(part, len(self.cached)))
            self.cached += part
