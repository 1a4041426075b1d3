"""A browser that watches: the console as a process of its own, and pages that fail a test for what they do unasked.

Chromium reaches nothing but the console: names are not resolved and other addresses refused. What a page asks for
elsewhere, an error in its scripts, what its content security policy blocks and an answer of 500 are all written down.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from brokers import wait_until
from click.testing import CliRunner
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from station import Program, tillstream

from central.cli import central
from fleet.processes import free_port

NO_CHROMIUM = "No Chromium: apt-get install chromium fonts-dejavu-core"
START_S = 30.0
WAIT_MS = 15_000
PASSWORD = "correct horse battery"
"""Of each of the three: viewer, operator, administrator are named by their role."""
ROLES = ("viewer", "operator", "administrator")
LOCALES = {"ru": "ru-RU", "en": "en-GB"}
_REFUSED = "Failed to load resource"
"""What Chromium says of each answer of 400 and more: a test that provokes one asserts it itself."""


def executable() -> str:
    """Return Debian's Chromium, or skip: a browser is not fetched."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip(NO_CHROMIUM)
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start one browser that can reach this machine only."""
    closed = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=closed)
        try:
            yield browser
        finally:
            browser.close()


# -- The console -------------------------------------------------------------------------------------------------------


class Console:
    """``tillstream central console run`` over a database that is there."""

    def __init__(self, url: str, folder: Path, **keys: str | float) -> None:
        self.database, self.folder, self.port = url, folder, free_port()
        named = {f"TILLSTREAM_{name.upper()}": str(value) for name, value in keys.items()}
        environment = {"TILLSTREAM_CONSOLE_LISTEN": f"127.0.0.1:{self.port}", **named}
        self._program = Program(
            folder / "console.log", tillstream("central", "--database", url, "console", "run"), environment
        )

    @property
    def base(self) -> str:
        """The address of its first page, without the slash."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._program.start()
        assert wait_until(self.answers, START_S), self._program.log()[-4000:]

    def answers(self) -> bool:
        assert self._program.process.poll() is None, self._program.log()[-4000:]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/login")
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    def add_user(self, name: str, role: str, password: str = PASSWORD) -> None:
        """Make a user by the command that makes the first administrator."""
        self.command("users", "add", name, "--role", role, given=password)

    def command(self, *arguments: str, given: str | None = None) -> str:
        """Run a command of central's; ``given`` goes into a password file."""
        if given is not None:
            secret = self.folder / "password"
            secret.write_text(given, "utf-8")
            secret.chmod(0o600)
            arguments = (*arguments, "--password-file", str(secret))
        done = CliRunner().invoke(central, ["--database", self.database, *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    def log(self) -> str:
        return self._program.log()

    def stop(self) -> None:
        self._program.stop()


@contextlib.contextmanager
def running(url: str, folder: Path, **keys: str | float) -> Iterator[Console]:
    """Run a console with its three users until the end."""
    console = Console(url, folder, **keys)
    for role in ROLES:
        console.add_user(role, role)
    console.start()
    try:
        yield console
    finally:
        console.stop()


# -- Pages that are watched --------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Writes down what pages do that they must not."""

    base: str
    faults: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        context.on("request", self._on_request)
        context.on("response", self._on_response)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.faults.append(f"script: {error.error}"))

    def _on_request(self, request) -> None:
        asked = urlsplit(request.url)
        if asked.scheme not in ("data", "blob", "about") and f"{asked.scheme}://{asked.netloc}" != self.base:
            self.faults.append(f"left the host: {request.method} {request.url}")

    def _on_response(self, response) -> None:
        if response.status >= 500:
            self.faults.append(f"{response.status}: {response.request.method} {response.url}")

    def _on_console(self, message) -> None:
        if message.type == "error" and _REFUSED not in message.text:
            self.faults.append(f"console: {message.text}")


@dataclass
class Visitor:
    """Opens the console's pages as a person would; ``faults`` is empty unless something must not have happened."""

    browser: Browser
    base: str
    watch: Watch
    _contexts: list[BrowserContext] = field(default_factory=list)

    def anonymous(self, *, language: str = "ru", theme: str = "light", **options) -> Page:
        """Return a page of nobody."""
        context = self.browser.new_context(
            base_url=self.base, locale=LOCALES[language], color_scheme=theme, reduced_motion="reduce", **options
        )
        context.set_default_timeout(WAIT_MS)
        self.watch.over(context)
        self._contexts.append(context)
        return context.new_page()

    def as_(self, user: str, *, password: str = PASSWORD, **look) -> Page:
        """Return a page of someone who has logged in, by default in Russian and light."""
        page = self.anonymous(**look)
        self.log_in(page, user, password)
        page.wait_for_url(re.compile(r"^(?!.*/login)"))
        return page

    def log_in(self, page: Page, user: str, password: str = PASSWORD) -> None:
        page.goto("/login")
        page.locator("input[autocomplete=username]").fill(user)
        page.locator("input[autocomplete=current-password]").fill(password)
        page.locator("input[autocomplete=current-password]").press("Enter")

    def leave(self) -> None:
        for context in self._contexts:
            context.close()


def violations(page: Page) -> list[str]:
    """Return what axe finds on a page, a line for each element."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = Axe().run(page).response["violations"]
    return [
        f"{urlsplit(page.url).path}: {rule['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]
