"""The integrator's guide cannot rot: each key of a mapping is in it with its default, its texts are mappings."""

from __future__ import annotations

import re

import msgspec
import pytest
from intake_pos import EXAMPLES

from edge.intake.fields import Field
from edge.intake.mapping import FolderSource, SqlSource, read_mapping
from edge.intake.plan import PARTS, SUMS
from edge.intake.taking import FILE_FAILED, NUMBERS_WENT_BACK

PAGE = (EXAMPLES.parent / "integration.md").read_text("utf-8")


def section(title):
    return re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("struct", "title"),
    [(SqlSource, "Its own database"), (FolderSource, "A watched folder"), (Field, "What `fields` can say")],
)
def test_every_key_of_a_mapping_is_documented_with_its_default(struct, title):
    """In the table of its section; a simple default is the one that the code has."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section(title), re.MULTILINE)
    documented = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}

    for field in msgspec.structs.fields(struct):
        if field.name in documented and documented[field.name].startswith("`"):
            default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            assert documented[field.name].strip("`") == _as_toml(default), field.name
        assert field.name in documented or (struct is FolderSource and field.name in (*PARTS, *SUMS))
        assert (documented.get(field.name) == "required") <= field.required


def _as_toml(value):
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case ():
            return "[]"
    return str(value)


@pytest.mark.parametrize("number", range(2))
def test_the_mappings_in_the_guides_own_text_are_mappings(tmp_path, number):
    """What stands there can be copied."""
    path = tmp_path / "m.toml"
    path.write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[number], "utf-8")

    assert read_mapping(path).name == ("shop", "drop")[number]


def test_every_example_and_every_finding_is_named():
    """An example nobody links to, and a code nobody explains, help nobody."""
    for path in EXAMPLES.glob("*.toml"):
        assert f"intake/{path.name}" in PAGE
        assert read_mapping(path).name == path.stem
    for code in (NUMBERS_WENT_BACK, FILE_FAILED):
        assert f"`{code}`" in PAGE
