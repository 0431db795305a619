"""What generates: the trained model as one set of plain weights, and the engines that run it behind one interface.

For inference the 4-bit base weights are dequantized once, which loses nothing (training multiplies by exactly these
values), and the adapter is added to them (W + s B A), so that a token costs one product a layer instead of three and
no dequantization. Where the plain weights do not fit on the GPU beside the cache, model and adapter stay as trained.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from text2sql.errors import UserError
from text2sql.model.adapter import check_adapter
from text2sql.model.base import QuantizationOptions, load_model, load_tokenizer
from text2sql.model.device import pick_device, pick_dtype

if TYPE_CHECKING:
    import torch

    from text2sql.model.constraint import Constraint
    from text2sql.model.generation import Generation, GenerationOptions

EngineName = Literal["shared_prefix", "plain", "vllm"]
#: Share of a GPU's memory that plain weights may take; the rest is for the cache and activations.
WEIGHTS_SHARE = 0.6


class Engine(Protocol):
    """Continues prompts (token ids)."""

    #: for the record
    device: str
    dtype: str
    #: whether a text is the same whatever is generated beside it
    exact: bool
    #: the longest sequence that the model takes, in tokens
    positions: int
    tokenizer: Any

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        seeds: Sequence[str | None] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """As `generation.stream`."""
        ...


def load_engine(
    name: EngineName, base: Path, quantization: QuantizationOptions, adapter: Path | None, dtype: str = "auto"
) -> Engine:
    """The model in `base`, with `adapter` where one is given, in the engine `name`.

    Args:
        dtype: of the plain weights: float32, bfloat16, float16, or auto (as `pick_dtype`).

    Raises:
        UserError: the model or adapter is missing, or the engine is not installed.
    """
    device = pick_device()
    if name == "vllm":
        return VllmEngine(base, quantization, adapter, dtype)
    model = load_for_inference(base, quantization, adapter, dtype, device)
    return TransformersEngine(model, load_tokenizer(base), shared=name == "shared_prefix")


def load_for_inference(
    base: Path, quantization: QuantizationOptions, adapter: Path | None, dtype: str = "auto", device: str | None = None
) -> Any:
    """The model of `load_model`, as plain weights with the adapter merged into them where they fit the device."""
    import dataclasses

    import torch

    if adapter is not None and not (adapter / "adapter_config.json").exists():
        raise UserError(f"there is no adapter in {adapter}", "run `dvc repro train`, or predict with --zero-shot")
    device = device or pick_device()
    chosen = pick_dtype(quantization, device) if dtype == "auto" else getattr(torch, dtype)
    if adapter is not None:
        check_adapter(adapter)
    if quantization.bits is not None and not _fits(base, chosen, device):
        return load_model(base, quantization, adapter, device).eval()
    # Loaded in float32: what the 4-bit codes stand for, and what the adapter adds, is rounded once, at the end.
    exact = dataclasses.replace(quantization, compute_dtype="float32" if device == "cpu" else str(chosen).split(".")[1])
    model = load_model(base, exact, None, device)
    if quantization.bits is not None:
        dequantize(model)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=False).merge_and_unload()
    return model.to(chosen).eval()


def dequantize(model: torch.nn.Module) -> None:
    """Replace bitsandbytes' 4-bit layers by plain ones with the weights that their codes stand for.

    Before the first forward pass only: on some CPUs that one reorders the codes for a kernel of its own, with other
    results. (transformers' own `dequantize` goes through bfloat16.)
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from torch import nn

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            plain.weight = nn.Parameter(weight, requires_grad=False)
            plain.bias = layer.bias
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, plain)
    # The configuration still says that it is quantized: PEFT would look for 4-bit layers.
    for key in ("hf_quantizer", "quantization_method"):
        vars(model).pop(key, None)
    vars(model.config).pop("quantization_config", None)
    for key in ("is_loaded_in_4bit", "is_quantized"):
        setattr(model, key, False)


def _fits(base: Path, dtype: torch.dtype, device: str) -> bool:
    """Whether the plain weights take no more than their share of the GPU's free memory; a CPU is taken to be large."""
    import torch
    from safetensors import safe_open

    if device == "cpu":
        return True
    numbers = 0
    for file in base.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            numbers += sum(torch.Size(weights.get_slice(k).get_shape()).numel() for k in weights.keys())  # noqa: SIM118
    free, _ = torch.cuda.mem_get_info(device)
    return numbers * dtype.itemsize <= WEIGHTS_SHARE * free


class TransformersEngine:
    """A transformers model: by shared prefixes, or plainly by its own `generate` (greedy only)."""

    def __init__(self, model: Any, tokenizer: Any, shared: bool = True) -> None:
        import torch

        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.model, self.tokenizer, self.shared = model, tokenizer, shared
        self.device, self.dtype = str(weight.device), str(weight.dtype).removeprefix("torch.")
        self.exact = shared and weight.dtype == torch.float32
        self.positions = model.config.max_position_embeddings

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        seeds: Sequence[str | None] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        from text2sql.model import generation

        if self.shared:
            yield from generation.stream(self.model, self.tokenizer, prompts, options, seeds, constraints)
            return
        if any(seed is not None for seed in seeds or ()) or any(constraints or ()):
            raise UserError("engine plain neither samples nor constrains", "set predict.engine=shared_prefix")
        for first in range(0, len(prompts), options.batch_size):
            batch = prompts[first : first + options.batch_size]
            yield from enumerate(generation.plain(self.model, self.tokenizer, batch, options), start=first)


class VllmEngine:
    """vLLM, where it is installed: for GPUs and large models. It keeps prefixes in its own cache.

    It is given the merged weights as a folder, so that it runs exactly what the other engines run.
    """

    exact = False

    def __init__(self, base: Path, quantization: QuantizationOptions, adapter: Path | None, dtype: str) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError("vLLM is not installed", "pip install vllm, or set predict.engine=shared_prefix")
        import vllm

        self.tokenizer = load_tokenizer(base)
        self.device = pick_device()
        with tempfile.TemporaryDirectory() as folder:
            # On the CPU, so that vLLM finds the GPU's memory free.
            merged = load_for_inference(base, quantization, adapter, dtype, device="cpu")
            merged.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            self.dtype = str(merged.dtype).removeprefix("torch.")
            self.positions = merged.config.max_position_embeddings
            del merged
            self.engine = vllm.LLM(model=folder, dtype=self.dtype, enable_prefix_caching=True, trust_remote_code=False)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        seeds: Sequence[str | None] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        import vllm

        from text2sql.model.generation import generation_of

        if any(constraints or ()):
            raise UserError("engine vllm does not constrain", "set predict.engine=shared_prefix")
        end = self.tokenizer.eos_token_id
        params = [
            vllm.SamplingParams(
                temperature=0.0 if seed is None else options.temperature,
                seed=None if seed is None else _number(seed),
                max_tokens=options.max_new_tokens,
                stop_token_ids=[end],
                logprobs=0,
                detokenize=False,
            )
            for seed in seeds or [None] * len(prompts)
        ]
        made = self.engine.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)
        for i, request in enumerate(made):
            out = request.outputs[0]
            tokens, finished = list(out.token_ids), out.finish_reason == "stop"
            if finished and tokens[-1:] != [end]:
                tokens.append(end)
            yield i, generation_of(self.tokenizer, tokens, finished, out.cumulative_logprob or 0.0)


def _number(seed: str) -> int:
    """A seed text as the 63-bit number that vLLM takes."""
    import hashlib

    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") >> 1
