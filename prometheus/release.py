"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str | None:
    """Return the version that is installed; ``None`` of a source tree that is not."""
    try:
        return version("prometheus-markets")
    except PackageNotFoundError:
        return None
