"""The console's own files: each under a name that holds its digest, so that a browser asks for it once and for ever."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

STATIC_DIR = Path(__file__).parent / "static"
STATIC_URL = "/static/"
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served: plain, and compressed once at the start."""

    kind: str
    plain: bytes
    packed: bytes


class Assets:
    """Every file of a folder by the name it is served under."""

    def __init__(self, folder: Path = STATIC_DIR) -> None:
        self._served: dict[str, Asset] = {}
        self._names: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in _KINDS:
                self._add(path)

    def url(self, name: str) -> str:
        """Return where a file is served; KeyError where there is none, which is a fault of a template."""
        return STATIC_URL + self._names[name]

    def packed_bytes(self) -> int:
        """Return how many bytes all files together are on the way."""
        return sum(len(asset.packed) for asset in self._served.values())

    def answer(self, request: Request) -> Response:
        """Answer a request for one of them; a name of an older version is not there any more."""
        asset = self._served.get(request.path_params["name"])
        if asset is None:
            return Response("no such file", 404)
        headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(asset.plain, media_type=asset.kind, headers=headers)
        return Response(asset.packed, media_type=asset.kind, headers={**headers, "Content-Encoding": "gzip"})

    def _add(self, path: Path) -> None:
        plain = path.read_bytes()
        name = f"{path.stem}.{sha256(plain).hexdigest()[:12]}{path.suffix}"
        self._names[path.name] = name
        self._served[name] = Asset(_KINDS[path.suffix], plain, gzip.compress(plain, 9, mtime=0))
