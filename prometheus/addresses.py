"""Addresses to listen on."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Say whether only this machine reaches what listens on an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
