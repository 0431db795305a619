"""The stage base_model, and what else a stage reads of the user's: never from the folder that it empties."""

import pytest

from stages import base_model, source
from stages.base_model import BASE
from text2sql.config import compose, parse_yaml
from text2sql.errors import UserError
from text2sql.model.recipe import read_recipe


@pytest.mark.parametrize("place", ["models/base", "models", "models/base/inner", "models/linked"])
def test_a_source_that_is_its_own_target_is_refused_and_kept(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    BASE.mkdir(parents=True)
    (tmp_path / "models/linked").symlink_to("base")
    config = tmp_path / place / "config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text("{}")
    model = {"name": "own", "source": "path", "template": "chatml", "path": place}
    monkeypatch.setattr(base_model, "read_params", lambda: {"model": model})
    with pytest.raises(UserError, match=f"model.path={place}"):
        base_model.main()
    assert config.read_text() == "{}"


@pytest.mark.parametrize(
    ("overrides", "read", "key"),
    [
        (["data=spider", "data.source.archive=data/source/spider.zip"], source.read_options, "data.source.archive"),
        (["data=sql_eval", "data.source.folder=data"], source.read_options, "data.source.folder"),
        (["data=custom", "data.source.pairs=data/source/p.csv"], source.read_options, "data.source.pairs"),
        (["model=tiny", "train.init=models/adapter"], read_recipe, "train.init"),
    ],
)
def test_other_inputs_in_an_output_are_refused_too(tmp_path, monkeypatch, overrides, read, key):
    params = parse_yaml(compose(overrides))
    monkeypatch.chdir(tmp_path)
    adapter = tmp_path / "models/adapter/adapter_config.json"
    adapter.parent.mkdir(parents=True)
    adapter.write_text("{}")
    with pytest.raises(UserError, match=f"^{key}="):
        read(params)
