"""Compose conf/ into params.yaml, as `dvc exp run` does (`make params`)."""

from __future__ import annotations

import sys
from pathlib import Path

from text2sql.files import write_text
from text2sql.stage import PARAMS


def compose(overrides: list[str] | None = None, conf: Path = Path("conf")) -> str:
    """The composition of conf/config.yaml with Hydra `overrides`, as YAML text."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf.resolve()), version_base=None):
        config = hydra_compose("config", overrides=overrides or [])
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


if __name__ == "__main__":
    write_text(PARAMS, compose(sys.argv[1:]))
    print(f"{PARAMS}: composed from conf/ ({' '.join(sys.argv[1:]) or 'default'})")
