"""Random models of each architecture that is trained, so small that a step takes milliseconds."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from text2sql.model.lora import LoraOptions, add_adapter

SIZE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2}  # fmt: skip
LORA = LoraOptions(r=4, lora_alpha=6.0)
BASES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZE, sliding_window=None)),
    "qwen2": lambda: with_biases(Qwen2ForCausalLM(Qwen2Config(**SIZE))),
}


def with_biases(model):
    """Biases of fresh layers are zero, which would hide that one is forgotten."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def adapted(base="llama", options=LORA):
    """A model with a random adapter: of a fresh one B is 0, and A without gradient."""
    torch.manual_seed(0)
    model = add_adapter(BASES[base](), options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2)
    return model
