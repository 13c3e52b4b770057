"""SVG as text: every word in it is escaped, and nothing in it needs a style of its own."""

from __future__ import annotations

from markupsafe import Markup, escape

Child = str | Markup
"""What stands in an element; text that is not `Markup` is escaped."""


def element(name: str, *children: Child, **attributes: str | float | None) -> Markup:
    """
    Make an element.

    Args:
        children: Elements and texts, in order.
        attributes: ``class_`` for ``class``, ``data_at`` for ``data-at``; numbers are written with
            one decimal at most, and what is ``None`` is left out.
    """
    # Not by Markup's own formatting, which would take most of the time of a picture of many jobs.
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_written(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(map(escape, children))
    return Markup(f"<{name}{told}>{inside}</{name}>")  # noqa: S704  all of it has been escaped


def _written(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
