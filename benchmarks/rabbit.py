"""A RabbitMQ of our own, where one is installed."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.servers import Process, free_port

# Debian's /usr/sbin/rabbitmq-server leaves its environment behind when root calls it.
_PLACES = "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


def find_rabbitmq() -> str | None:
    """Find the program."""
    return shutil.which("rabbitmq-server", path=_PLACES) or shutil.which("rabbitmq-server")


@contextlib.contextmanager
def rabbitmq(folder: Path) -> Iterator[str]:
    """Run it on ports of loopback, in a folder below another one; give its URL."""
    program = find_rabbitmq()
    assert program
    home = folder / "rabbitmq"
    home.mkdir()
    port = free_port()
    environment = {
        "HOME": str(home),
        "RABBITMQ_NODENAME": f"bench-{uuid.uuid4().hex[:8]}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home),
        "RABBITMQ_LOG_BASE": str(home),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    server = Process([program], log=home / "log", env=environment)
    try:
        server.wait_for("Starting broker... completed", timeout=60)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        server.end()
