"""The playground's page as it is served: built by ``make playground``, committed, packed with gzip."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec

from lowtide.kernel.files import folder_of
from lowtide.kernel.http import Request, Response

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
WHOLE_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page around the phones: its own files, and the phones inside it."""
PHONE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
WORKER = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; frame-ancestors 'none'"
)
"""Of the worker that runs SQLite: the only place where WebAssembly may be compiled."""
FOREVER = "public, max-age=31536000, immutable"


class File(msgspec.Struct, frozen=True):
    """A file of the page, packed."""

    packed: bytes
    media_type: str


class Files:
    """The files, read once. Their address holds a digest of them all, so a browser may keep them forever."""

    def __init__(self, folder: Path):
        self._files = {
            path.name.removesuffix(".gz"): File(path.read_bytes(), TYPES[path.suffixes[-2]])
            for path in sorted(folder.glob("*.gz"))
        }
        digest = hashlib.sha256()
        for name, file in self._files.items():
            digest.update(name.encode() + b"\0" + file.packed)
        self.version = digest.hexdigest()[:16]
        self._pages = {
            name: (folder / f"{name}.html").read_bytes().replace(b"{{version}}", self.version.encode())
            for name in ("index", "phone")
        }

    def page(self, name: str, policy: str) -> Response:
        """``index`` or ``phone``: never kept by the browser, since it names the version of the rest."""
        headers = {"content-security-policy": policy, "cache-control": "no-cache"}
        return Response(body=self._pages[name], media_type="text/html; charset=utf-8", headers=headers)

    def answer(self, request: Request[None, None], version: str, name: str) -> Response | None:
        """The file ``name`` of this version, as the client can read it; None where there is none."""
        file = self._files.get(name)
        if file is None or version != self.version:
            return None
        headers = {"cache-control": FOREVER, "vary": "accept-encoding", "etag": f'"{version}-{name}"'}
        if name == "worker.js":
            headers["content-security-policy"] = WORKER
        if request.header("if-none-match") == headers["etag"]:
            return Response(status=304, headers=headers)
        if request.accepts_encoding("gzip") is None:
            return Response(body=gzip.decompress(file.packed), media_type=file.media_type, headers=headers)
        headers["content-encoding"] = "gzip"
        return Response(body=file.packed, media_type=file.media_type, headers=headers)


def read_files() -> Files:
    """The files of the wheel. Reads about a megabyte."""
    return Files(folder_of("lowtide.playground") / "page")
