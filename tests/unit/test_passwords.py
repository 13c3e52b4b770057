"""Passwords and secrets of ours."""

from __future__ import annotations

import re

import pytest

from prometheus.actors import Role, read_name
from prometheus.passwords import (
    LONGEST,
    SHORTEST,
    hash_password,
    is_password,
    make_secret,
    secret_hash,
)

PASSWORD = "correct horse battery staple"


def test_a_password_is_known_by_what_is_kept_of_it() -> None:
    kept = hash_password(PASSWORD)
    assert kept.startswith("$argon2id$")
    assert PASSWORD not in kept
    assert is_password(PASSWORD, kept)
    assert not is_password(PASSWORD + " ", kept)
    assert hash_password(PASSWORD) != kept


@pytest.mark.parametrize("kept", [None, "", "$argon2id$nonsense", PASSWORD])
def test_nobody_has_a_password_where_none_is_kept(kept: str | None) -> None:
    assert not is_password(PASSWORD, kept)


@pytest.mark.parametrize("length", [0, SHORTEST - 1, LONGEST + 1])
def test_a_password_that_is_too_short_or_too_long_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"a password has {SHORTEST} to {LONGEST} characters"):
        hash_password("x" * length)


def test_secrets_are_long_and_never_the_same() -> None:
    made = {make_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"[\w-]{43}", each) for each in made)
    assert len({secret_hash(each) for each in made}) == 100


@pytest.mark.parametrize(
    ("role", "may"), [("viewer", "viewer"), ("operator", "viewer operator"), ("admin", None)]
)
def test_each_role_may_what_those_before_it_may(role: str, may: str | None) -> None:
    allowed = {each for each in Role if Role(role).covers(each)}
    assert allowed == set(Role if may is None else map(Role, may.split()))


@pytest.mark.parametrize("name", ["", "Ada", "-x", "a b", "ada\n", "a" * 65, "ada (token)", "å"])
def test_a_name_that_could_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        read_name(name)
    assert read_name("ada.l-1@desk") == "ada.l-1@desk"
