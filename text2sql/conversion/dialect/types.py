"""What is known of an expression: its PostgreSQL type, and what SQLite would make of it.

SQLite types values, PostgreSQL types columns. To convert a comparison one has to know both sides: SQLite's affinity
(which decides whether '5' and 5 are made alike before they are compared), the storage classes that the values have,
and the type of the PostgreSQL column that holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from text2sql.conversion.databases.infer import NUMERIC_TYPES, affinity, text_form
from text2sql.schema import Column

NUMERIC_AFFINITIES = ("integer", "real", "numeric")
#: PostgreSQL types whose values are texts in SQLite
DATE_TYPES = ("date", "timestamp", "time")


@dataclass(frozen=True)
class Type:
    """`pg`: PostgreSQL's type; `unknown` is a literal in quotes, which takes the type that its place wants.

    `classes` are SQLite's storage classes of the values, `affinity` is "" for an expression without one, `form` is
    how its texts are written (see infer.text_form), `zeros` and `blanks` say whether 0 and '' can occur,
    `blanks_are_null` that '' has become NULL.
    """

    pg: str
    classes: frozenset[str]
    affinity: str = ""
    nullable: bool = True
    form: str = "text"
    zeros: bool = True
    blanks: bool = True
    collation: str = ""
    prefix: str = ""
    blanks_are_null: bool = False

    @property
    def numeric(self) -> bool:
        """A number for PostgreSQL."""
        return self.pg in NUMERIC_TYPES

    @property
    def integral(self) -> bool:
        """Always an integer for SQLite."""
        return self.classes == {"integer"}

    @property
    def textual(self) -> bool:
        """Always a text for SQLite."""
        return self.classes == {"text"}

    @property
    def mixed(self) -> bool:
        """Numbers and texts for SQLite, all texts for PostgreSQL."""
        return "text" in self.classes and len(self.classes) > 1


INTEGER = Type("integer", frozenset({"integer"}))
BIGINT = Type("bigint", frozenset({"integer"}))
NUMERIC = Type("numeric", frozenset({"real"}))
DOUBLE = Type("double precision", frozenset({"real"}))
TEXT = Type("text", frozenset({"text"}))
BOOLEAN = Type("boolean", frozenset({"integer"}))
NULL = Type("unknown", frozenset())
DATE, TIMESTAMP, TIME = (Type(name, frozenset({"text"}), form=name) for name in DATE_TYPES)

_DECLARED_CLASSES = {"integer": {"integer"}, "real": {"real"}, "numeric": {"integer", "real"}, "text": {"text"}}


def type_of_column(column: Column) -> Type:
    """The type of a column of the schema."""
    classes = set(column.storage)
    if not classes:  # no value: what the declaration promises
        numeric = column.type in NUMERIC_TYPES or column.type == "boolean"
        classes = _DECLARED_CLASSES.get(column.affinity, {"integer"}) if numeric else {"text"}
        classes = {"blob"} if column.type == "bytea" else {"integer"} if column.type == "boolean" else classes
    return Type(
        pg=column.type,
        classes=frozenset(classes),
        affinity=column.affinity,
        nullable=column.has_nulls and not column.not_null,
        form=column.form if column.storage else (column.type if column.type in DATE_TYPES else "text"),
        zeros=column.has_zeros,
        blanks=column.has_blanks and not column.blanks_are_null,
        blanks_are_null=column.blanks_are_null,
        collation=column.collation,
        prefix=column.prefix,
    )


def union_type(types: Sequence[Type]) -> Type:
    """The type of an expression that is one of several: the branches of CASE, the sides of UNION."""
    known = [t for t in types if t.classes] or list(types)
    pgs = {t.pg for t in known}
    if len(pgs) == 1:
        pg = next(iter(pgs))
    elif pgs <= {*NUMERIC_TYPES, "boolean"}:
        pg = max(pgs - {"boolean"}, key=NUMERIC_TYPES.index)
    elif len(pgs - {"unknown"}) == 1 and literals_fit(known, next(iter(pgs - {"unknown"}))):
        pg = next(iter(pgs - {"unknown"}))
    else:
        pg = "text"
    forms = {t.form for t in known if "text" in t.classes}
    return Type(
        pg=pg,
        classes=frozenset().union(*(t.classes for t in known)),
        affinity=types[0].affinity if len({t.affinity for t in types}) == 1 else "",
        nullable=any(t.nullable for t in types),
        form=next(iter(forms)) if len(forms) == 1 else "text",
    )


def literals_fit(types: Sequence[Type], pg: str) -> bool:
    """Whether the quoted literals among `types` can be read as `pg`."""
    return all(t.pg != "unknown" or pg == "text" or t.form == pg for t in types)


def cast_type(to: exp.DataType) -> str:
    """The affinity of CAST(... AS `to`)."""
    known = affinity(to.sql("sqlite"))
    return "integer" if to.this in exp.DataType.INTEGER_TYPES else known


def type_of(node: exp.Expression) -> Type:
    """The type of an expression whose names are bound. Unknown functions are left to the rules, which reject them."""
    if (known := node.meta.get("type")) is not None:
        return known
    for classes, function in _TYPES:
        if isinstance(node, classes):
            return function(node)
    return TEXT


def _column(node: exp.Column) -> Type:
    if (bound := node.meta.get("bound")) is not None:
        return bound.type
    return type_of(node.meta["alias"]) if "alias" in node.meta else literal_type(node.name)


def literal_type(text: str) -> Type:
    """The type of a text literal."""
    return Type("unknown", frozenset({"text"}), nullable=False, form=text_form(text), blanks=not text)


def _literal(node: exp.Literal) -> Type:
    if node.is_string:
        return literal_type(node.this)
    if node.this.isdigit():
        value = int(node.this)
        pg = "integer" if value < 2**31 else "bigint" if value < 2**63 else "numeric"
        classes = frozenset({"integer" if value < 2**63 else "real"})
        return Type(pg, classes, nullable=False, zeros=value == 0)
    return Type("numeric", frozenset({"real"}), nullable=False, zeros=float(node.this) == 0)


def arithmetic_type(left: Type, right: Type) -> Type:
    """The type of + - * of two numbers (texts count as numbers, see `rules.arithmetic`)."""
    pg = max((number_type(t) for t in (left, right)), key=NUMERIC_TYPES.index)
    integral = all(t.integral or (t.form == "integer" and t.textual) for t in (left, right))
    surely_real = any(t.classes == {"real"} for t in (left, right))
    classes = {"integer"} if integral else {"real"} if surely_real else {"integer", "real"}
    return Type(pg, frozenset(classes), nullable=left.nullable or right.nullable)


def number_type(type_: Type) -> str:
    """PostgreSQL's type of an operand once it is a number."""
    small = type_.pg == "boolean" or type_.form == "integer"
    return type_.pg if type_.numeric else "integer" if small else "numeric"


def any_nullable(nodes: Iterable[exp.Expression | None]) -> bool:
    """Whether one of the expressions that are there can be NULL."""
    return any(type_of(node).nullable for node in nodes if node is not None)


def _of_operands(type_: Type) -> Callable[[exp.Expression], Type]:
    """`type_`, NULL where an operand is."""
    return lambda node: replace(type_, nullable=any_nullable(node.iter_expressions()))


def _binary(node: exp.Binary) -> Type:
    return arithmetic_type(type_of(node.left), type_of(node.right))


def _division(node: exp.Div) -> Type:
    result = _binary(node)
    return replace(result, nullable=result.nullable or type_of(node.right).zeros)


def _condition(node: exp.Expression) -> Type:
    operands = [c for c in node.iter_expressions() if not isinstance(c, exp.Query)]
    never = isinstance(node, exp.Exists | exp.Is | exp.NullSafeEQ | exp.NullSafeNEQ)
    return replace(BOOLEAN, nullable=not never and any(type_of(o).nullable for o in operands))


def in_group(node: exp.Expression) -> bool:
    """Whether an aggregate is computed for groups, which are never empty."""
    select = node.find_ancestor(exp.Select)
    return bool(select and select.args.get("group"))


def _argument(node: exp.Expression) -> Type:
    """The type of what an aggregate takes, nullable if the aggregate may be NULL."""
    argument = type_of(node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this)
    return replace(argument, nullable=argument.nullable or isinstance(node.parent, exp.Filter) or not in_group(node))


def _sum(node: exp.Sum) -> Type:
    argument = _argument(node)
    if argument.pg == "double precision":
        return replace(DOUBLE, nullable=argument.nullable)
    small = argument.pg in ("smallint", "integer", "boolean") or (argument.pg == "text" and argument.form == "integer")
    classes = argument.classes if argument.numeric else {"integer"} if small else {"integer", "real"}
    return Type("bigint" if small else "numeric", frozenset(classes), nullable=argument.nullable)


def _avg(node: exp.Avg) -> Type:
    argument = _argument(node)
    return replace(DOUBLE if argument.pg == "double precision" else NUMERIC, nullable=argument.nullable)


def _case(node: exp.Case | exp.If) -> Type:
    branches = node.args["ifs"] if isinstance(node, exp.Case) else [node]
    default = node.args.get("default" if isinstance(node, exp.Case) else "false")
    values = [type_of(branch.args["true"]) for branch in branches]
    return replace(union_type([*values, NULL if default is None else type_of(default)]), affinity="")


def _coalesce(node: exp.Coalesce) -> Type:
    parts = [type_of(part) for part in (node.this, *node.expressions)]
    return replace(union_type(parts), affinity="", nullable=all(part.nullable for part in parts))


def _scalar(node: exp.Subquery) -> Type:
    inner = node.unnest()
    several = not isinstance(inner, exp.Select) or any(
        inner.args.get(k) for k in ("group", "having", "limit", "offset")
    )
    counted = not several and bool(inner.expressions) and isinstance(inner.expressions[0].unalias(), exp.Count)
    return replace(node.meta["columns"][0][1], nullable=not counted)


def _cast(node: exp.Cast) -> Type:
    type_, operand = cast_type(node.to), type_of(node.this)
    target = {"integer": BIGINT, "real": DOUBLE, "text": TEXT, "numeric": NUMERIC}.get(type_, TEXT)
    form = operand.form if type_ == "text" and operand.textual else "integer" if operand.integral else "text"
    return replace(target, affinity=type_, nullable=operand.nullable, form=form)


def _of_first(node: exp.Expression) -> Type:
    return replace(type_of(node.this), affinity="")


def _window(node: exp.Window) -> Type:
    function = node.this
    if isinstance(function, exp.PercentRank | exp.CumeDist):
        return replace(DOUBLE, nullable=False)
    if isinstance(function, exp.RowNumber | exp.Rank | exp.DenseRank | exp.Ntile):
        return replace(BIGINT, nullable=False)
    if isinstance(function, exp.Lag | exp.Lead | exp.FirstValue | exp.LastValue | exp.NthValue):
        return replace(type_of(function.this), nullable=True, affinity="")
    return replace(type_of(function), nullable=not isinstance(function, exp.Count))


_CONDITIONS = (
    exp.Predicate, exp.Connector, exp.Not, exp.Between, exp.In, exp.Exists, exp.Is, exp.Like, exp.Glob, exp.Escape,
)  # fmt: skip
_TYPES = (
    (exp.Column, _column),
    (exp.Literal, _literal),
    (exp.Null, lambda node: NULL),
    (exp.Boolean, lambda node: replace(BOOLEAN, nullable=False)),
    (exp.HexString, lambda node: Type("bytea", frozenset({"blob"}), nullable=False)),
    (exp.Paren | exp.Filter | exp.Collate, lambda node: type_of(node.this)),
    (exp.Neg | exp.Abs, _of_first),
    (exp.Div, _division),
    (exp.Mod, lambda node: replace(_binary(node), nullable=True)),
    (exp.Add | exp.Sub | exp.Mul, _binary),
    (exp.BitwiseLeftShift | exp.BitwiseRightShift, _of_operands(BIGINT)),
    (exp.BitwiseAnd | exp.BitwiseOr | exp.BitwiseNot, _of_operands(INTEGER)),
    (exp.DPipe | exp.Concat, _of_operands(TEXT)),
    (exp.Anonymous, lambda node: replace(DOUBLE, nullable=False) if node.name.lower() == "total" else TEXT),
    (_CONDITIONS, _condition),
    (exp.Subquery, _scalar),
    (exp.Count, lambda node: replace(BIGINT, nullable=False)),
    (exp.Sum, _sum),
    (exp.Avg, _avg),
    (exp.Min | exp.Max, lambda node: replace(_argument(node), affinity="")),
    (exp.Case | exp.If, _case),
    (exp.Coalesce, _coalesce),
    (exp.Nullif, lambda node: replace(type_of(node.this), nullable=True, affinity="")),
    (exp.Greatest | exp.Least, lambda node: union_type([type_of(p) for p in (node.this, *node.expressions)])),
    (exp.Cast, _cast),
    (exp.Distinct, lambda node: type_of(node.expressions[0])),
    (exp.Round, lambda node: replace(NUMERIC, nullable=type_of(node.this).nullable)),
    (exp.Length | exp.StrPosition | exp.Unicode, _of_operands(INTEGER)),
    (
        exp.Upper | exp.Lower | exp.Trim | exp.Substring | exp.Replace,
        lambda node: replace(TEXT, nullable=type_of(node.this).nullable),
    ),
    (exp.Window, _window),
    (exp.Sqrt | exp.Pow | exp.Exp | exp.Ln | exp.Log | exp.Pi, lambda node: DOUBLE),
)  # fmt: skip
