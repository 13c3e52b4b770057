"""A reverse proxy that serves the web app below a path."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PREFIX = "/desk/jobs"
_OF_ONE_HOP = ("connection", "transfer-encoding")


@dataclass
class Proxy:
    """Where it listens, and what it was asked for that is not the app's."""

    url: str
    """With the path."""
    strays: list[str] = field(default_factory=list)


@contextlib.contextmanager
def proxied(url: str, *, taken_away: bool) -> Iterator[Proxy]:
    """
    Serve below `PREFIX` what is served elsewhere, until the block ends.

    Args:
        url: Where, without a path.
        taken_away: Whether the path is left out of what is passed on.
    """

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                proxy.strays.append(self.path)
                self.send_error(404)
                return
            path = self.path.removeprefix(PREFIX) if taken_away else self.path
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            upstream = HTTPConnection(urlsplit(url).netloc, timeout=60)
            with contextlib.closing(upstream), contextlib.suppress(ConnectionError):
                upstream.request(self.command, path, body, dict(self.headers))
                answer = upstream.getresponse()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _OF_ONE_HOP:
                        self.send_header(name, value)
                self.end_headers()
                while part := answer.read1(65_536):
                    self.wfile.write(part)  # not kept until there is more: a stream has no end

        do_GET = do_POST = do_DELETE = pass_on  # noqa: N815  as the server asks for them

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}{PREFIX}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join(60)
