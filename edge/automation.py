"""What the till does by itself, and where that is kept: central's settings, else the local file, else as it came.

Both files hold the last good word and are replaced as a whole: written, synced, renamed, and the folder synced.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from wire import codec
from wire.automation import (
    AUTOMATION_LIMIT_BYTES,
    FACTORY,
    Automation,
    AutomationError,
    EventName,
    Step,
    check,
    decode,
    encode,
    steps,
)
from wire.messages import Sequence, Settings, TillLimits

from .intake.folder import sync_folder, write_whole
from .syps import SypsLimits

ERROR_MAX = 300
SETTINGS, LOCAL = "settings.json", "automation.json"

Source = Literal["central", "till", "factory"]

_EVENTS_OF_TYPE: dict[str, tuple[EventName, ...]] = {
    "shift_open": ("document_closed", "shift_opened"),
    "shift_close": ("document_closed", "shift_closed"),
}


class NotEditableError(Exception):
    """The till's own automation may not be edited now; the text says who owns it, or what stands in the way."""


class _Numbered(msgspec.Struct):
    revision: Sequence = 0


def events_of(transaction_type: str) -> tuple[EventName, ...]:
    """Return what happens when a document of this type has been closed."""
    return _EVENTS_OF_TYPE.get(transaction_type, ("document_closed",))


class TillAutomation:
    """The automation in force on one till. Without a folder it is kept in memory, as an outbox may be."""

    def __init__(self, folder: Path | None, factory: Automation = FACTORY) -> None:
        """Load what is kept in ``folder``; what cannot be read is not in force, and is told in ``error`` fields."""
        self._folder, self._factory = folder, factory
        self._kept: bytes | None = b""
        self._refused: bytes | None = None
        self._settings: Settings | None = None
        self.settings_refused = 0
        """The revision that could not be used; 0 if none, or if it is to be sent again."""
        self.settings_error = ""
        """Which settings of central were refused, and why; those before them stay."""
        self.local_error = ""
        """Why the till's own file is not used; the till then does what a new one does."""
        self.load()

    @property
    def revision(self) -> int:
        """The revision of central's settings that is in force; 0 if there are none."""
        return self._settings.revision if self._settings else 0

    @property
    def limits(self) -> TillLimits:
        """The limits that central has set."""
        return (self._settings and self._settings.limits) or TillLimits()

    def over(self, own: SypsLimits) -> SypsLimits:
        """Return the till's own limits, and over them those that central has set."""
        names = ("ring_again_s", "ring_again_max_s", "presence_every_s")
        return replace(own, **{name: value for name in names if (value := getattr(self.limits, name)) is not None})

    def told(self) -> dict[str, Any]:
        """Return what is in force and where it comes from, for people and their scripts."""
        return {
            "source": self.source,
            "settings_revision": self.revision,
            "settings_error": self.settings_error,
        }

    def steps_on(self, event: EventName) -> tuple[Step, ...]:
        """Return what is to be done when something happens."""
        return self._steps.get(event, ())

    def load(self) -> None:
        """Read again what is kept, after it was edited."""
        if self._folder is not None:
            self._load_settings(self._folder / SETTINGS)
        self._load_local()

    def take(self, payload: bytes) -> bool:
        """Take what central says, durably; tell whether it differs from what it said before.

        What is broken is refused as a whole. An empty payload gives the till back to itself.
        """
        if payload == (self._kept if self._refused is None else self._refused):
            return False
        self._refused, self.settings_refused = None, 0
        try:
            settings = _decode_settings(payload) if payload else None
            self._keep(payload)
        except (codec.WireError, AutomationError) as problem:
            self._refused, self.settings_refused = payload, _revision_of(payload)
            self.settings_error = f"revision {_revision_of(payload)}: {problem}"[:ERROR_MAX]
        except OSError as problem:  # Tried again when it comes again: there may be room then.
            self.settings_error = f"revision {_revision_of(payload)}: cannot be kept: {problem}"[:ERROR_MAX]
        else:
            self._kept, self._settings, self.settings_error = payload, settings, ""
            self._load_local()
        return True

    def change(self, edit: Callable[[Automation], Automation]) -> None:
        """Edit the till's own automation: checked as a whole, then durable.

        Raises AutomationError, NotEditableError or OSError; nothing was changed then.
        """
        if self._folder is None:
            raise NotEditableError("this till keeps nothing on disk")
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder):
            self.load()
            if self.source == "central":
                raise NotEditableError(
                    f"central owns this till's automation (settings revision {self.revision}): change it there"
                )
            if self.local_error:
                raise NotEditableError(f"{self._folder / LOCAL}: {self.local_error}; mend it or remove it first")
            after = edit(self.automation)
            check(after)
            write_whole(self._folder / LOCAL, encode(after))
            self._load_local()

    def _load_settings(self, path: Path) -> None:
        try:
            payload = _read(path, codec.SMALL_LIMIT_BYTES)
            self._settings = _decode_settings(payload) if payload else None
            self._kept = payload
        except (codec.WireError, AutomationError, OSError) as problem:
            self._kept = self._settings = None
            self.settings_error = f"{path}: {problem}"[:ERROR_MAX]

    def _load_local(self) -> None:
        """Decide what is in force; the till's own file is looked at only where central has not spoken."""
        self.local_error = ""
        self.source: Source
        self.automation: Automation
        if self._settings and self._settings.automation is not None:
            self.source, self.automation = "central", self._settings.automation
        else:
            self.source, self.automation = self._local()
        bound = self.automation.events.items()
        self._steps = {event: steps(self.automation, code) for event, code in bound}

    def _local(self) -> tuple[Source, Automation]:
        try:
            given = _read(self._folder / LOCAL, AUTOMATION_LIMIT_BYTES) if self._folder else b""
            return ("till", decode(given)) if given else ("factory", self._factory)
        except (AutomationError, OSError) as problem:
            self.local_error = str(problem)[:ERROR_MAX]
            return "factory", self._factory

    def _keep(self, payload: bytes) -> None:
        if self._folder is None:
            return
        if payload:
            write_whole(self._folder / SETTINGS, payload)
        elif (path := self._folder / SETTINGS).exists():
            path.unlink()
            sync_folder(self._folder)


def _decode_settings(payload: bytes) -> Settings:
    settings = codec.decode(Settings, payload)
    if settings.automation is not None:
        check(settings.automation)
    return settings


def _revision_of(payload: bytes) -> int:
    """Return the revision of settings that cannot be read otherwise; 0 if they do not even tell that."""
    try:
        return msgspec.json.decode(payload[: codec.SMALL_LIMIT_BYTES], type=_Numbered).revision
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


# -- Files -------------------------------------------------------------------------------------------------------------


def _read(path: Path, limit_bytes: int) -> bytes:
    """Return what a file holds, one byte past the limit at most; nothing if there is none."""
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes + 1)
    except FileNotFoundError:
        return b""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one edit at a time read, change and write; the folder itself is what is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise NotEditableError("another edit of this till's automation is under way; try again") from None
    finally:
        os.close(descriptor)
