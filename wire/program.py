"""What every program of ours does alike: read its configuration, log one line per step, tell systemd, stop cleanly."""

from __future__ import annotations

import difflib
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec.structs import FieldInfo

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_FINDINGS, EXIT_NOT_REACHABLE = 0, 1, 2, 3, 7
CONFIG_DIR = Path("/etc/tillstream")
VARIABLE = "TILLSTREAM_"
ALIKE = 0.88
"""How like each other two keys are (difflib) when one must be a misspelling; no two real keys are so alike."""
LOG_KEYS = ("till", "stream", "after", "through", "count")

Config = TypeVar("Config", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used; the text names the file, the key and what would be right."""


@cache
def installed_version() -> str:
    """Return the installed version, or ``checkout``."""
    try:
        return version("tillstream")
    except PackageNotFoundError:
        return "checkout"


def read_config(config_type: type[Config], name: str, path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read ``/etc/tillstream/<name>.toml`` (or ``path``), then let ``TILLSTREAM_<KEY>`` override it.

    A missing default file means defaults; a missing named file, an unknown key or a value out of bounds is an error.
    """
    where = path or CONFIG_DIR / f"{name}.toml"
    known = {field.encode_name: field for field in msgspec.structs.fields(config_type)}
    values = _read_toml(path, where)
    for key in values:
        _refuse_unknown(key, known, where)
    values |= _from_environment(environ, known)
    try:
        return msgspec.convert(values, config_type, strict=False)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"{problem}; set it in {where} or as TILLSTREAM_<KEY> in the environment") from problem


def _read_toml(path: Path | None, where: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(where.read_text("utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise ConfigError(f"no configuration file at {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError(f"cannot read {where}: {problem}") from problem


def _refuse_unknown(key: str, known: Mapping[str, object], path: Path) -> None:
    if key in known:
        return
    close = difflib.get_close_matches(key, known, n=1)
    raise ConfigError(f"{path}: unknown key `{key}`" + (f"; did you mean `{close[0]}`?" if close else ""))


def _from_environment(environ: Mapping[str, str], known: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Return what ``TILLSTREAM_<KEY>`` sets, as text that its field's type converts; a list has commas between.

    Other programs' keys may stand in the same environment; one that looks like a misspelt key of ours is an error.
    """
    values: dict[str, Any] = {}
    for variable in sorted(name for name in environ if name.startswith(VARIABLE)):
        key, text = variable.removeprefix(VARIABLE).lower(), environ[variable]
        if key in known:
            values[key] = _split(text) if isinstance(known[key].default, tuple) else text
        elif close := difflib.get_close_matches(key, known, n=1, cutoff=ALIKE):
            raise ConfigError(
                f"unknown variable {variable} in the environment; did you mean {VARIABLE}{close[0].upper()}?"
            )
    return values


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class JsonLines(logging.Formatter):
    """One JSON object a line, with the same five keys everywhere, so that one search follows a receipt."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; ``event`` is a stable English slug."""
        line: dict[str, object] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "program": record.name,
            "event": record.getMessage(),
        }
        line.update((key, vars(record)[key]) for key in LOG_KEYS if key in vars(record))
        line.update(vars(record).get("also", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to_stderr(level: str = "info") -> None:
    """Send our programs' log lines to standard error, where systemd's journal takes them."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines())
    root = logging.getLogger("tillstream")
    root.handlers[:] = [lines]
    root.setLevel(level.upper())
    root.propagate = False


def notify_systemd(state: str) -> None:
    """Tell systemd a state such as ``READY=1``; silently nothing where systemd did not start us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.settimeout(1)
        try:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(state.encode())
        except OSError:
            return  # A supervisor that went away must not stop the upload.


class Watchdog:
    """Tells systemd that the one thread that matters still turns, at half of the time it allows (WATCHDOG_USEC)."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.every_s = int(environ.get("WATCHDOG_USEC", "0")) / 2_000_000 or None
        self._next_at = 0.0

    def turn(self, now: float) -> None:
        """Say that a turn was made, if it is time to."""
        if self.every_s and now >= self._next_at:
            self._next_at = now + self.every_s
            notify_systemd("WATCHDOG=1")


def read_secret(value: str, path: str, name: str) -> str:
    """Return a secret given as a value or, better, as a file; raises ConfigError that says how to give it."""
    if value or not path:
        return value
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{name}_file: {problem}") from problem


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` on SIGTERM and SIGINT; it must only set a flag or put a message."""

    def stop_soon(_number: int, _frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, stop_soon)
    signal.signal(signal.SIGINT, stop_soon)


_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DISK_FAILURES = (sqlite3.SQLITE_IOERR, *_DAMAGE)


def is_disk_failure(problem: BaseException) -> bool:
    """Say whether the disk failed under a database: a write or an fsync went wrong, or what it holds is torn.

    A full disk and a lock that somebody else holds are not meant: after them the same connection may go on.
    """
    return _has_code(problem, _DISK_FAILURES)


def is_damage(problem: BaseException) -> bool:
    """Say whether a database holds what nobody wrote: pages that are torn, or no database at all."""
    return _has_code(problem, _DAMAGE)


def _has_code(problem: BaseException, codes: tuple[int, ...]) -> bool:
    seen: BaseException | None = problem
    while seen is not None:  # Peewee's error, or a ROLLBACK that found nothing, stands before what really happened.
        if getattr(seen, "sqlite_errorcode", 0) & 0xFF in codes:
            return True
        seen = seen.__context__
    return False


def end_at_once(log: logging.Logger, problem: BaseException) -> NoReturn:
    """End the process and leave the open database as it is; systemd starts it again, and the database is made anew.

    After a failed fsync nobody knows what the disk holds: the next one may succeed without having written a thing. So
    the connection is not even closed, which would move its log into the database.
    """
    log.critical("disk_failed", extra={"also": {"error": str(problem)}})
    logging.shutdown()
    os._exit(EXIT_FAILED)
