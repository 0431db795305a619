"""Foreign keys told from names: only where none is declared, and only such as could be keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text2sql.ask.inferred_keys import with_inferred_keys
from text2sql.ask.place import open_place
from text2sql.model.prompt import PromptOptions, ddl
from text2sql.schema import Column, ForeignKey, Schema, Table


def schema_of(text: str) -> Schema:
    """`author: *aid name:text` ... a line a table; * is a declared primary key, the type of a column is bigint."""
    tables = []
    for line in text.strip().splitlines():
        name, words = line.strip().split(": ")
        columns, primary = [], []
        for word in words.split():
            column, _, type_ = word.removeprefix("*").partition(":")
            columns.append(Column(column, column, type_ or "bigint"))
            primary += [column] if word.startswith("*") else []
        tables.append(Table(name, name, tuple(columns), tuple(primary)))
    return Schema("made", tuple(tables))


def found(schema: Schema) -> set[str]:
    keys = ((table.name, key) for table in with_inferred_keys(schema).tables for key in table.foreign_keys)
    return {f"{name}.{key.columns[0]} -> {key.referred_table}.{key.referred_columns[0]}" for name, key in keys}


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("customers: *id name:text\norders: *id customer_id", {"orders.customer_id -> customers.id"}),
        ("customers: id name:text\norders: id customer_id", {"orders.customer_id -> customers.id"}),
        ("Customer: customerId\nOrder: orderId customerId", {"Order.customerId -> Customer.customerId"}),
        ("categories: category_id\nitems: item_id category_id", {"items.category_id -> categories.category_id"}),
        ("addresses: address_id\nitems: address_id", {"items.address_id -> addresses.address_id"}),
        ("author: aid\nwrites: aid pid\npaper: pid", {"writes.aid -> author.aid", "writes.pid -> paper.pid"}),
        ("paper: paperid\ncite: citingpaperid", {"cite.citingpaperid -> paper.paperid"}),
        ("airport: airport_code:text\nflight: from_airport:text", {"flight.from_airport -> airport.airport_code"}),
        ("state: state_name:text\ncity: city_name:text state_name:text", {"city.state_name -> state.state_name"}),
        ("category: category_id parent_category_id", {"category.parent_category_id -> category.category_id"}),
        ("course_offering: offering_id\nteaches: offering_id", {"teaches.offering_id -> course_offering.offering_id"}),
        # a table between two others has no key of its own; who has the primary key is referred to
        (
            "course: course_id\nprogram: program_id\nprogram_course: course_id program_id",
            {"program_course.course_id -> course.course_id", "program_course.program_id -> program.program_id"},
        ),
        ("people: *ssn\nvisits: ssn doctor", {"visits.ssn -> people.ssn"}),
        # of another type, a measure, a number of something else, the table's own name, two alike without a key
        ("customers: id\norders: customer_id:text", set()),
        ("fare: fare_id\nservice: ground_fare", set()),
        ("flight: flight_id flight_number\ncarrier: low_flight_number", set()),
        ("countries: country_id country_name:text", set()),
        ("a: id name:text\nb: id name:text", set()),
        ("shops: rank\nround: rank_in_round", set()),
    ],
)
def test_names_that_speak(text, keys):
    assert found(schema_of(text)) == keys


def test_what_is_declared_is_all():
    schema = schema_of("customers: *id\norders: *id customer_id seller_id\nsellers: *id")
    key = ForeignKey(("seller_id",), "sellers", ("id",))
    orders = Table("orders", "orders", schema.tables[1].columns, ("id",), (key,))
    declared = Schema("made", (schema.tables[0], orders, schema.tables[2]))
    assert with_inferred_keys(declared) == declared


def test_a_view_refers_to_nothing():
    schema = schema_of("customers: *id\nrich: customer_id")
    view = Table("rich", "rich", schema.tables[1].columns, kind="view")
    assert with_inferred_keys(Schema("made", (schema.tables[0], view))).notes == ()


NAMES = st.sampled_from(
    ["a", "b", "as", "a_id", "aid", "b_a", "b_a_id", "id", "name", "a_name", "_", "bs", "b_code", "né"]
)
COLUMNS = st.dictionaries(NAMES, st.sampled_from(["bigint", "text", "date"]), min_size=1, max_size=5)


@given(st.dictionaries(NAMES, COLUMNS, max_size=5), st.booleans())
def test_every_key_could_be_one(made, has_primary):
    tables = [
        Table(name, name, tuple(Column(n, n, t) for n, t in columns.items()), tuple([*columns][:1] * has_primary))
        for name, columns in made.items()
    ]
    schema = with_inferred_keys(Schema("made", tuple(tables)))
    types = {(t.name, c.name): c.type for t in schema.tables for c in t.columns}
    for table in schema.tables:
        keys = [key.columns[0] for key in table.foreign_keys]
        assert len(keys) == len(set(keys))
        for key in table.foreign_keys:
            ends = (table.name, key.columns[0]), (key.referred_table, key.referred_columns[0])
            assert ends[0] != ends[1]
            assert types[ends[0]] == types[ends[1]]
            assert not key.enforced
    assert with_inferred_keys(schema) == schema or not any(t.foreign_keys for t in schema.tables)


SCRIPT = "create table customers (id integer, name text);\ncreate table orders (id integer, customer_id integer);\n"


def test_a_file_without_keys(tmp_path):
    (tmp_path / "shop.sql").write_text(SCRIPT)
    with open_place(str(tmp_path / "shop.sql")) as place:
        joined = place.execute("select count(*) from orders join customers on orders.customer_id = customers.id")
    assert joined.rows == [(0,)]
    assert place.schema.notes == (
        "no foreign key is declared; by their names, these are taken for keys: orders.customer_id -> customers",
    )
    options = PromptOptions("ddl", 0)
    assert "foreign key (customer_id) references customers (id)" in ddl(place.schema.tables[1], options)
