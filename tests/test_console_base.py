"""The console's frame: files that are ours to serve, texts in two languages, lists that live in the URL."""

from __future__ import annotations

import gettext
import gzip
import io
import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.testclient import TestClient

from central.console import lists, outcome, values
from central.console.assets import STATIC_DIR, Assets
from central.console.words import LOCALE_DIR, speaker

ROOT = Path(__file__).parent.parent
CONSOLE = ROOT / "central" / "console"
TEMPLATES = sorted((CONSOLE / "templates").glob("*.html"))
CATALOGUES = sorted((LOCALE_DIR / "ru" / "LC_MESSAGES").glob("*.po"))
ADDRESS = re.compile(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*")
NAMES_ONLY = ("http://www.w3.org/2000/svg", "https://picocss.com", "https://github.com/leeoniya/uPlot")
"""A namespace, and what two licence headers say in a comment: nothing that a browser fetches."""


# -- Files -------------------------------------------------------------------------------------------------------------


def the_digests():
    text = (ROOT / "THIRD_PARTY.md").read_text("utf-8")
    return dict(re.findall(r"^\| `([\w.]+)` .* `([0-9a-f]{64})` \|$", text, re.MULTILINE))


def test_files_of_others_are_those_that_are_named():
    """Each file of somebody else has its version and digest in THIRD_PARTY.md, and is that very file."""
    ours = {"console.js", "console.css", "icon.svg"}
    there = {path.name: sha256(path.read_bytes()).hexdigest() for path in STATIC_DIR.iterdir()}

    assert the_digests() == {name: digest for name, digest in there.items() if name not in ours}


def test_no_page_asks_another_host():
    """Neither a template nor a file of the console names an address that a browser would fetch from."""
    texts = {path.name: path.read_text("utf-8") for path in [*TEMPLATES, *STATIC_DIR.iterdir()]}
    found = {name: [one for one in ADDRESS.findall(text) if one not in NAMES_ONLY] for name, text in texts.items()}

    assert {name: [] for name in texts} == found


def test_no_template_holds_a_script_or_a_style():
    """The content policy allows neither inline scripts nor inline styles, so no template may have one."""
    inline = re.compile(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|hx-on|javascript:")

    assert {} == {path.name: hits for path in TEMPLATES if (hits := inline.findall(path.read_text("utf-8")))}


def test_all_files_together_are_small_on_the_way():
    """Whatever a first visit fetches beside the page is at most 55 KB."""
    assert Assets().packed_bytes() <= 55 * 1024


@pytest.fixture
def app():
    """Return an application that has the files only."""
    return TestClient(Starlette(routes=[Route("/static/{name}", Assets().answer)]))


def test_a_file_is_kept_for_ever_under_the_digest_of_what_it_is(app):
    """A file's name holds its digest; it is compressed for who can read that, and plain for who cannot."""
    url = Assets().url("console.js")
    packed, plain = app.get(url), app.get(url, headers={"Accept-Encoding": "identity"})

    assert sha256((STATIC_DIR / "console.js").read_bytes()).hexdigest()[:12] in url
    assert "immutable" in packed.headers["Cache-Control"]
    assert ("gzip", None) == (packed.headers["Content-Encoding"], plain.headers.get("Content-Encoding"))
    assert packed.content == plain.content == (STATIC_DIR / "console.js").read_bytes()
    assert int(packed.headers["Content-Length"]) == len(gzip.compress(plain.content, 9, mtime=0))


def test_a_file_of_an_older_version_is_not_there(app):
    """A name with another digest is no file."""
    assert 404 == app.get("/static/console.000000000000.js").status_code


def test_a_reader_is_sent_back_to_pages_of_this_console_only():
    """What stands in a form as the way back cannot lead to another host."""
    elsewhere = ["//evil.example", "https://evil.example", "/\\evil.example", "", "javascript:alert(1)", "/a\nb"]

    assert dict.fromkeys(elsewhere, "/") == {
        where: outcome.back(where, "done").headers["location"] for where in elsewhere
    }
    assert "/tills?state=late" == outcome.back("/tills?state=late", "done").headers["location"]


# -- Texts -------------------------------------------------------------------------------------------------------------


def the_texts():
    keywords = {"_": None, "say": None}
    found = set()
    for paths, method in ((TEMPLATES, "jinja2.ext.babel_extract"), (sorted(CONSOLE.rglob("*.py")), "python")):
        for path in paths:
            with path.open("rb") as file:
                messages = extract(method, file, keywords=keywords, options={"trimmed": "true"})
                found |= {text for _, text, _, _ in messages if isinstance(text, str)}
    return found


def messages_of(path):
    with path.open("rb") as file:
        return [message for message in read_po(file, locale="ru") if message.id]


def test_every_text_of_the_pages_has_its_russian_and_none_is_left_over():
    """No text is untranslated or fuzzy, none is forgotten in a catalogue, and none stands in two of them."""
    written = [message for path in CATALOGUES for message in messages_of(path)]

    assert the_texts() - {message.id for message in written} == set()
    assert {message.id for message in written} - the_texts() == set()
    assert len(written) == len({message.id for message in written})
    assert [] == [message.id for message in written if message.fuzzy or not message.string.strip()]


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_compiled_catalogue_is_what_the_written_one_compiles_to(path):
    """`pybabel compile` was not forgotten, and what is compiled is what the pages speak."""
    with path.open("rb") as file:
        catalogue = read_po(file, locale="ru")
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    made = gettext.GNUTranslations(compiled)
    speak = speaker("ru")

    assert [] == [one.id for one in catalogue if one.id and speak(one.id) != made.gettext(one.id)]


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_translation_names_the_same_figures(path):
    """What is filled into a text is filled into its translation, too."""
    figures = re.compile(r"%\(\w+\)s|\{\w*\}")

    assert [] == [m.id for m in messages_of(path) if sorted(figures.findall(m.id)) != sorted(figures.findall(m.string))]


# -- Values ------------------------------------------------------------------------------------------------------------


def test_unknown_is_never_shown_as_zero():
    """A number, an amount and a time that nobody knows have their own sign."""
    assert ("?", "0") == (values.count(None), values.count(0))
    assert ("?", "0.00") == (values.money(None), values.money(0))
    assert "–" == values.at(None)


@pytest.mark.parametrize(
    ("minor", "shown"), [(1, "0.01"), (-5, "−0.05"), (123_456_789, "1\u202f234\u202f567.89"), (-100, "−1.00")]
)
def test_an_amount_is_shown_to_the_unit(minor, shown):
    """Minor units become a decimal without a rounding."""
    assert shown == values.money(minor)


# -- Lists -------------------------------------------------------------------------------------------------------------

SHAPE = lists.Shape(
    "/things",
    "Things",
    (
        lists.Column("id", "Id", is_sorted=True),
        lists.Column("n", "N", "count", is_sorted=True),
        lists.Column("at_ms", "At", "time", is_hidden=True),
    ),
    (lists.Filter("state", "State", (("a", "A"), ("b", "B"))), lists.Filter("till", "Till")),
    sort="id",
)


def asked(query_string):
    scope = {"type": "http", "method": "GET", "path": "/things", "query_string": query_string.encode(), "headers": []}
    return lists.Wanted.of(SHAPE, lists.Request(scope))


def test_a_list_is_what_its_url_says():
    """Filters, order and page come from the URL, and go back into it without what is the default."""
    wanted = asked("state=b&till=7&sort=-n&page=2")

    assert ({"state": "b", "till": "7"}, "-n", 2) == (wanted.chosen, wanted.sort, wanted.page)
    assert "/things?state=b&till=7&sort=-n&page=3" == wanted.url(page=3)
    assert "/things?till=7&sort=-n" == wanted.url(state="")
    assert "/things.csv?state=b&till=7&sort=-n" == wanted.file_url("csv")
    assert "/things?state=b&till=7" == wanted.url(sort="")


@pytest.mark.parametrize("odd", ["state=c&sort=secret&page=-1", "page=99999999999", "page=%D9%A1", "sort=at_ms", ""])
def test_what_a_list_does_not_know_is_passed_over(odd):
    """A filter's value, a column or a page that does not exist leaves the list as it is at first."""
    wanted = asked(odd)

    assert ({"state": "", "till": ""}, "id", 1) == (wanted.chosen, wanted.sort, wanted.page)


def test_rows_whose_value_is_unknown_come_last_in_either_order():
    """Unknown is neither the least nor the most."""
    rows = [{"id": "a", "n": None}, {"id": "b", "n": 1}, {"id": "c", "n": 2}]

    assert ["b", "c", "a"] == [row["id"] for row in lists.arrange(asked("sort=n"), rows)]
    assert ["c", "b", "a"] == [row["id"] for row in lists.arrange(asked("sort=-n"), rows)]


def test_a_page_of_a_list_tells_whether_there_is_more():
    """The second page of 51 rows has one, and is the last."""
    rows = [{"id": str(number)} for number in range(51)]
    first, second = (lists.part(asked(f"page={number}"), rows) for number in (1, 2))

    assert (50, True, 51) == (len(first.rows), first.has_more, first.total)
    assert (1, False, 51) == (len(second.rows), second.has_more, second.first)


def a_file(form):
    rows = [{"id": "=cmd()", "n": 0, "at_ms": 0}, {"id": "é", "n": None, "at_ms": None}]
    return lists.file(SHAPE, rows, form)


def test_a_list_as_json_has_every_column_and_null_for_what_is_unknown():
    """The hidden columns are in the files, too."""
    rows = json.loads(a_file("json").body)

    assert [{"id": "=cmd()", "n": 0, "at_ms": 0}, {"id": "é", "n": None, "at_ms": None}] == rows


def test_a_list_as_csv_runs_no_formula_and_leaves_the_unknown_empty():
    """A name that a spreadsheet would run as a formula is text; unknown is an empty cell, zero is 0."""
    head, first, second = a_file("csv").body.decode().splitlines()

    assert "id,n,at_ms" == head
    assert first.startswith("'=cmd(),0,")
    assert "é,," == second


def test_a_file_with_too_many_rows_is_refused_and_not_cut_off(monkeypatch):
    """Whoever counts the rows of a file counts all there are, or learns that they are more."""
    monkeypatch.setattr(lists, "ROWS_IN_FILE_MOST", 2)
    monkeypatch.setattr(lists, "ONE_MORE", 3)
    assert len(json.loads(a_file("json").body)) == 2
    with pytest.raises(HTTPException, match="more than"):
        lists.file(SHAPE, [{"id": str(number)} for number in range(3)], "json")
