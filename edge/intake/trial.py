"""Shows what a mapping or a file would give, and what central would refuse of it; takes nothing and moves nothing.

The shape of each document is checked as central does it. Whether lines, tenders and totals agree is central's to judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from wire.documents import Document

from .files import Contents, read_contents, read_plain
from .mapping import FolderSource, MappingError, read_mapping
from .mapping import Mapping as MappingFile
from .prepare import Prepared, prepare
from .sql import SqlReader
from .taking import IntakeError
from .watched import FolderReader

CHECKED_MAX = 1_000
COUNTED_MAX = 100_000
FILES_MAX = 20
"""So many files of a folder are looked into."""

_decode = msgspec.json.Decoder(Document).decode


@dataclass(slots=True)
class Trial:
    """What would be taken."""

    source: str
    waiting: int = 0
    is_all: bool = True
    """False where there is more than was counted."""
    documents: list[dict[str, Any]] = field(default_factory=list)
    checked: int = 0
    kept_as_is: Counter[str] = field(default_factory=Counter)
    """Values that could not be converted, by field."""
    refused: Counter[str] = field(default_factory=Counter)
    """What central would say, by reason; it names the field."""
    card_numbers: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def has_findings(self) -> bool:
        """Say whether a person should look at it."""
        return bool(self.kept_as_is or self.refused or self.card_numbers or self.complaints)

    def check(self, prepared: Prepared, most: int) -> None:
        """Look at one document as the outbox would hold it, and keep it if there is room."""
        self.checked += 1
        self.card_numbers += prepared.card_numbers
        reason = _refusal(prepared.body)
        self.refused.update([reason] if reason else [])
        if len(self.documents) < most:
            self.documents.append(
                {
                    "document_id": prepared.document_id,
                    "size_bytes": len(prepared.body),
                    "is_urgent": prepared.is_urgent,
                    "is_oversize": prepared.aside is not None,
                    "card_numbers_masked": prepared.card_numbers,
                    "refusal": reason,
                    "document": msgspec.json.decode(prepared.body),
                }
            )


def try_mapping(path: Path, positions: Path, about: Mapping[str, str], limit_bytes: int, most: int) -> Trial:
    """Try a mapping on what waits now; raises IntakeError."""
    mapping = read_mapping(path)
    trial = Trial(f"{mapping.name} ({mapping.source.kind})")
    if isinstance(mapping.source, FolderSource):
        for name, contents in FolderReader(mapping, about).waiting(FILES_MAX):
            _add_file(trial, name, contents, limit_bytes, most)
        return trial
    reader = SqlReader(mapping, positions, about)
    try:
        found = reader.waiting(CHECKED_MAX, COUNTED_MAX)
    finally:
        reader.close()
    trial.waiting, trial.is_all = found.count, found.is_all
    for built in found.documents:
        trial.kept_as_is.update(f"{problem.path}: {problem.text}" for problem in built.problems)
        trial.check(prepare(built.body, limit_bytes, built.make_id), most)
    return trial


def try_file(path: Path, by: Path | None, about: Mapping[str, str], limit_bytes: int, most: int) -> Trial:
    """Try a file of documents, by a folder's mapping or as JSON; raises IntakeError."""
    mapping = _folder_mapping(path, by)
    try:
        given = path.read_bytes()
    except OSError as problem:
        raise IntakeError(f"{path}: {problem.strerror}") from None
    trial = Trial(path.name)
    contents = read_contents(mapping, path.name, given, about) if mapping else read_plain(path.name, given)
    _add_file(trial, path.name, contents, limit_bytes, most)
    return trial


def _folder_mapping(path: Path, by: Path | None) -> MappingFile | None:
    if by is None:
        if path.suffix.lower() == ".csv":
            raise MappingError(f"{path}: a CSV file says nothing without a mapping; name it by --mapping")
        return None
    mapping = read_mapping(by)
    if not isinstance(mapping.source, FolderSource):
        raise MappingError(f'{by}: kind: a file is read by a mapping with kind = "folder"')
    return mapping


def _add_file(trial: Trial, name: str, contents: Contents, limit_bytes: int, most: int) -> None:
    trial.waiting += len(contents.documents)
    if contents.complaint:
        trial.complaints.append(f"{name}: {contents.complaint}")
    for given in contents.documents[: CHECKED_MAX - trial.checked]:
        trial.kept_as_is.update(f"{problem.path}: {problem.text}" for problem in given.problems)
        trial.check(prepare(given.body, limit_bytes, given.make_id), most)


def _refusal(body: bytes) -> str:
    """Return what central would say of a document's shape, or nothing."""
    try:
        _decode(body)
    except msgspec.MsgspecError as problem:
        return str(problem)
    return ""
