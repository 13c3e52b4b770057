"""Secrets out of texts that jobs and libraries have written."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Iterator
from urllib.parse import quote, quote_plus
from uuid import uuid4

import pytest
from markupsafe import escape
from pydantic import SecretStr

from prometheus import masking
from prometheus.masking import TOKEN_PREFIX, keep_parameters, keep_secret, safe_text, safe_value
from prometheus.passwords import make_secret

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


@pytest.fixture(autouse=True, params=["one by one", "all at once"])
def _kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looked for as few secrets are, and as many are."""
    monkeypatch.setattr(masking, "_FEW", {"one by one": 1_000_000, "all at once": 0}[request.param])
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


ODD = """a"b'c\\d/e ö<&>"""
WRITTEN = {
    "JSON": json.dumps(ODD)[1:-1],
    "JSON with all letters": json.dumps(ODD, ensure_ascii=False)[1:-1],
    "JSON in JSON": json.dumps(json.dumps([ODD])),
    "Python": repr(ODD)[1:-1],
    "Python without other letters": ascii([ODD]),
    "Python in JSON": json.dumps(repr([ODD])),
    "a page": html.escape(ODD),
    "a page of Jinja": str(escape(ODD)),
    "a path": quote(ODD),
    "a part of a path": quote(ODD, safe=""),
    "a form": quote_plus(ODD),
    "base64": base64.b64encode(ODD.encode()).decode(),
    "a header": f"Basic {base64.b64encode(f'me:{ODD}'.encode()).decode()}",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_secrets_are_hidden_however_they_are_written(text: str) -> None:
    keep_secret([SecretStr(f"me:{ODD}")])
    shown = safe_text(f"it is {text}, you see")
    assert re.fullmatch(r"""it is (Basic )?[\\"'\[]*\*\*\*[\\"'\]=]*, you see""", shown)
    assert safe_text("it is nothing, you see") == "it is nothing, you see"


def test_parameters_with_names_of_secrets_are_hidden_beside_the_settings() -> None:
    keep_parameters({"feed": {"api_token": ["in-a-list"]}, "PASSWORD": "plain-one", "x": "shown"})
    keep_parameters({"my_secret": {"deep": "in-a-table"}, "size": 7})
    assert safe_text("in-a-list plain-one in-a-table a-token") == "*** *** *** ***"
    assert safe_text("shown size api_token") == "shown size api_token"


@pytest.mark.parametrize(
    "name",
    [
        "X-Api-Key", "api-key", "APIKEY", "Authorization", "auth", "basic_auth", "credentials",
        "PWD", "passphrase", "private_key", "access-key", "AccessKey",
    ],
)  # fmt: skip
def test_arguments_are_secret_by_all_usual_names(name: str) -> None:
    secret = f"Zq81-{name}"
    keep_parameters({"headers": {name: secret}})
    assert safe_text(f"sent {secret} there") == "sent *** there"
    assert safe_text(f"http://h/?{name}=Rt55uu&x=1") == f"http://h/?{name}=***&x=1"


def test_long_numbers_are_secret_by_their_names_too() -> None:
    keep_parameters(
        {"api_key": 7234567891, "max_tokens": 4096, "author": "Melville", "on_auth": True}
    )
    assert safe_text("7234567891 4096 Melville True") == "*** 4096 Melville True"
    assert safe_value({"n": [7234567891, 4096, 82345678, True]}) == {
        "n": ["***", 4096, 82345678, True]
    }


def test_tokens_of_the_web_api_are_hidden() -> None:
    assert safe_text(f"as {TOKEN_PREFIX}{make_secret()}.") == "as ***."
    name = f"{TOKEN_PREFIX}{'x' * 43}"
    assert safe_text(name) == name


def test_secrets_that_overlap_are_hidden_to_their_ends() -> None:
    keep_secret([SecretStr("planted-one"), SecretStr("one-behind"), SecretStr("abab")])
    assert safe_text("a planted-one-behind it") == "a *** it"
    assert safe_text("planted-one" * 2) == "******"
    assert safe_text("xababab") == "x***"


def test_a_secret_without_letters_is_hidden_too() -> None:
    keep_secret([SecretStr("!?%/"), SecretStr("-1-2-3-")])
    assert safe_text("it is !?%/, or %21%3F%25%2F, or -1-2-3-") == "it is ***, or ***, or ***"


def test_hiding_takes_no_longer_however_many_secrets_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process gets to know ever more of them, and forgets none."""
    monkeypatch.setattr(masking, "_FEW", 0)  # one by one, a few take less than many ever can
    text = " ".join(f"line {number} of what a job prints" for number in range(800))

    def took() -> float:
        lasted = []
        for _ in range(5):
            began = time.process_time()
            assert safe_text(text) == text
            lasted.append(time.process_time() - began)
        return min(lasted)

    keep_secret([SecretStr(f"{uuid4()}") for _ in range(40)])
    few = took()
    monkeypatch.undo()
    many = [f"secret-{uuid4()}" for _ in range(4_000)]
    keep_secret(map(SecretStr, many))
    assert took() < 5 * few
    assert safe_text(f"it is {many[0]} or {many[-1]}") == "it is *** or ***"
