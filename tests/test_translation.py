"""The texts that people read: each has its Russian, and what is compiled is what was written."""

from __future__ import annotations

import gettext
import io
import string
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from edge.cashier import LINES
from wire.doctor import CHECKS
from wire.reasons import KINDS, RANKS, TILL_TROUBLES, Reason, foremost
from wire.translation import LOCALE_DIR, tell, translate

ROOT = Path(__file__).parent.parent
WIRE = LOCALE_DIR.parent
RUSSIAN = LOCALE_DIR / "ru" / "LC_MESSAGES"
TEXTS = {text for kind in (*KINDS.values(), *CHECKS.values()) for text in (kind.title, kind.next_step)}
TEXTS |= set(LINES.values())


@pytest.fixture(scope="module")
def catalogue():
    """Return the Russian texts as they were written."""
    with (RUSSIAN / "tillstream.po").open("rb") as file:
        return read_po(file, locale="ru")


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def test_every_text_has_its_russian_and_none_is_left_over(catalogue):
    """No text is untranslated, fuzzy or forgotten in the catalogue."""
    written = {message.id: message for message in catalogue if message.id}

    assert set(written) == TEXTS
    assert [] == [text for text, message in written.items() if not message.string.strip() or message.fuzzy]


def test_a_translation_has_the_placeholders_of_its_text(catalogue):
    """A figure that the English names stands in the Russian too, and nothing that nobody fills in."""
    for message in catalogue:
        if message.id:
            assert placeholders(message.id) == placeholders(message.string), message.id
            assert set(placeholders(message.id)) <= {"detail", "unsent"}


def test_the_compiled_catalogue_is_what_the_written_one_compiles_to(catalogue):
    """`pybabel compile` was not forgotten. The header aside, which names Babel's version."""
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    with (RUSSIAN / "tillstream.mo").open("rb") as file:
        there = gettext.GNUTranslations(file)
    made = gettext.GNUTranslations(compiled)

    assert {text: made.gettext(text) for text in TEXTS} == {text: there.gettext(text) for text in TEXTS}
    assert all(there.gettext(text) != text for text in TEXTS)


def test_the_catalogue_is_installed_with_the_package():
    """A till that was installed from a wheel speaks Russian too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    installed = {path for glob in project["tool"]["setuptools"]["package-data"]["wire"] for path in WIRE.glob(glob)}

    assert RUSSIAN / "tillstream.mo" in installed


@pytest.mark.parametrize("code", KINDS)
@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_reason_says_what_it_is_and_what_to_do_in_both_languages(code, language):
    """A title without an unfilled placeholder, and a next step; the detail is shown as it is, braces and all."""
    title, next_step = tell(Reason(code, detail="{7}"), language)

    assert title
    assert next_step
    assert "{detail}" not in title
    assert ("{7}" in title) == ("{detail}" in KINDS[code].title)
    assert translate(KINDS[code].title, "ru") != KINDS[code].title


def test_the_order_of_the_list_decides_which_reason_is_shown():
    """Each reason gives way to every one above it, whatever the order they are found in; of equals the older stays."""
    codes = list(KINDS)
    for higher, lower in pairwise(codes):
        assert foremost([Reason(lower), Reason(higher)]).code == higher
        assert foremost([Reason(higher), Reason(lower)]).code == higher

    assert foremost([Reason("other_trouble", 20), Reason("other_trouble", 10), Reason("other_trouble")]).since_ms == 10
    assert foremost([]).code == "up_to_date"
    assert [*RANKS.values()] == list(range(len(codes)))
    assert [KINDS[code].severity for code in TILL_TROUBLES] == ["act"] * len(TILL_TROUBLES)


def test_every_reason_is_documented():
    """The page of reasons has each code with its severity and title, in the order that counts."""
    page = (ROOT / "docs" / "reasons.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.count("|") == 6 and "| `" in line]

    assert [f"| `{kind.code}` | {kind.severity} | {kind.title} |" for kind in KINDS.values()] == [
        "|".join(row.split("|")[:4]) + "|" for row in rows
    ]
