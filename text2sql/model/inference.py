"""The trained model as one set of plain weights.

For inference the 4-bit base weights are dequantized once, which loses nothing (training multiplies by exactly these
values), and the adapter is added to them (W + s B A), so that a token costs one product a layer instead of three and
no dequantization. Where the plain weights do not fit on the GPU beside the cache, model and adapter stay as trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.model.adapter import check_adapter
from text2sql.model.base import QuantizationOptions, load_model, with_adapter
from text2sql.model.device import pick_device, pick_dtype
from text2sql.model.memory import parameter_count

if TYPE_CHECKING:
    import torch

#: Share of a GPU's memory that plain weights may take; the rest is for the cache and activations.
WEIGHTS_SHARE = 0.6


def load_for_inference(
    base: Path, quantization: QuantizationOptions, adapter: Path | None, dtype: str = "auto", device: str | None = None
) -> Any:
    """The model of `load_model`, as plain weights with the adapter merged into them where they fit the device."""
    import dataclasses

    import torch

    if adapter is not None:
        check_adapter(adapter)
    device = device or pick_device()
    chosen = pick_dtype(quantization, device) if dtype == "auto" else getattr(torch, dtype)
    computing = dataclasses.replace(quantization, compute_dtype=str(chosen).split(".")[1])
    if quantization.bits is not None and not _fits(base, chosen, device):
        return load_model(base, computing, adapter, device).eval()
    # Loaded in float32: what the 4-bit codes stand for, and what the adapter adds, is rounded once, at the end.
    exact = dataclasses.replace(quantization, compute_dtype="float32") if device == "cpu" else computing
    model = load_model(base, exact, None, device)
    if quantization.bits is not None:
        dequantize(model)
    if adapter is not None:
        model = with_adapter(model, adapter, base).merge_and_unload()
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

    if device == "cpu":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return parameter_count(base) * dtype.itemsize <= WEIGHTS_SHARE * free
