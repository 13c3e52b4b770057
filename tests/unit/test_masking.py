"""Secrets out of texts that jobs and libraries have written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from prometheus.masking import keep_secret, safe_text, safe_value

SECRETS = [
    SecretStr(secret)
    for secret in (
        "postgresql://me:p%40ss-word@db/prometheus",
        "redis://:first@a:1/0;redis://:second@b:1/0",
        "postgresql://db/prometheus?user=me&password=in-a-query",
        "ada:lovelace,grace:hopper",
        "a-token",
        "postgresql://postgres:postgres@localhost/db",
        "redis://:local@localhost/0",
        "abc",
        "",
    )
]


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    keep_secret(SECRETS)
    yield
    keep_secret(())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such user p@ss-word", "no such user ***"),
        ("p%40ss-word", "***"),
        ("first and second", "*** and ***"),
        ("in-a-query", "***"),
        ("Basic ada:lovelace", "Basic ada:***"),
        ("hopper a-token", "*** ***"),
        ("https://x/?api_key=other", "https://x/?api_key=***"),
        ("postgres is local", "postgres is local"),
        ("abc is too short to be looked for", "abc is too short to be looked for"),
    ],
)
def test_secrets_are_hidden_as_they_are_and_as_urls_write_them(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_all_texts_of_a_value_are_looked_through() -> None:
    value = {"a-token": ["first", 1, None, {"x": "second"}], "y": True}
    assert safe_value(value) == {"***": ["***", 1, None, {"x": "***"}], "y": True}
