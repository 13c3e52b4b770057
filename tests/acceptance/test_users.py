"""``prometheus user`` and ``token`` as processes."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

from prometheus.masking import TOKEN_PREFIX
from tests.acceptance.conftest import COMMAND, RunCommand, environment, rows

PASSWORD = "correct horse battery staple"


def add(home: Path, password: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``prometheus user`` with a password on standard input."""
    return subprocess.run(
        [*COMMAND, "user", *arguments],
        input=f"{password}\n",
        capture_output=True,
        text=True,
        cwd=home,
        env=environment(),
        timeout=120,
    )


def contents(folder: Path) -> bytes:
    """Everything that is kept in a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_users_are_made_changed_and_removed(run_command: RunCommand, home: Path) -> None:
    run_command("user", "list").refused("There is no database")
    run_command("db", "upgrade")
    assert run_command("user", "list").out.strip() == "There are no users."
    made = add(home, PASSWORD, "add", "ada", "--as", "root")
    assert (made.returncode, made.stdout) == (0, "ada may sign in, as viewer.\n"), made
    file = home / "password"
    file.write_text(f"{PASSWORD}\nnot this line\n")
    operator = ("user", "add", "bob", "--role", "operator", "--password-file", file)
    assert run_command(*operator).out.startswith("bob may sign in, as operator.")
    run_command(*operator).refused("There is a user 'bob' already")
    listed = run_command("user", "list", "--json").document
    assert [(each["name"], each["role"]) for each in listed] == [
        ("ada", "viewer"),
        ("bob", "operator"),
    ]
    assert {key for each in listed for key in each} == {
        "name",
        "role",
        "created_at",
        "password_set_at",
    }
    assert "argon2" not in run_command("user", "list").out
    assert run_command("user", "set-role", "ada", "admin").status == 0
    assert add(home, PASSWORD + "!", "set-password", "ada").returncode == 0
    assert "no users and no tokens" not in run_command("user", "remove", "bob").out
    assert "the web API answers all of this machine" in run_command("user", "remove", "ada").out
    audited = rows(home / ".prometheus", "SELECT action, target FROM audit ORDER BY audit_id")
    assert audited == [
        ("user_add", "ada"),
        ("user_add", "bob"),
        ("user_set_role", "ada"),
        ("user_set_password", "ada"),
        ("user_remove", "bob"),
        ("user_remove", "ada"),
    ]
    assert PASSWORD.encode() not in contents(home / ".prometheus")


def test_first_user_is_made_once(run_command: RunCommand, home: Path) -> None:
    run_command("db", "upgrade")
    file = home / "password"
    file.write_text(PASSWORD)
    first = ("user", "add", "ada", "--role", "admin", "--password-file", file, "--if-none")
    assert run_command(*first).out.strip() == "ada may sign in, as admin."
    assert "Nothing was done" in run_command(*first).out
    # Whoever was removed does not come back as long as anybody is known, be it a program.
    assert run_command("token", "add", "ci").status == 0
    assert run_command("user", "remove", "ada").status == 0
    assert "Nothing was done" in run_command(*first).out
    assert run_command("user", "list", "--json").document == []


def test_what_is_no_password_or_no_name_is_refused(run_command: RunCommand, home: Path) -> None:
    run_command("db", "upgrade")
    short = add(home, "short", "add", "ada")
    assert (short.returncode, "a password has 12 to 1000" in short.stderr) == (2, True), short
    assert "short" not in short.stderr
    file = home / "password"
    file.write_bytes(b"\xff" * 20)
    run_command("user", "add", "ada", "--password-file", file).refused("utf-8", status=2)
    named = add(home, PASSWORD, "add", "Ada Lovelace")
    assert (named.returncode, "is no name" in named.stderr) == (2, True), named
    given = add(home, PASSWORD, "add", "ada", "--password", PASSWORD)
    assert (given.returncode, "No such option" in given.stderr) == (2, True), given
    assert run_command("user", "list", "--json").document == []


def test_a_token_is_shown_once(run_command: RunCommand, home: Path) -> None:
    run_command("db", "upgrade")
    assert run_command("token", "list").out.strip() == "There are no tokens."
    made = run_command("token", "add", "ci", "--role", "operator")
    token = made.out.strip()
    assert token.startswith(TOKEN_PREFIX)
    assert "ci may ask, as operator, until" in made.err
    other = run_command("token", "add", "scraper", "--for", "1h", "--json").document
    assert other["token"] not in (token, "")
    run_command("token", "add", "x", "--for", "0s").refused("is not a time of up to", status=2)
    limited = ("token", "add", "jobs", "--role", "operator", "--allow", "run", "--allow")
    run_command(*limited, "rerty").refused("Did you mean 'retry'?", status=2)
    assert "may only run, retry, until" in run_command(*limited, "retry").err
    assert "run, retry" in run_command("token", "list").out
    assert run_command("token", "revoke", "jobs").status == 0
    listed = run_command("token", "list", "--json").document
    assert [(each["name"], each["role"], each["expired"]) for each in listed] == [
        ("ci", "operator", False),
        ("scraper", "viewer", False),
    ]
    since, until = (datetime.fromisoformat(listed[0][key]) for key in ("created_at", "expires_at"))
    assert timedelta(0) <= timedelta(days=90) - (until - since) < timedelta(minutes=1)
    assert token not in run_command("token", "list").out
    assert run_command("token", "revoke", "ci").out == "ci is revoked.\n"
    run_command("token", "revoke", "ci").refused("There is no token 'ci'")
    kept = contents(home / ".prometheus")
    assert token.encode() not in kept
    assert other["token"].encode() not in kept
