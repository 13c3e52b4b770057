"""``prometheus config``: what is set, where it comes from, and all that can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prometheus.cli.options import AsJson, Folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus.settings import Setting

_INTRODUCTION = """\
# Settings

Each can be set by its variable, by a file that the variable with `_FILE` behind it names (for
secrets), or in `prometheus.toml` under its section; the first of these that is there counts. This
page is what `prometheus config reference` prints.
"""

application = typer.Typer(no_args_is_help=True, help="What is set, and all that can be set.")


@application.callback()
def _group() -> None:
    """What is set, and all that can be set."""


@application.command("show")
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Say of each value where it comes from.")
    ] = False,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show all settings as they are in force here; passwords are ***."""
    from rich.text import Text

    from prometheus.cli import output
    from prometheus.cli.places import find_place
    from prometheus.settings import listing

    place = find_place(folder)
    rows = [
        (each.name, each.value, place.origins.get(each.name, each.origin))
        for each in listing(place.settings)
    ]
    if as_json:
        output.print_json(
            [{"name": name, "value": value, "origin": at} for name, value, at in rows]
        )
        return
    table = output.table("Setting", "Value", *(["From"] if origin else []))
    for row in rows:
        table.add_row(*map(Text, row if origin else row[:2]))
    output.console().print(table)


@application.command("reference")
def reference() -> None:
    """Print every setting with its default and what it means, as docs/settings.md has it."""
    from prometheus.settings import defaults

    print(_page(defaults()), end="")


def _page(settings: Iterable[Setting]) -> str:
    lines = [_INTRODUCTION]
    section = None
    for each in settings:
        name = each.name.partition(".")[0] if "." in each.name else "at the top"
        if name != section:
            section = name
            heading = f"[{name}]" if "." in each.name else "At the top of the file"
            lines += [f"\n## {heading}\n", "| key | variable | default | |", "|---|---|---|---|"]
        key = each.name.rpartition(".")[2]
        default = f"`{each.value}`" if each.value else ""
        lines.append(f"| `{key}` | `{each.variable}` | {default} | {each.description} |")
    return "\n".join(lines) + "\n"
