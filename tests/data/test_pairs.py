"""Pairs of people: read with every slip said by its line, queries as they are but for what no prompt shows."""

import json

import pytest

from text2sql.data.pairs import plain_query, read_pairs, same_spelling, without_own_names


@pytest.mark.parametrize(
    ("sql", "plain"),
    [
        ("SELECT 1; -- one", "SELECT 1"),
        ("-- head\nSELECT count(*) -- all\nFROM t ;;", "SELECT count(*)\nFROM t"),
        ("select 'a;--b' /* x; */ from t", "select 'a;--b' from t"),
        ("select $$;$$", "select $$;$$"),
        ("select 1; select 2", "select 1; select 2"),
        ("select 'open", "select 'open"),
    ],
)
def test_plain_query(sql, plain):
    assert plain_query(sql) == plain


@pytest.mark.parametrize(
    ("sql", "without"),
    [
        ("SELECT app.users.id FROM app.users", "SELECT users.id FROM users"),
        ("SELECT 1 FROM users WHERE s = 'paid'::app.state", "SELECT 1 FROM users WHERE s = 'paid'"),
        ("SELECT 1 FROM users WHERE s = ANY('{a}'::state[])", "SELECT 1 FROM users WHERE s = ANY('{a}')"),
        ("select id::text  from users", "select id::text  from users"),  # as it is written
        ("SELECT 1 FROM app.others", "SELECT 1 FROM app.others"),
        ("SELECT 1 FROM APP.Users", "SELECT 1 FROM Users"),
        ('SELECT 1 FROM app."Users"', 'SELECT 1 FROM app."Users"'),
        ("SELECT CAST(a + b AS price) * 2 FROM users", "SELECT (a + b) * 2 FROM users"),
        ("select (", "select ("),
    ],
)
def test_names_of_ones_own_leave(sql, without):
    assert without_own_names(sql, {"users"}, {"text"}) == without


def test_spelling():
    assert same_spelling("select count(*)  from t;") == same_spelling("SELECT COUNT(*) FROM t -- all")
    assert same_spelling("select 'a'") != same_spelling("select 'A'")


SLIPS = {
    '{"question": "What?"}': "no sql",
    '{"question": "a\\ud800", "sql": "select 1"}': "the question is no valid text",
    '{"question": "a", "sql": "select \\u0000"}': "the sql is no valid text",
    "[" * 200_000: "not JSON: nested too deeply",
    f'{{"question": {"1" * 5000}}}': "not JSON: nested too deeply, or a number of thousands of digits",
    json.dumps({"question": " What  is\nit? ", "sql": " select 1 ; "}): None,
}


def test_a_slip_is_one_of_its_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(SLIPS) + "\n", encoding="utf-8-sig")
    for pair, problem in zip(read_pairs(path), SLIPS.values(), strict=True):
        assert pair.problem is None if problem is None else pair.problem.startswith(problem)
    assert (pair.line, pair.question, pair.sql) == (len(SLIPS), "What is it?", "select 1")


def test_csv_with_commas(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('question,sql,note\na?,"select 1, 2",x\nb?,select 1, 2\nc?,select 1, 2, 3\nd?\n')
    assert [pair.problem for pair in read_pairs(path)] == [
        None,
        None,  # the surplus is the note's
        "more fields than columns: a query with commas needs quotes around it",
        "no sql",
    ]
