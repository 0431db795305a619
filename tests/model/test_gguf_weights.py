"""A Qwen2 out of GGUF has the values that transformers reads, and a tokenizer that splits as its own does."""

import gguf
import numpy
import pytest
import torch
from gguf import GGMLQuantizationType as Quantization
from gguf.quants import quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, Qwen2ForCausalLM

from text2sql.model.base import QuantizationOptions, load_model, load_tokenizer
from text2sql.model.gguf_weights import convert_gguf

WIDTH, INNER, BLOCKS, HEADS, GROUPS = 64, 96, 2, 4, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["s e", "l e", "se le", "c t", "sele ct"]


def vocabulary():
    """All bytes as byte-level BPE names them, the merged tokens, special tokens, and a row without a token."""
    from tokenizers.pre_tokenizers import ByteLevel

    plain = [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    types = [gguf.TokenType.NORMAL] * len(plain) + [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.UNUSED]
    return [*plain, *SPECIAL, "[PAD]"], types


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random Qwen2 as GGUF: matrices in several types, the output in another precision than the embedding."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokens, types = vocabulary()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(BLOCKS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")
    chance = numpy.random.default_rng(0)

    def add(name, *shape, kind=Quantization.Q8_0):
        values = chance.normal(0, 0.1, shape).astype("float32")
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), WIDTH, kind=Quantization.Q5_0)
    add("output.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    key = WIDTH // HEADS * GROUPS
    for block in range(BLOCKS):
        for name, size in (("attn_q", WIDTH), ("attn_k", key), ("attn_v", key)):
            add(f"blk.{block}.{name}.weight", size, WIDTH, kind=Quantization.Q5_0)
            add(f"blk.{block}.{name}.bias", size)
        add(f"blk.{block}.attn_output.weight", WIDTH, WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{block}.{name}.weight", WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{block}.{name}.weight", INNER, WIDTH, kind=Quantization.Q4_0)
        add(f"blk.{block}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def read_by_transformers(file):
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )


def test_the_values_are_those_that_transformers_reads(file, read_by_transformers, tmp_path):
    convert_gguf(file, tmp_path, "float32", tied=False)
    own = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = read_by_transformers.state_dict()
    assert own.state_dict().keys() == expected.keys()
    for name, values in own.state_dict().items():
        assert torch.equal(values, expected[name]), name
    ids = torch.arange(40)[None]
    assert torch.equal(own(ids).logits, read_by_transformers(ids).logits)


def test_a_tied_model_has_the_output_of_the_file_for_both(file, read_by_transformers, tmp_path):
    convert_gguf(file, tmp_path, "bfloat16", tied=True)
    model = load_model(tmp_path, QuantizationOptions(None, None, False, "float32"))
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    expected = read_by_transformers.lm_head.weight.to(torch.bfloat16).float()
    assert torch.equal(model.lm_head.weight, expected)
    assert not torch.equal(read_by_transformers.model.embed_tokens.weight.to(torch.bfloat16).float(), expected)


@pytest.mark.parametrize("text", ["select 'née' from t;", "<|im_start|>user\nselect<|im_end|>\n", "", "  \t 123 你"])
def test_the_tokenizer_splits_as_that_of_the_file(file, tmp_path, text):
    convert_gguf(file, tmp_path, "float32", tied=True)
    own = load_tokenizer(tmp_path)
    expected = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert own(text, add_special_tokens=False)["input_ids"] == expected(text, add_special_tokens=False)["input_ids"]
    assert own.decode(own(text)["input_ids"]) == text
    assert (own.bos_token, own.eos_token, own.pad_token) == (None, "<|im_end|>", "<|endoftext|>")
