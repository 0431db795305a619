"""conf/: everything composes and is commented, wrong values are refused, params.yaml is never a leftover."""

import functools
import hashlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from text2sql import config, stage
from text2sql.ask import engine
from text2sql.errors import UserError
from text2sql.release.card import base_provenance

CONF = Path("conf")
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
MEMBERS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


compose, stage_names = config.compose, functools.cache(stage.stage_names)


@functools.cache
def composition(overrides, conf):
    return compose(list(overrides))


def compose_once(overrides=()):
    """`compose`, which takes Hydra 0.2 s: the same text for the same overrides and the same files of conf/."""
    files = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(CONF.rglob("*.yaml"))))
    return composition(tuple(overrides), files.hexdigest())


def composed(*overrides):
    return OmegaConf.to_container(OmegaConf.create(compose_once(overrides)))


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """What these tests compose and read again and again: each composition once, and the stages of dvc.yaml."""
    monkeypatch.setattr(stage, "compose", compose_once)
    monkeypatch.setattr(stage, "stage_names", stage_names)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A scratch folder with conf/, dvc.yaml and the default params.yaml, outside of any experiment."""
    shutil.copytree("conf", tmp_path / "conf")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("choice", MEMBERS)
def test_every_member_of_every_group_composes_and_is_accepted_by_every_stage(choice):
    stage.validate(composed(choice))


def test_params_yaml_is_the_composition():
    assert Path("params.yaml").read_text() == compose_once(), "params.yaml is outdated: run `make params`"


def test_dvc_composes_the_same_bytes(tmp_path):
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(tmp_path / "params.yaml", str(CONF.resolve()), None, "config", str(tmp_path), ["seed=7"])
    assert (tmp_path / "params.yaml").read_text() == config.compose(["seed=7"])


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=str)
def test_every_key_is_commented(path):
    """On its line or right above; a key that only opens a section may leave that to the keys in it."""
    above, bare = "", []
    for line in path.read_text().splitlines():
        if re.match(r" *(- )?[\w/]+( [\w/]+)?: *\S", line) and "#" not in line and not above.lstrip().startswith("#"):
            bare.append(line.strip())
        above = line
    assert not bare


def test_the_recipes_are_there():
    names = {file.stem for file in (CONF / "experiment").glob("*.yaml")}
    assert {"default", "tiny", "sweep", "prompts", "mistral-7b-spider"} <= names
    assert {"spider", "spider-quick", "spider-1.5b", "spider-135m"} <= names


@pytest.mark.parametrize("member", sorted(file.stem for file in (CONF / "model").glob("*.yaml")))
def test_models_compose_and_are_known_to_the_card(member):
    """The options are possible, and the card can name the model's licence."""
    params = composed(f"model={member}")
    stage.validate(params)
    assert params["model"]["name"] == member
    assert base_provenance(params).licence or member == "tiny"


def test_default_recipe_changes_nothing():
    assert compose_once(["experiment=default"]) == compose_once()


@pytest.mark.parametrize(
    ("overrides", "epochs", "init"),
    [
        ((), 0.5, None),
        (("data=custom",), 2.0, "auto"),
        (("data=custom", "train.epochs=1.0", "train.init=null"), 1.0, None),
    ],
)
def test_ones_own_pairs_are_all_learned_from(overrides, epochs, init):
    train = composed(*overrides)["train"]
    assert (train["epochs"], train["init"]) == (epochs, init)


def test_ask_tries_again_as_predictions_do():
    guided = composed("predict=second_try")["predict"]["guided"]
    asked = engine.SECOND_TRY, engine.TEMPERATURE, engine.LEAST_PROBABILITY
    assert (guided["candidates"], guided["temperature"], guided["least_probability"]) == asked


DOCUMENTS = ["README.md", "docs/EXPERIMENTS.md", *sorted(str(p) for p in (CONF / "experiment").glob("*.yaml"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_compose(document):
    """Each `dvc exp run -S ...` that a document shows, whole; a sweep's values one after the other."""
    for command in re.findall(r"dvc exp run [^`\n#]*", Path(document).read_text()):
        overrides = [a or b for a, b in re.findall(r"(?:-S|--set-param) +(?:'([^']+)'|(\S+))", command)]
        known = [override.partition("=") for override in overrides if "<" not in override]  # no placeholder
        choices = [[f"{key}={value}" for value in values.split(",")] for key, _, values in known]
        for number in range(max(map(len, choices), default=0)):
            stage.validate(composed(*(choice[min(number, len(choice) - 1)] for choice in choices)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model=gpt-5", "mistral-7b"),
        ("data=imdb", "spider"),
        ("train.colour=1", "train.colour"),
        ("+train.colour=1", "train.colour is not a known key"),
        ("seed=-1", "seed is -1"),
        ("seed=today", "seed is 'today'"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("train.learning_rate=fast", "train.learning_rate"),
        ("train.epochs=0", "train.epochs"),
        ("train.evaluate_every=-1", "evaluate_every is -1"),
        ("train.choose_every=1.5", "choose_every must be whole steps"),
        ("train.choose_questions=0", "choose_questions is 0"),
        ("train.init=models/nowhere", "init is models/nowhere, which is no folder of an adapter"),
        ("train.max_length=0", "train.max_length"),
        ("lora.r=0", "lora.r"),
        ("lora.lora_dropout=1.5", "lora.lora_dropout"),
        ("lora.init_lora_weights=pissa", "lora.init_lora_weights"),
        ("lora.target_modules=q_proj", "lora.target_modules"),
        ("quantization.bits=3", "quantization.bits"),
        ("model.source=ftp", "allowed: 'wheel', 'hub', 'path' or 'random'"),
        ("predict.batch_size=0", "predict.batch_size"),
        ("predict.max_new_tokens=0", "predict.max_new_tokens"),
        ("score.timeout_seconds=-1", "score.timeout_seconds"),
        ("score.workers=0", "score.workers"),
        ("data.split.test_limit=0", "data.split.test_limit"),
        ("data.source.questions_per_domain=-5", "data.source.questions_per_domain"),
        ("data.convert.timeout_seconds=0", "data.convert.timeout_seconds"),
        ("prompt.samples=-1", "prompt.samples"),
        ("tracking.kind=wandb", "allowed: 'mlflow' or 'none'"),
        ("tracking.uri=nowhere", "tracking.uri"),
        ("tracking.system_seconds=-1", "tracking.system_seconds"),
    ],
)
def test_wrong_values_are_refused_before_any_work(override, said):
    with pytest.raises(UserError) as error:
        stage.validate(composed(override))
    assert said in str(error.value)


# --- params.yaml against its composition -----------------------------------------------------------------------------


def edit(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_the_default_is_accepted(clone):
    stage.check()


def test_an_edit_in_conf_that_was_not_composed_is_refused(clone):
    stage.check()
    edit("conf/config.yaml", "seed: 42", "seed: 43")
    with pytest.raises(UserError) as error:
        stage.check()
    assert "seed is 42, conf/ says 43" in str(error.value)
    assert "make params" in str(error.value)
    stage.write_params([])
    stage.check()


def test_what_an_experiment_left_behind_is_refused_by_repro_and_used_by_the_experiment(clone, monkeypatch):
    Path("params.yaml").write_text(compose_once(["lora.r=8", "seed=1"]))
    monkeypatch.setenv("DVC_EXP_NAME", "some-exp")
    stage.check()
    monkeypatch.delenv("DVC_EXP_NAME")
    with pytest.raises(UserError) as error:
        stage.check()
    assert "seed is 1, conf/ says 42; lora.r is 8, conf/ says 16" in str(error.value)


@pytest.mark.parametrize("overrides", [["experiment=tiny"], ["experiment=spider", "seed=1"], ['data.name="größe"']])
def test_a_stage_alone_after_an_experiment_says_how_to_compose_its_parameters(clone, overrides):
    left = compose_once(overrides)
    Path("params.yaml").write_text(left)
    with pytest.raises(UserError, match="text2sql params") as error:
        stage.check()
    stage.write_params(shlex.split(re.search("`text2sql params (.*?)`", str(error.value))[1]))
    stage.check()
    assert config.parse_yaml(left) == config.read_params()


def test_a_refused_value_that_an_experiment_left_behind_names_the_way_back(clone):
    Path("params.yaml").write_text(compose_once(["train.learning_rate=-1"]))
    with pytest.raises(UserError, match=r"learning_rate is -1(.|\n)*make params"):
        stage.check()


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no list of sections"),
        (b"- 1\n- 2\n", "no list of sections"),
        (b"seed\n", "has no data"),
        (b"1: 2\n", "no list of sections"),
        (b"seed: [\n", "cannot be read"),
        (b"\x00\xff\xfe", "cannot be read"),
        (BOMB.encode(), "YAML aliases"),
        (b"seed: ${nowhere}\n", "cannot be read"),
        (b"a: " + b"[" * 500 + b"]" * 500, "cannot be read"),  # deeper than Python's calls go
    ],
)
def test_a_params_file_that_is_none(clone, content, said):
    Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        stage.check()
    assert "make params" in str(error.value)


def test_a_file_composed_by_hand_is_accepted_and_named(clone, capsys):
    stage.write_params(["model=tiny", "seed=1"])
    stage.check()
    assert "params.yaml is composed with model=tiny seed=1" in capsys.readouterr().out
    edit("params.yaml", "seed: 1", "seed: 2")
    with pytest.raises(UserError, match="seed is 2, conf/ says 1"):
        stage.check()


def test_missing_and_unknown_keys_are_named(clone):
    edit("params.yaml", "seed: 42\n", "seed: 42\nextra: 1\n")
    with pytest.raises(UserError, match="extra is 1, conf/ does not have it"):
        stage.check()


def test_a_stage_says_so_and_does_nothing(clone, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    edit("params.yaml", "seed: 42", "seed: 43")
    with pytest.raises(SystemExit) as stop:
        stage.run(lambda: pytest.fail("it worked on"))
    assert "seed is 43, conf/ says 42" in str(stop.value)


def test_an_unchanged_state_costs_no_composition(clone, monkeypatch):
    stage.check()
    monkeypatch.setattr(stage, "compose", lambda *_: pytest.fail("composed again"))
    monkeypatch.setitem(sys.modules, "hydra", None)
    stage.check()


def test_a_folder_without_conf_has_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage.check()
