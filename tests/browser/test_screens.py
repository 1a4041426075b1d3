"""Pictures of the main pages for docs/console.md; with TILLSTREAM_SCREENS=1 a run keeps them in docs/screens/."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
import retail_chain as chain
from brokers import ROOT
from playwright.sync_api import expect

SCREENS = ROOT / "docs" / "screens"
KEPT = os.environ.get("TILLSTREAM_SCREENS") == "1"
SIZE = {"width": 1120, "height": 700}
BYTES_MOST = 160_000
PICTURES = {
    "overview": ("/", "en", "light"),
    "tills": ("/tills", "en", "light"),
    "till": (f"/tills/{chain.BEHIND}", "ru", "dark"),
    "days": ("/days", "en", "light"),
    "day": ("/days/{day}/042", "ru", "light"),
    "receipt": ("/receipts/{receipt}", "en", "dark"),
    "quarantine": ("/quarantine", "en", "light"),
    "wizard": ("/automation/wizard", "ru", "light"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_page_can_be_pictured(visitor, shops, name, tmp_path):
    """The page is whole when it is pictured: its heading is there, and the picture has the size of the window."""
    path, language, theme = PICTURES[name]
    page = visitor.as_("administrator", language=language, theme=theme, viewport=SIZE)
    page.goto("/receipts?till=042-01&number=3")
    receipt = page.locator("table.list tbody a").first.get_attribute("href").rpartition("/")[2]
    page.goto(path.format(day=shops.yesterday, receipt=receipt))
    expect(page.locator("h1")).not_to_be_empty()
    picture = (SCREENS if KEPT else tmp_path) / f"{name}.png"
    page.screenshot(path=picture, animations="disabled")

    assert (SIZE["width"], SIZE["height"]) == struct.unpack(">II", picture.read_bytes()[16:24])


def test_the_documentation_shows_each_picture_and_none_is_large():
    """Each picture that is kept is shown, each that is shown is there."""
    shown = re.findall(r"screens/(\w+)\.png", (ROOT / "docs" / "console.md").read_text("utf-8"))
    kept = {path.stem: path.stat().st_size for path in Path(SCREENS).glob("*.png")}

    assert set(PICTURES) == set(shown) == set(kept)
    assert {} == {name: size for name, size in kept.items() if size > BYTES_MOST}
