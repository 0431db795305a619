"""Parameters: every wrong value is refused with the field's name and what is allowed. A stage's --help."""

import importlib
import inspect
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from text2sql.config import compose, parse_yaml, read_params, require, typed
from text2sql.errors import UserError
from text2sql.stage import validate


@dataclass
class Inner:
    size: int


@dataclass
class Outer:
    rate: float
    kind: Literal["a", "b"]
    inner: Inner
    names: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self):
        require(self.rate > 0, f"rate must be positive, not {self.rate}")


GOOD = {"rate": 1, "kind": "a", "inner": {"size": 3}, "names": ["x"], "limit": None}


def test_good_values_arrive_typed():
    made = typed(Outer, GOOD, "outer")
    assert made == Outer(1.0, "a", Inner(3), ("x",), None)
    assert isinstance(made.rate, float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": -1}, "outer.rate must be positive"),
        ({"rate": "fast"}, "outer.rate is 'fast': it should be a valid number"),
        ({"rate": True}, "outer.rate is True: it should be a valid number"),
        ({"kind": "c"}, "allowed: 'a' or 'b'"),
        ({"inner": {"size": 1.5}}, "outer.inner.size is 1.5: it should be a valid integer"),
        ({"inner": 3}, "outer.inner must be a section, not 3"),
        ({"inner": {}}, "outer.inner.size is missing"),
        ({"colour": 1}, "outer.colour is not a known key"),
        ({"names": [1]}, "outer.names[0] is 1: it should be a valid string"),
    ],
)
def test_bad_values_name_the_field(change, said):
    with pytest.raises(UserError) as error:
        typed(Outer, {**GOOD, **change}, "outer")
    assert said in str(error.value)


def test_scientific_notation_is_a_number(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("rate: 2e-4\n")
    assert read_params(path) == {"rate": 2e-4}


@pytest.mark.parametrize("section", ["data", "train", "data.split", "data.source", "tracking"])
@pytest.mark.parametrize("value", [3, None])
def test_a_value_in_place_of_a_section_is_refused(section, value):
    params = read_params()
    *outer, last = section.split(".")
    (params[outer[0]] if outer else params)[last] = value
    with pytest.raises(
        UserError, match=rf"({section}.* must be a section, not|params.yaml has no {section}.*)[^>]*-> see conf/"
    ):
        validate(params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("~data.source.kind", "params.yaml has no data.source.kind"),
        ("data.source.kind=[mini]", r"data.source.kind is \['mini'\]"),
        ("~model.template", "model.template is missing"),
        ("~train.max_length", "params.yaml has no train.max_length"),
        ("~data.databases.samples", "data.databases.samples is missing"),
        ("~score", "params.yaml has no score"),
    ],
)
def test_a_missing_value_is_named(change, said):
    with pytest.raises(UserError, match=said):
        validate(parse_yaml(compose([change])))


@pytest.mark.parametrize("defect", [TypeError, AttributeError, KeyError])
def test_a_defect_of_ours_keeps_its_traceback(defect, monkeypatch):
    def broken(params):
        raise defect("max_left_out")

    monkeypatch.setattr("stages.prompts.read_options", broken)
    with pytest.raises(defect, match="max_left_out"):
        validate(read_params())


STAGES = sorted(path.stem for path in Path("stages").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", STAGES)
def test_help_says_what_a_stage_does_and_does_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"stages/{name}.py", "--help"])
    sys.modules.pop(f"stages.{name}", None)
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
    said = inspect.getdoc(importlib.import_module(f"stages.{name}"))
    assert capsys.readouterr().out == f"{said}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in STAGES if name != "score"])
def test_a_stage_refuses_arguments(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"stages/{name}.py", "--halp"])
    sys.modules.pop(f"stages.{name}", None)
    with pytest.raises(SystemExit, match="takes no arguments but --help"):
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
