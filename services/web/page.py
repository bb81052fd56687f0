"""A page of static files in front of a service's API: open without a key, with headers that let nothing else in.

The files hold no secrets and no data; what a page shows it fetches from the API with the visitor's key. Both pages
share the files of `static/`, below `shared/` of their own address.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

SHARED = Path(__file__).parent / "static"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Browsers keep a file and ask each time whether it has changed: an update of the service shows at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class File:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


class StaticPage:
    """ASGI: answers GET and HEAD of the files of `folder` below `at` (`index.html` is `at` itself); all else is the
    application's.

    It stands before the layer that asks for keys (`create_service(..., page=Middleware(StaticPage, ...))`). The files
    are read once: nothing of a request's path ever reaches the file system.
    """

    def __init__(self, app: ASGIApp, at: str, folder: Path) -> None:
        assert at.startswith("/") and at.endswith("/")
        self.app = app
        self.path = at
        self.files = {at + name: file for name, file in _read(folder).items()}
        self.files |= {f"{at}shared/{name}": file for name, file in _read(SHARED).items()}
        self.files[at] = self.files[at + "index.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        response = self._response(scope["path"], Headers(scope=scope)) if asked else None
        if response is None:
            await self.app(scope, receive, send)
            return
        # Metrics and logs name the route of a request; those of a page are all one.
        scope["route"] = self
        await response(scope, receive, send)

    def _response(self, path: str, headers: Headers) -> Response | None:
        if path != "/" and path + "/" == self.path:
            # Relative, so that it holds behind a proxy that has taken a prefix away.
            return RedirectResponse(path.rpartition("/")[2] + "/", 307, headers=HEADERS)
        file = self.files.get(path)
        if file is None:
            return None
        known = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
        if file.etag in known:
            return Response(status_code=304, headers=HEADERS | {"ETag": file.etag})
        return Response(file.content, headers=HEADERS | {"ETag": file.etag}, media_type=file.media_type)


def _read(folder: Path) -> dict[str, File]:
    """The files below `folder`, by their path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _file(path) for path in paths}


def _file(path: Path) -> File:
    content = path.read_bytes()
    # Some systems map .js to text/plain, which browsers then refuse as a module.
    media_type = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
    return File(content, media_type or "application/octet-stream", f'"{hashlib.sha256(content).hexdigest()[:32]}"')
