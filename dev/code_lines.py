"""Code lines of each package and of all: blanks, comments and docstrings are not counted.

python dev/code_lines.py [text2sql stages]
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

#: tokens that alone make no line of code
SPACE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER
)  # fmt: skip
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text: str) -> int:
    """Lines of `text` that have code.

    >>> code_lines("x = 1  # one\\n\\ny = [\\n    2,\\n]\\ndef f():\\n    '''Two.'''\\n    return 3\\n")
    6
    """
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {n for token in tokens if token.type not in SPACE for n in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("text2sql"), Path("stages")])
    counts: Counter[str] = Counter()
    for folder in parser.parse_args().folders:
        for path in sorted(folder.rglob("*.py")):
            package = path.parent if len(path.parts) < 4 else Path(*path.parts[:2])
            counts[package.as_posix()] += code_lines(path.read_text(encoding="utf-8"))
    for package, count in counts.most_common():
        print(f"{count:7,}  {package}")
    print(f"{counts.total():7,}  all")


if __name__ == "__main__":
    main()
