"""The processor that trains and predicts: which it is, what it multiplies natively, how much memory it has taken."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from text2sql.model.base import QuantizationOptions


def pick_device() -> str:
    """`cuda:<this process's GPU>` where there is one, otherwise `cpu`."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def pick_dtype(quantization: QuantizationOptions, device: str) -> torch.dtype:
    """The configured compute dtype; `auto` is bfloat16 where the hardware multiplies it natively, else float32.

    On a CPU without AVX512-BF16 or AMX, bfloat16 is emulated and some ten times slower than float32.
    """
    import torch

    if quantization.compute_dtype != "auto":
        return getattr(torch, quantization.compute_dtype)
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    return torch.bfloat16 if native else torch.float32


def cpu_flags() -> set[str]:
    """The instruction sets of this CPU by Linux' names; empty on other systems."""
    return set(_cpu_info("flags").split())


def cpu_name() -> str:
    """The CPU's name, as Linux has it; elsewhere its architecture."""
    return _cpu_info("model name") or platform.machine()


def _cpu_info(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def device_name() -> str:
    """The name of the GPU, or of the CPU, that trains."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def describe_device() -> str:
    """`device_name` and, for a CPU, its threads."""
    import torch

    return device_name() + ("" if torch.cuda.is_available() else f", {torch.get_num_threads()} threads")


def peak_memory_bytes() -> int:
    """The most memory taken so far: of the GPU if there is one, otherwise of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> None:
    """Count the most memory taken from now on; on a CPU only with glibc and a /proc that may be written to."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif platform.libc_ver()[0] == "glibc":  # of Linux
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that malloc keeps: text2sql/model/process.py
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def total_memory_bytes() -> int:
    """The memory of the GPU if there is one, otherwise of the machine, or the part of it that a container may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    import psutil

    return min([psutil.virtual_memory().total, *cgroup_limits()])


def cgroup_limits(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The limits of memory, in bytes, of this process's control groups of Linux (version 1 or 2)."""
    for line in proc.read_text().split("\n") if proc.exists() else ():
        _, controllers, path = (line + "::").split(":")[:3]
        if not path or controllers not in ("", "memory"):
            continue
        mounted, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        own = mounted / path.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mounted) and (folder / name).exists():
                text = (folder / name).read_text().strip()
                if text.isdigit():  # "max": none
                    yield int(text)


def same_random_state() -> AbstractContextManager[None]:
    """Restores torch's random state on leaving: a training with validations in between is the same training."""
    import torch

    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))
