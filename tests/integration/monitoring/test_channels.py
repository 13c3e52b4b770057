"""Channels: what services that keep incidents are told, as it goes over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apprise.plugins import (
    firehydrant,
    ilert,
    incidentio,
    opsgenie,
    pagerduty,
    pagertree,
    signl4,
    splunk,
    squadcast,
)
from pydantic import SecretStr

from prometheus import channels
from tests.integration.monitoring.recipients import Recipients, receiving

KEY = "worker_lost:a@h"
GOALERT = "8d2f1c3a-1111-4222-8333-444455556666"


@pytest.fixture
def recipients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipients]:
    """A web server of this machine, which stands where those services are."""
    with receiving() as found:
        here = f"http://127.0.0.1:{found.web_port}"
        for places in (
            opsgenie.OPSGENIE_API_LOOKUP,
            pagerduty.PAGERDUTY_API_LOOKUP,
            squadcast.SQUADCAST_API_LOOKUP,
        ):
            for region in places:
                monkeypatch.setitem(places, region, here)
        for plugin in (
            firehydrant.NotifyFireHydrant,
            ilert.NotifyILert,
            incidentio.NotifyIncidentIO,
            pagertree.NotifyPagerTree,
            signl4.NotifySIGNL4,
            splunk.NotifySplunk,
        ):
            monkeypatch.setattr(plugin, "notify_url", here)
        yield found


def tell(recipients: Recipients, url: str, tone: channels.Tone, key: str | None = KEY) -> object:
    """Return what the service was sent by a message."""
    before = len(recipients.posts)
    error = channels.send(SecretStr(url), "What is wrong", "All of it", tone=tone, key=key)
    assert error is None, url
    (post,) = recipients.posts[before:]
    return post


def test_who_keeps_incidents_opens_and_closes_one_by_the_key_of_the_alert(
    recipients: Recipients,
) -> None:
    here = f"127.0.0.1:{recipients.web_port}"
    services = {
        "firehydrant://token": ("idempotency_key", "status", "OPEN", "CLOSED"),
        f"goalert://{here}/{GOALERT}": ("dedup", "action", None, "close"),
        "ilert://key": ("alertKey", "eventType", "ALERT", "RESOLVE"),
        "incidentio://source/token": ("deduplication_key", "status", "firing", "resolved"),
        f"opsimate://key@{here}": ("id", "status", "firing", "resolved"),
        "pagerduty://routing@key": ("dedup_key", "event_action", "trigger", "resolve"),
        "pagertree://int_12345678": ("id", "event_type", "create", "resolve"),
        "signl4://secret": ("X-S4-ExternalID", "X-S4-Status", None, "resolved"),
        "splunk://route@key": ("entity_id", "message_type", "CRITICAL", "RECOVERY"),
        "squadcast://key": ("event_id", "status", "trigger", "resolve"),
        "victorops://route@key": ("entity_id", "message_type", "CRITICAL", "RECOVERY"),
    }
    for url, (name, verb, opens, closes) in services.items():
        assert channels.keeps_incidents(SecretStr(url)), url
        tones: tuple[tuple[channels.Tone, str | None], ...]
        tones = (("failure", opens), ("success", closes))
        for tone, said in tones:
            post = tell(recipients, url, tone)
            assert isinstance(post, dict)
            assert (post[name], post.get(verb)) == (KEY, said), url
    assert not channels.keeps_incidents(SecretStr(f"json://{here}"))
    assert not channels.keeps_incidents(SecretStr("nonsense://x"))


def test_opsgenie_takes_what_is_raised_again_for_the_same_and_is_not_told_that_it_is_over(
    recipients: Recipients,
) -> None:
    """apprise closes only what the same process has opened."""
    recipients.reply = {"requestId": "7"}
    opened = [tell(recipients, "opsgenie://key", "failure") for _ in range(2)]
    assert [each["alias"] for each in opened if isinstance(each, dict)] == [KEY, KEY]
    assert channels.send(SecretStr("opsgenie://key"), "Over", "x", tone="success", key=KEY) is None
    assert len(recipients.posts) == 2


@pytest.mark.parametrize(
    ("given", "key", "closes"),
    [
        ("?dedup=mine", "mine", "trigger"),
        ("?dedup=mine&action=map", "mine", "resolve"),
        ("?action=trigger", KEY, "trigger"),
    ],
)
def test_what_the_url_says_of_its_incidents_is_done(
    recipients: Recipients, given: str, key: str, closes: str
) -> None:
    post = tell(recipients, f"pagerduty://routing@key{given}", "success")
    assert isinstance(post, dict)
    assert (post["dedup_key"], post["event_action"]) == (key, closes)


def test_a_key_that_is_too_long_for_a_service_is_another_for_each(recipients: Recipients) -> None:
    keys = [f"{'x' * 280}{number}" for number in (1, 2)]
    posts = [tell(recipients, "pagerduty://routing@key", "failure", key) for key in keys]
    sent = [post["dedup_key"] for post in posts if isinstance(post, dict)]
    assert len(set(sent)) == 2
    assert max(map(len, sent)) <= 255
