"""What a query may consist of. Anything else has not been thought about, and is rejected rather than passed on."""

from __future__ import annotations

from sqlglot import exp


class Rejected(Exception):
    """The query cannot be converted faithfully; the message says why, for the example's `reason`."""


class Defect(Rejected):
    """A rule met a query that it was not written for and failed: an error of ours, which stages and command report."""


_STRUCTURE = (
    exp.Select, exp.Subquery, exp.Union, exp.Intersect, exp.Except, exp.Values, exp.Tuple, exp.With, exp.CTE,
    exp.From, exp.Join, exp.Table, exp.TableAlias, exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered,
    exp.Limit, exp.Offset, exp.Distinct, exp.Alias, exp.Star, exp.Column, exp.Identifier, exp.Paren, exp.Literal,
    exp.Null, exp.Boolean, exp.HexString, exp.Var, exp.DataType, exp.DataTypeParam, exp.Filter, exp.Window,
    exp.WindowSpec, exp.Collate,
)  # fmt: skip
_OPERATORS = (
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ,
    exp.Is, exp.In, exp.Between, exp.Like, exp.Glob, exp.Escape, exp.Exists, exp.Add, exp.Sub, exp.Mul, exp.Div,
    exp.Mod, exp.Neg, exp.DPipe, exp.Case, exp.If, exp.Cast, exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseNot,
    exp.BitwiseLeftShift, exp.BitwiseRightShift,
)  # fmt: skip
_FUNCTIONS = (
    exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max, exp.GroupConcat, exp.Coalesce, exp.Nullif, exp.Length, exp.Upper,
    exp.Lower, exp.Trim, exp.Substring, exp.StrPosition, exp.Replace, exp.Round, exp.Abs, exp.Greatest, exp.Least,
    exp.Typeof, exp.Format, exp.Sqrt, exp.Pow, exp.Exp, exp.Ln, exp.Log, exp.Pi, exp.Ceil, exp.Floor, exp.Sign,
    exp.Chr, exp.Hex, exp.Unicode, exp.Rand, exp.Concat, exp.Date, exp.TimeToStr, exp.TsOrDsToTimestamp,
    exp.CurrentDate, exp.CurrentTimestamp, exp.RowNumber, exp.Rank, exp.DenseRank, exp.PercentRank,
    exp.CumeDist, exp.Ntile, exp.Lag, exp.Lead,
    exp.FirstValue, exp.LastValue, exp.NthValue,
)  # fmt: skip
ALLOWED = frozenset((*_STRUCTURE, *_OPERATORS, *_FUNCTIONS))
#: functions that sqlglot has no class for
NAMED = frozenset({
    "printf", "likely", "unlikely", "total", "date", "time", "datetime", "julianday", "unixepoch", "strftime", "typeof",
})  # fmt: skip
WITH_ARGUMENT = frozenset({"printf", "likely", "unlikely", "total", "typeof"})


def check_nodes(tree: exp.Expression) -> None:
    """Look at every node.

    Raises:
        Rejected: one that no rule knows.
    """
    for node in tree.walk():
        if isinstance(node, exp.Substring) and node.args.get("start") is None:
            raise Rejected("function substr with one argument")
        if isinstance(node, exp.Anonymous):
            if node.name.lower() in WITH_ARGUMENT and not node.expressions:
                raise Rejected(f"function {node.name.lower()} without an argument")
            if node.name.lower() not in NAMED:
                raise Rejected(f"function {node.name.lower()}")
        elif type(node) not in ALLOWED:
            if not isinstance(node, exp.Func):
                raise Rejected(f"{type(node).__name__} is not known")
            raise Rejected(f"function {node.sql('sqlite').partition('(')[0].lower()}")
