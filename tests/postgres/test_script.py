"""Scripts for psql, statement by statement."""

import pytest

from text2sql.postgres.script import script_statements


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("a; b", ["a", "b"]),
        (
            "SELECT 'x;y', \"p;q\", $$r;s$$, $t$u;$v$w;$t$; -- c;\n/* d; */ e;",
            ["SELECT 'x;y', \"p;q\", $$r;s$$, $t$u;$v$w;$t$", "e"],
        ),
        ("\\echo 'Loading'\nCREATE TABLE t (a int);", ["CREATE TABLE t (a int)"]),
        ('\\connect "My DB"\nCREATE TABLE t (a int);', ["CREATE TABLE t (a int)"]),
        ("\\echo Don't panic\nCREATE TABLE t (a text DEFAULT 'x;y');", ["CREATE TABLE t (a text DEFAULT 'x;y')"]),
        ("\\restrict key\na;\n\\unrestrict key\n", ["a"]),
        ("SELECT 'a\n\\b;';", ["SELECT 'a\n\\b;'"]),
    ],
)
def test_statements(script, statements):
    assert [statement for statement, _ in script_statements(script)] == statements


def test_rows_of_copy():
    script = "COPY t FROM stdin;\n1\t;\n\\N\n\\.\nSELECT 1;"
    assert list(script_statements(script)) == [("COPY t FROM stdin", "1\t;\n\\N\n"), ("SELECT 1", "")]
