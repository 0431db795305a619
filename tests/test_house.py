"""The house: short functions, names that mean one thing, and an architecture page that names what there is."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = [path for folder in ("text2sql", "stages") for path in sorted((ROOT / folder).rglob("*.py"))]
LONGEST = 60
#: what every stage has; a stage named as the module that it calls; a schema's part of a prompt, and a question's
SHARED = {"main", "read_options", "preflight", "Prompt"}
IMPORTED = [path for folder in ("app", "benchmarks", "dev", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_are_short(path):
    functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))
    assert not [(f.name, f.end_lineno - f.lineno + 1) for f in functions if f.end_lineno - f.lineno >= LONGEST]


def defined_in(path):
    """Every name that a module binds anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imports = (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    return names | {alias.asname or alias.name for node in imports for alias in node.names}


def test_what_is_imported_is_there():
    """Also by imports within functions, which no start of a stage tries."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in [*CODE, *IMPORTED]}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    bound = {name: defined_in(path) for name, path in modules.items()}
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.module} has no {alias.name}"
        for path in modules.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in modules
        for alias in node.names
        if alias.name not in bound[node.module] and f"{node.module}.{alias.name}" not in modules
    ]
    assert not missing


def test_a_name_means_one_thing():
    """No two public functions, classes or modules of one name; commands are named after what they call."""
    modules = Counter(path.stem for path in CODE if path.stem != "__init__")
    defined = Counter(
        node.name
        for path in CODE
        if path.stem != "cli"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    twins = {name for names in (modules, defined) for name, times in names.items() if times > 1}
    assert twins <= SHARED


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`((?:text2sql|stages)/[\w/]+\.py)`", PAGE))))
def test_the_architecture_page_names_what_there_is(place):
    names = {
        n.name for n in ast.walk(ast.parse((ROOT / place).read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)
    }
    said = re.findall(rf"`{re.escape(place)}`(?: \(([^)]*)\)|: (`\w+`))", PAGE)
    assert {name for pair in said for name in re.findall(r"`(\w+)`", "".join(pair))} <= names
