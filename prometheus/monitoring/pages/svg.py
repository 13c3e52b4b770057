"""SVG as text: every word in it is escaped, and nothing in it needs a style of its own."""

from __future__ import annotations

from markupsafe import Markup

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
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _written(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, told, Markup("").join(children))


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
