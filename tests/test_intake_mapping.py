"""A mapping file that is wrong is refused with the key and what would be right; a right one reaches everything."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_pos import EXAMPLES

from edge.intake.mapping import MappingError, address_of, read_mapping
from edge.intake.plan import PARTS, SUMS, leaves_of
from edge.intake.queries import for_pymysql, parameters_of
from edge.intake.rows import add_part, begin, finish
from wire.documents import Cash, Fiscal, Line, Mark, Operator, Original, Shift, Tax, Tender, Totals

SQLITE = (EXAMPLES / "sqlite-pos.toml").read_text("utf-8")
CSV = (EXAMPLES / "csv-folder.toml").read_text("utf-8")
JSON = 'kind = "folder"\nname = "drop"\nfolder = "/srv/drop"\nformat = "json"\n'


def refusal(folder, text):
    path = folder / "m.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(MappingError) as raised:
        read_mapping(path)
    assert str(raised.value).startswith(str(path))
    return str(raised.value).removeprefix(f"{path}: ")


def test_the_examples_reach_every_field_of_the_schema():
    """All blocks of a document can be mapped; the SQL examples do so but for a few single fields."""
    for name in ("sqlite-pos", "mariadb-pos"):
        mapping = read_mapping(EXAMPLES / f"{name}.toml")
        mapped = {leaf.path for plan in (mapping.documents, *mapping.parts.values()) for leaf in leaves_of(plan)}
        blocks = {"operator": Operator, "original": Original, "totals": Totals, "cash": Cash, "tenders": Tender}
        blocks |= {"lines.marks": Mark, "fiscal": Fiscal, "shift": Shift}
        for path, struct in blocks.items():
            needed = set(struct.__struct_fields__) - set(SUMS)
            assert {f"{path}.{field}" for field in needed} <= mapped, path
        assert set(Line.__struct_fields__) - {"taxes", "marks"} <= {path.removeprefix("lines.") for path in mapped}
        assert set(Tax.__struct_fields__) - {"included"} <= {path.removeprefix("taxes.") for path in mapped}
        assert {*PARTS, *SUMS} == set(mapping.parts)


@pytest.mark.parametrize(
    ("given", "instead", "told"),
    [
        ('kind = "sql"', 'kind = "sqll"', '`kind` must be "sql" or "folder"'),
        ("poll_s = 5", "pol_s = 5", "unknown key `pol_s`; did you mean `poll_s`?"),
        ("poll_s = 5", "poll_s = 0", "Expected `float` >= 0.1"),
        ("poll_s = 5", "limit_documents = 5000", "Expected `int` <= 1000 - at `$.limit_documents`"),
        ('key = "id" ', 'kee = "id" ', "unknown key `documents.kee`; did you mean `key`?"),
        ("[lines]", "[line]", "unknown key `line`; did you mean `lines`?"),
        ('name = "sqlite-pos"', 'name = "../x"', "$.name"),
        ('currency = "RUB"', "", "currency: say it once"),
        ('time_zone = "Europe/Moscow"', "", "time_zone: say where"),
        ('time_zone = "Europe/Moscow"', 'time_zone = "Europe/Moskau"', "time_zone: no time zone 'Europe/Moskau'"),
        ("sqlite:///var", "sqlite:/var", "database: write sqlite:///"),
        ("sqlite:///var/lib/pos/pos.db", "mysql://pos:secret@host/db", "password does not belong here"),
        ("sqlite:///var/lib/pos/pos.db", "mysql://host/db", "database: write"),
        ("receipt.id > :after", "receipt.id > 0", "documents.query: must use :after"),
        ("LIMIT :limit", "LIMIT 100", "documents.query: must use :limit"),
        ("receipt.id > :after", "receipt.id > :after AND :kee", "nobody gives a value for :kee"),
        ("\nSELECT receipt.*", "\nDELETE receipt.*", "must begin with SELECT or WITH"),
        ('closed_at = "closed"', "", "documents.fields: `closed_at` is missing"),
        ('closed_at = "closed"', 'closed_at = "c"\nclosedat = "x"', "`closedat`; did you mean `closed_at`?"),
        ('closed_at = "closed"', 'closed_at = { colum = "x" }', "closed_at: unknown field `colum`; did you mean"),
        ('closed_at = "closed"', "closed_at = {}", "give either `column` or a constant `value`"),
        ('closed_at = "closed"', 'closed_at = { column = "x", value = "y" }', "give either `column` or a constant"),
        ('closed_at = "closed"', 'closed_at = { column = "x", kind = "tm" }', "closed_at: Invalid enum value 'tm'"),
        ('{ value = "cash" }', "{ value = 1 }", "fields.cash.tender_type: the constant 1 must be of type str"),
        ("flags.training", "flags.trainin", "did you mean `training`?"),
        ('extended_minor = "amount"', "", "lines.fields: `extended_minor` is missing"),
        ('total_minor = "total" }', 'total_minor = "total", totl = "x" }', "fields.totals: unknown field `totl`"),
        ('count = "documents"\n', "", "by_type.fields: `count` is missing"),
        ("[documents.fields]", "[documents.fields]\nshift.by_type = { x = 1 }", "write a section [by_type]"),
        ("poll_s = 5", "poll_s = ", "no TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_would_be_right(tmp_path, given, instead, told):
    """The file, the key, and the nearest name that exists."""
    text = SQLITE.replace("shift = {", "#", 1) if "shift.by" in instead else SQLITE
    assert given in text

    assert told in refusal(tmp_path, text.replace(given, instead, 1))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (JSON.replace("/srv/drop", "drop"), "folder: 'drop' must begin at the root"),
        (JSON + 'pattern = "a/*.csv"', "pattern: 'a/*.csv' must be a file name"),
        (JSON + "[documents]\nkey = 'a'\nfields = {}", "documents: a JSON file holds documents as they are"),
        (JSON + 'encoding = "koi8-r"', "Invalid enum value 'koi8-r'"),
        (JSON.replace('"json"', '"csv"'), "documents: format csv needs a section"),
        (CSV.replace('["shift", "number"]', "[]"), "documents.key: name the column"),
        (CSV.replace("[documents]", 'columns = ["a", "a"]\n[documents]'), "columns: 'a' comes twice"),
        (CSV.replace("[documents]", 'columns = ["shift"]\n[documents]'), "documents.key: unknown field `number`"),
        (CSV.replace("[lines]", "[lines]\nquery = 'x'"), "unknown key `lines.query`"),
        ("x = 1\n" * 50_000, "this is no mapping"),
        ("\udcff", "no TOML"),
    ],
)
def test_what_is_wrong_in_a_folders_mapping_is_named_too(tmp_path, text, told):
    """As for SQL."""
    if text == "\udcff":
        (tmp_path / "m.toml").write_bytes(b"\xff")
        with pytest.raises(MappingError, match=told):
            read_mapping(tmp_path / "m.toml")
        return

    assert told in refusal(tmp_path, text)


def test_a_mapping_that_is_not_there_is_named(tmp_path):
    """With the system's own word."""
    with pytest.raises(MappingError, match=r"none\.toml: No such file"):
        read_mapping(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("sqlite:///var/lib/pos.db", ("sqlite", "/var/lib/pos.db")),
        ("sqlite:////var/lib/pos.db", ("sqlite", "/var/lib/pos.db")),
        ("sqlite:///var/a%20b/pos.db", ("sqlite", "/var/a b/pos.db")),
        ("mysql://pos@10.0.0.5:3307/shop", ("mysql", "10.0.0.5", 3307, "pos", "shop")),
        ("mysql://pos@localhost/shop", ("mysql", "localhost", 3306, "pos", "shop")),
    ],
)
def test_a_databases_address(tmp_path, given, address):
    """SQLAlchemy's four slashes mean the same."""
    path = tmp_path / "m.toml"
    path.write_text(SQLITE.replace("sqlite:///var/lib/pos/pos.db", given).replace(" || ", " + "), "utf-8")
    found = address_of(read_mapping(path).source)

    got = (found.host, found.port, found.user, found.database) if found.dialect == "mysql" else (found.path,)
    assert address == (found.dialect, *got)


# -- Queries -----------------------------------------------------------------------------------------------------------


def test_parameters_are_found_where_they_are_none_are_text():
    """Literals, names and comments are left alone, as each database reads them."""
    query = """SELECT ':a', ":b", `:c`, 'it''s :d', x::y, :key -- :e
      /* :f */ WHERE t LIKE '%:g' AND z = :key"""

    assert {"key", "y"} == parameters_of(query, "sqlite")
    assert {"key"} == parameters_of(r"SELECT 'it\'s :a', :key # :b", "mysql")
    assert {"key"} == parameters_of(r"SELECT 'ends\', :key, [:a]", "sqlite")


def test_a_query_is_rewritten_for_pymysql():
    """Only parameters become PyMySQL's; a percent sign of the query's own stays one."""
    given = "SELECT a % 2, DATE_FORMAT(d, '%d.%m') FROM t WHERE k = :key AND n LIKE '%:key%'"

    assert for_pymysql(given) % {"key": 5} == given.replace("k = :key", "k = 5")


@given(st.text(alphabet="ab:%'\"`\\-#/* \n=k", max_size=60))
def test_rewriting_never_loses_a_character(text):
    """Whatever a query holds, what PyMySQL makes of it is the query again where no parameter stood."""
    names = parameters_of(text, "mysql")

    assert for_pymysql(text) % {name: f":{name}" for name in names} == text


# -- Blocks ------------------------------------------------------------------------------------------------------------


def built(folder, fields, row, parts=None):
    """Return the document that a mapping with these head fields makes of a row."""
    head = 'transaction_type = "kind"\nbusiness_day = "day"\nclosed_at = "closed"\n'
    text = SQLITE[: SQLITE.index("[documents.fields]")] + f"[documents.fields]\n{head}{fields}\n"
    path = folder / "m.toml"
    path.write_text(text, "utf-8")
    mapping = read_mapping(path)
    row = {"kind": "sale", "day": "2026-03-01", "closed": "2026-03-01 10:00:00", **row}
    draft = begin(mapping.documents, row, mapping.notation)
    for name, rows in (parts or {}).items():
        add_part(draft, name, mapping.parts[name], rows)
    return msgspec.json.decode(finish(draft, "derived", {"currency": "RUB"}).body)


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        ("sale", {"totals"}),
        ("cancelled", {"totals"}),
        ("paid_in", {"cash"}),
        ("shift_close", {"shift"}),
        ("no_sale", set()),
        ("nobody knows", {"totals", "cash", "shift"}),
    ],
)
def test_a_block_is_there_only_where_its_type_has_it(tmp_path, kind, blocks):
    """One column for the sum serves all; of an unknown type everything is kept, for central to name."""
    fields = 'totals.total_minor = "sum"\ncash.amount_minor = "sum"\nshift.expected_cash_minor = "sum"'
    document = built(tmp_path, fields, {"kind": kind, "sum": "5.00"})

    assert blocks == {"totals", "cash", "shift"} & set(document)


def test_a_block_of_nothing_is_left_out_and_a_total_of_zero_is_not(tmp_path):
    """A card payment of 0 is none; a receipt whose total is 0 (all of it discounted) has totals."""
    fields = """totals.total_minor = "sum"
      operator.operator_id = "cashier"
      tenders = [{ tender_type = { value = "cash" }, amount_minor = "cash" },
                 { tender_type = { value = "card" }, amount_minor = "card" }]"""
    row = {"sum": "0.00", "cashier": None, "cash": "0,00", "card": 0}
    document = built(tmp_path, fields, row)

    assert document["totals"] == {"total_minor": 0}
    assert not {"operator", "tenders"} & set(document)
    paid = built(tmp_path, fields, {**row, "card": "3"})["tenders"]
    assert paid == [{"tender_type": "card", "amount_minor": 300, "tender_number": 1}]


def test_a_field_that_the_schema_does_not_have_is_carried_along(tmp_path):
    """Under a name that begins with x_: unknown fields survive end to end."""
    assert built(tmp_path, 'x_loyalty = "card"', {"card": 17})["x_loyalty"] == "17"


def test_the_order_in_the_file_changes_no_byte(tmp_path):
    """The same row gives the same bytes, so that a repeat is known again."""
    lines = ['store_id = "s"', 'note = "n"', 'operator = { name = "n", operator_id = "o" }', 'x_b = "n"', 'x_a = "n"']
    row = {"s": "1", "n": "x", "o": "2"}

    first, second = (built(tmp_path, "\n".join(order), row) for order in (lines, lines[::-1]))
    assert list(first) == list(second)
    assert list(first["operator"]) == list(second["operator"])


def test_sums_of_one_code_are_added_up():
    """The POS tells two kinds of card apart, the document does not."""
    mapping = read_mapping(EXAMPLES / "sqlite-pos.toml")
    draft = begin((), {}, mapping.notation)
    rows = [
        {"code": "sale.card", "documents": 2, "amount": "5.00"},
        {"code": "sale.card", "documents": 1, "amount": "1"},
    ]
    add_part(draft, "by_tender", mapping.parts["by_tender"], rows)

    assert draft.fields["shift"]["by_tender"] == {"sale.card": {"count": 3, "amount_minor": 600}}
