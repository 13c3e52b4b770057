"""``prometheus user`` and ``token``: who may ask the web API."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prometheus.actors import Action, Role, read_name
from prometheus.cli.options import Actor, AsJson, Folder, read_duration
from prometheus.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

users = typer.Typer(no_args_is_help=True, help="Say who may sign in to the web API.")
tokens = typer.Typer(no_args_is_help=True, help="Make and revoke what programs show the web API.")

_LONGEST = timedelta(days=3650)


def _read_name(text: str) -> str:
    try:
        return read_name(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _read_lasting(text: str) -> timedelta:
    found = read_duration(text)
    if not timedelta(0) < found <= _LONGEST:
        raise typer.BadParameter(f"{text!r} is not a time of up to {_LONGEST.days}d")
    return found


def _read_action(text: str) -> Action:
    try:
        return Action(text)
    except ValueError:
        raise typer.BadParameter(
            f"there is no action {text!r}.{nearest(text, map(str, Action))} "
            f"They are: {', '.join(Action)}"
        ) from None


_Name: TypeAlias = Annotated[
    str, typer.Argument(parser=_read_name, metavar="NAME", show_default=False)
]
_Role: TypeAlias = Annotated[
    Role,
    typer.Option(
        "--role",
        help="viewer looks; operator acts on runs, jobs, pauses, backfills and alerts; admin also "
        "on calendars: overrides and holidays.",
    ),
]
_PasswordFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        exists=True,
        dir_okay=False,
        help="Its first line is the password. Otherwise it is asked for, or, where no terminal is, "
        "read from standard input.",
        show_default=False,
    ),
]


@users.command("add")
def add_user(
    name: _Name,
    role: _Role = Role.VIEWER,
    password_file: _PasswordFile = None,
    if_none: Annotated[
        bool,
        typer.Option(
            "--if-none", help="Do nothing if there is a user or a token already; for scripts."
        ),
    ] = False,
    actor: Actor = None,
    folder: Folder = None,
) -> None:
    """
    Let somebody sign in.

    As soon as there is a user or a token, the web API answers nobody else.
    """
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.users import add_user, anybody_let_in

    if if_none:
        with opened(find_place(folder)) as engine, reading(engine) as connection:
            if anybody_let_in(connection):
                print("There are users or tokens already. Nothing was done.")
                return
    password_hash = _password_hash(password_file)
    _write(
        folder,
        lambda connection: add_user(connection, name, role, password_hash, actor=actor_name(actor)),
    )
    print(f"{name} may sign in, as {role}.")


@users.command("list")
def list_users(folder: Folder = None, as_json: AsJson = False) -> None:
    """List who may sign in."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.users import read_users

    with opened(find_place(folder)) as engine, reading(engine) as connection:
        found = read_users(connection)
    if as_json:
        keys = ("name", "role", "created_at", "password_set_at")
        output.print_json([{key: getattr(each, key) for key in keys} for each in found])
        return
    if not found:
        print("There are no users.")
        return
    table = output.table("NAME", "ROLE", "SINCE", "PASSWORD SET")
    for each in found:
        since, password = output.utc(each.created_at), output.utc(each.password_set_at)
        table.add_row(each.name, each.role, since, password)
    output.console().print(table)


@users.command("set-password")
def set_password(
    name: _Name,
    password_file: _PasswordFile = None,
    actor: Actor = None,
    folder: Folder = None,
) -> None:
    """Give a user another password, and end all sign-ins of this user."""
    from prometheus.cli.operate import actor_name
    from prometheus.persistence.users import set_password

    password_hash = _password_hash(password_file)
    _write(
        folder,
        lambda connection: set_password(connection, name, password_hash, actor=actor_name(actor)),
    )
    print(f"{name} has another password, and is signed in nowhere.")


@users.command("set-role")
def set_role(
    name: _Name,
    role: Annotated[Role, typer.Argument(metavar="ROLE", show_default=False)],
    actor: Actor = None,
    folder: Folder = None,
) -> None:
    """Give a user another role: viewer, operator or admin."""
    from prometheus.cli.operate import actor_name
    from prometheus.persistence.users import set_role

    _write(folder, lambda connection: set_role(connection, name, role, actor=actor_name(actor)))
    print(f"{name} is {role}.")


@users.command("remove")
def remove_user(name: _Name, actor: Actor = None, folder: Folder = None) -> None:
    """Let a user ask nothing more, signed in or not."""
    from prometheus.cli.operate import actor_name
    from prometheus.persistence.users import remove_user

    anybody = _write(
        folder, lambda connection: remove_user(connection, name, actor=actor_name(actor))
    )
    print(f"{name} may no longer sign in.")
    _say_open(anybody)


@tokens.command("add")
def add_token(
    name: _Name,
    role: _Role = Role.VIEWER,
    lasting: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long it is good.")
    ] = "90d",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="ACTION",
            help="Limit it to this action, such as run or retry; may be given several times. "
            "Otherwise it may all that its role may. It looks at everything in either case.",
            show_default=False,
        ),
    ] = None,
    actor: Actor = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Make a token for a program, and show it once: on standard output, and nothing else there."""
    from prometheus.cli import output
    from prometheus.cli.operate import actor_name
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import writing
    from prometheus.persistence.users import add_token

    span = _read_lasting(lasting)
    allowed = [_read_action(each) for each in allow] if allow else None
    with opened(find_place(folder)) as engine, writing(engine) as connection:
        token, expires_at = add_token(
            connection, name, role, span, allowed=allowed, actor=actor_name(actor)
        )
    if as_json:
        document = {
            "name": name,
            "role": role,
            "allowed": allowed,
            "expires_at": expires_at,
            "token": token,
        }
        output.print_json(document, safe=False)  # nobody else has the token
        return
    until = output.utc(expires_at)
    print(
        f"{name} may ask, as {role}{_limit(allowed)}, until {until}. "
        f"Its token, which is not shown again:",
        file=sys.stderr,
    )
    print(token)


@tokens.command("list")
def list_tokens(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the tokens that there are, without what they are."""
    from prometheus.cli import output
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import reading
    from prometheus.persistence.leases import wall_time
    from prometheus.persistence.users import read_tokens

    with opened(find_place(folder)) as engine, reading(engine) as connection:
        found, now = read_tokens(connection), wall_time(connection)
    if as_json:
        keys = ("name", "role", "allowed", "created_at", "expires_at")
        output.print_json(
            [
                {**{key: getattr(each, key) for key in keys}, "expired": each.expires_at <= now}
                for each in found
            ]
        )
        return
    if not found:
        print("There are no tokens.")
        return
    table = output.table("NAME", "ROLE", "ALLOWED", "SINCE", "UNTIL")
    for each in found:
        until = output.utc(each.expires_at) + (" (expired)" if each.expires_at <= now else "")
        allowed = "all that it may" if each.allowed is None else ", ".join(each.allowed)
        table.add_row(each.name, each.role, allowed, output.utc(each.created_at), until)
    output.console().print(table)


def _limit(allowed: list[Action] | None) -> str:
    return f" that may only {', '.join(allowed)}" if allowed else ""


@tokens.command("revoke")
def revoke_token(name: _Name, actor: Actor = None, folder: Folder = None) -> None:
    """Let a token be good for nothing, at once."""
    from prometheus.cli.operate import actor_name
    from prometheus.persistence.users import revoke_token

    anybody = _write(
        folder, lambda connection: revoke_token(connection, name, actor=actor_name(actor))
    )
    print(f"{name} is revoked.")
    _say_open(anybody)


def _write(folder: Path | None, do: Callable[[Connection], None]) -> bool:
    """Change something; return whether there are users or tokens afterwards."""
    from prometheus.cli.places import find_place, opened
    from prometheus.persistence.engine import writing
    from prometheus.persistence.users import anybody_known

    with opened(find_place(folder)) as engine, writing(engine) as connection:
        do(connection)
        return anybody_known(connection)


def _say_open(anybody: bool) -> None:
    if not anybody:
        print("There are no users and no tokens now: the web API answers all of this machine,")
        print("and others not at all. With [web] actions = true it also acts for them.")


def _password_hash(file: Path | None) -> str:
    """Read a new password from where nobody sees it, and return what is kept of it."""
    from prometheus.passwords import hash_password

    try:
        if file is not None:
            text = file.read_text(encoding="utf-8")
        elif sys.stdin.isatty():
            text = typer.prompt("Password", hide_input=True, confirmation_prompt="The same again")
        else:
            text = sys.stdin.readline()
        return hash_password(text.partition("\n")[0].rstrip("\r"))
    except ValueError as error:  # also of what is no text
        raise typer.BadParameter(str(error)) from None
