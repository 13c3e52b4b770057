"""A mail server and a web server of this machine, for what is sent to people."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, cast


class Recipients:
    """What arrived, and how the servers behave."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.mails: list[tuple[str, str]] = []
        """Subject and text."""
        self.asked: list[str] = []
        """Paths of GET."""
        self.status = 200
        """What the web server answers to a POST."""
        self.reply: dict[str, Any] = {}
        """And what it says with that."""
        self.goes_on = threading.Event()
        """Until it is set, the web server says nothing."""
        self.goes_on.set()
        self.web_port = self.mail_port = 0

    @property
    def titles(self) -> list[str]:
        """Titles of what the web server accepted."""
        return [each["title"] for each in self.posts]


class _Web(BaseHTTPRequestHandler):
    recipients: ClassVar[Recipients]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.recipients.goes_on.wait(30)
        status = self.recipients.status
        if status == 200:
            self.recipients.posts.append(json.loads(body))
        self._answer(status)

    def do_GET(self) -> None:
        self.recipients.asked.append(self.path)
        self._answer(self.recipients.status)

    def _answer(self, status: int) -> None:
        said = json.dumps(self.recipients.reply).encode() if self.recipients.reply else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None: ...


class _Mail(socketserver.StreamRequestHandler):
    recipients: ClassVar[Recipients]

    def handle(self) -> None:
        self._say(220)
        while line := self.rfile.readline().strip().upper():
            if line.startswith(b"DATA"):
                self._say(354)
                self._take()
            elif line.startswith(b"QUIT"):
                self._say(221)
                return
            self._say(250)

    def _take(self) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line)
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        part = mail.get_body(("plain", "html"))
        assert part is not None
        self.recipients.mails.append((str(mail["Subject"]), part.get_content()))

    def _say(self, code: int) -> None:
        self.wfile.write(f"{code} ok\r\n".encode())


@contextmanager
def receiving() -> Iterator[Recipients]:
    """Serve both, each on a free port."""
    recipients = Recipients()
    web = ThreadingHTTPServer(
        ("127.0.0.1", 0),
        cast("type[_Web]", type("Web", (_Web,), {"recipients": recipients})),
    )
    mail = socketserver.ThreadingTCPServer(
        ("127.0.0.1", 0),
        cast("type[_Mail]", type("Mail", (_Mail,), {"recipients": recipients})),
    )
    recipients.web_port, recipients.mail_port = web.server_address[1], mail.server_address[1]
    for server in (web, mail):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield recipients
    finally:
        recipients.goes_on.set()
        for server in (web, mail):
            server.shutdown()
            server.server_close()
