"""Users and tokens in the tables: who is known, and that nothing of a secret is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.exc import IntegrityError

from prometheus.actors import Action, Role
from prometheus.core.instants import write_instant
from prometheus.passwords import hash_password, is_password, secret_hash
from prometheus.persistence import users as store
from prometheus.persistence.engine import reading, writing
from prometheus.persistence.leases import wall_time
from prometheus.persistence.tables import api_tokens, audit, sign_ins, users

PASSWORD = "correct horse battery staple"
DAY = timedelta(days=1)


def add(engine: Engine, name: str, role: Role = Role.VIEWER) -> None:
    with writing(engine) as connection:
        store.add_user(connection, name, role, hash_password(PASSWORD), actor="root")


def sign_in(engine: Engine, name: str) -> None:
    with writing(engine) as connection:
        expires_at = wall_time(connection) + DAY
        kept = {"secret_hash": secret_hash(name), "user_name": name, "expires_at": expires_at}
        connection.execute(insert(sign_ins).values(kept))


def signed_in(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(sign_ins)).scalar_one()


def changes(engine: Engine) -> list[tuple[str, Any, Any]]:
    """What was done to accounts, with what they could do before and after."""
    with reading(engine) as connection:
        rows = connection.execute(select(audit).order_by(audit.c.audit_id)).all()
    return [(row.action, row.details["before"], row.details["after"]) for row in rows]


def test_a_user_is_kept_with_a_role_and_without_the_password(engine: Engine) -> None:
    add(engine, "bob", Role.OPERATOR)
    add(engine, "ada")
    with reading(engine) as connection:
        found = store.read_users(connection)
        kept = connection.execute(select(users.c.password_hash)).scalars().all()
        audited = connection.execute(
            select(audit.c.actor, audit.c.action, audit.c.target, audit.c.details)
        ).first()
    assert [(user.name, user.role) for user in found] == [
        ("ada", Role.VIEWER),
        ("bob", Role.OPERATOR),
    ]
    assert all(is_password(PASSWORD, each) for each in kept)
    assert audited == (
        "root", "user_add", "bob", {"before": None, "after": "operator"},
    )  # fmt: skip


def test_a_name_is_given_once(engine: Engine) -> None:
    add(engine, "ada")
    with pytest.raises(store.UserError, match="There is a user 'ada' already"):
        add(engine, "ada", Role.ADMIN)
    with writing(engine) as connection:
        store.add_token(connection, "ci", Role.VIEWER, DAY, actor="root")
        with pytest.raises(store.UserError, match="There is a token 'ci' already"):
            store.add_token(connection, "ci", Role.ADMIN, DAY, actor="root")


def test_a_user_who_is_not_there_is_told_with_the_nearest(engine: Engine) -> None:
    add(engine, "bobby")
    with writing(engine) as connection:
        with pytest.raises(store.UnknownUserError, match=r"no user 'boby'\. Did you mean 'bobby'"):
            store.remove_user(connection, "boby", actor="root")
        with pytest.raises(store.UnknownUserError, match="There is no user 'ada'"):
            store.set_role(connection, "ada", Role.ADMIN, actor="root")
        with pytest.raises(store.UnknownUserError, match="There is no user 'ada'"):
            store.set_password(connection, "ada", "x", actor="root")
        with pytest.raises(store.UnknownUserError, match="There is no token 'ci'"):
            store.revoke_token(connection, "ci", actor="root")


def test_another_password_and_removal_end_the_sign_ins_of_that_user_alone(engine: Engine) -> None:
    for name in ("ada", "bob"):
        add(engine, name)
        sign_in(engine, name)
    with writing(engine) as connection:
        store.set_role(connection, "ada", Role.ADMIN, actor="root")
    assert signed_in(engine) == 2
    with writing(engine) as connection:
        store.set_password(connection, "ada", hash_password(PASSWORD + "!"), actor="root")
    assert signed_in(engine) == 1
    with writing(engine) as connection:
        store.remove_user(connection, "bob", actor="root")
    assert signed_in(engine) == 0
    with reading(engine) as connection:
        (left,) = store.read_users(connection)
        kept = connection.execute(select(users.c.password_hash)).scalar_one()
    assert (left.name, left.role) == ("ada", Role.ADMIN)
    assert left.password_set_at > left.created_at
    assert is_password(PASSWORD + "!", kept)
    assert changes(engine)[2:] == [
        ("user_set_role", "viewer", "admin"),
        # Neither of them may be seen.
        ("user_set_password", "a password", "another password"),
        ("user_remove", "viewer", None),
    ]


def test_of_a_token_only_the_hash_is_kept_until_it_is_revoked(engine: Engine) -> None:
    with writing(engine) as connection:
        token, expires_at = store.add_token(connection, "ci", Role.OPERATOR, DAY, actor="root")
        (found,) = store.read_tokens(connection)
        kept = connection.execute(select(api_tokens.c.token_hash)).scalar_one()
        details = connection.execute(select(audit.c.details)).scalar_one()
    assert kept == secret_hash(token)
    assert (found.name, found.role, found.expires_at) == ("ci", Role.OPERATOR, expires_at)
    assert details == {
        "expires_at": write_instant(expires_at), "before": None, "after": "operator",
    }  # fmt: skip
    with writing(engine) as connection:
        store.revoke_token(connection, "ci", actor="root")
        assert store.read_tokens(connection) == []
    assert changes(engine)[-1] == ("token_revoke", "operator", None)


def test_a_token_is_limited_to_what_its_role_may(engine: Engine) -> None:
    allowed = [Action.RETRY, Action.RUN]
    with writing(engine) as connection:
        token, _ = store.add_token(
            connection, "ci", Role.OPERATOR, DAY, allowed=allowed, actor="root"
        )
        (found,) = store.read_tokens(connection)
        known = store.find_token(connection, token)
        details = connection.execute(select(audit.c.details)).scalar_one()
    assert known is not None
    assert found.allowed == known.allowed == (Action.RUN, Action.RETRY)
    assert details["allowed"] == ["retry", "run"]
    with writing(engine) as connection, pytest.raises(store.UserError, match="--role admin"):
        store.add_token(
            connection, "no", Role.OPERATOR, DAY, allowed=[Action.OVERRIDE], actor="root"
        )


def test_whether_anybody_is_known(engine: Engine) -> None:
    def known() -> bool:
        with reading(engine) as connection:
            return store.anybody_known(connection)

    assert known() is False
    with writing(engine) as connection:
        store.add_token(connection, "ci", Role.VIEWER, DAY, actor="root")
    assert known() is True
    with writing(engine) as connection:
        store.revoke_token(connection, "ci", actor="root")
    assert known() is False
    add(engine, "ada")
    assert known() is True


def test_there_are_no_other_roles(engine: Engine) -> None:
    with (
        pytest.raises(IntegrityError, match="ck_users_role"),
        writing(engine) as connection,
    ):
        connection.execute(insert(users).values(name="x", role="root", password_hash=""))
