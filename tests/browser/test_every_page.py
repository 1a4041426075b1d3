"""Every page of the console, in both themes: readable for all, in its language, and asking nobody else."""

from __future__ import annotations

from importlib import import_module

import harness
import pytest
import retail_chain as chain
from fastapi.routing import APIRoute

from central.console import app

FILES = (".{form}", "/bytes", ".txt", "/login", "/metrics", "/healthz", "/readyz")
"""What is no page to look at, and the login, which is looked at by nobody who is logged in."""
EXAMPLES = {"till_id": chain.VERIFIED, "number": "1", "store": "042", "store_id": "042", "form": "json", "name": "bi"}
"""What stands for a parameter of a path."""


def routes(module):
    """Return the paths of a module's pages: whatever it answers to GET that is no file."""
    router = import_module(f"central.console.{module}").router
    paths = {route.path for route in router.routes if isinstance(route, APIRoute) and "GET" in route.methods}
    return sorted(path for path in paths if not path.endswith(FILES))


MODULES = [name for name in app.PAGES if routes(name)]


def named(path, shops):
    """Return a path with its parameters filled in."""
    examples = {**EXAMPLES, "day": shops.yesterday, "date": shops.yesterday, "document_id": shops.a_document, "id": "1"}
    return path.replace(":path}", "}").format(**examples)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("module", MODULES)
def test_axe_finds_nothing_on_any_page(visitor, shops, module, theme):
    """Contrast, names, order of headings, landmarks: 0 violations, as an administrator with every form shown."""
    page = visitor.as_("administrator", theme=theme)
    found = []
    for path in routes(module):
        assert page.goto(named(path, shops)).status == 200, path
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        found += harness.violations(page)

    assert [] == found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/login", "/quarantine/9999", "/automation?scope=planet"])
def test_axe_finds_nothing_where_something_is_wrong(visitor, theme, path):
    """The login, what is not there and what cannot be are pages like the others."""
    page = visitor.anonymous(theme=theme) if path == "/login" else visitor.as_("viewer", theme=theme)
    page.goto(path)

    assert [] == harness.violations(page)


@pytest.mark.parametrize("language", ["ru", "en"])
@pytest.mark.parametrize("module", MODULES)
def test_a_page_speaks_its_readers_language(visitor, shops, module, language):
    """Every page names its language, and a Russian one has a Russian title and heading."""
    page = visitor.as_("administrator", language=language)
    for path in routes(module):
        page.goto(named(path, shops))
        assert language == page.locator("html").get_attribute("lang"), path
        is_russian = any("а" <= letter <= "я" for letter in page.locator("h1").inner_text().lower())
        assert is_russian == (language == "ru") or not page.locator("h1").inner_text().strip("0123456789-: "), path
