"""What the browser is sent besides pages: style, script, and htmx; all of it from the wheel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    hashed_name: str
    """Another one when its content is, so that a browser may keep it for ever."""
    media_type: str
    content: bytes


def read_assets() -> Mapping[str, Asset]:
    """Read them all: name -> asset."""
    found = {}
    for file in (files("prometheus.monitoring.pages") / "static").iterdir():
        path = PurePath(file.name)
        if path.suffix in _KINDS:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:12]
            name = f"{path.stem}-{digest}{path.suffix}"
            found[file.name] = Asset(name, f"{_KINDS[path.suffix]}; charset=utf-8", content)
    return found
