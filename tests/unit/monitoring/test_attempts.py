"""How often something may be tried in vain."""

from __future__ import annotations

import pytest

from prometheus.monitoring import attempts
from prometheus.monitoring.attempts import Attempts, network_of


def test_each_key_has_so_many_in_a_time() -> None:
    now = [0.0]
    tried = Attempts(2, 60, lambda: now[0])
    assert tried.begin("a") == 0
    now[0] = 10
    assert tried.begin("a") == 0
    assert tried.begin("b") == 0
    now[0] = 20
    # The first is forgotten when its time is over, and what was refused does not count.
    assert [tried.begin("a"), tried.begin("a")] == [40, 40]
    now[0] = 60
    assert tried.begin("a") == 0
    assert tried.begin("a") == 10


def test_what_was_not_in_vain_does_not_count() -> None:
    tried = Attempts(1, 60)
    for _ in range(3):
        assert tried.begin("a") == 0
        tried.take_back("a")
    tried.take_back("nobody")


def test_who_tried_longest_ago_is_forgotten_when_there_are_too_many() -> None:
    tried = Attempts(1, 60, lambda: 0.0)
    for key in range(attempts._MOST_KEYS):
        tried.begin(str(key))
    assert tried.begin("0") > 0  # and it is the latest now
    tried.begin("one more")
    assert tried.begin("1") == 0
    assert tried.begin("0") > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_of_ipv6_a_whole_network_is_one(address: str, network: str) -> None:
    assert network_of(address) == network
