"""Only addresses of the public internet are public."""

from __future__ import annotations

import pytest

from connectors.callbacks.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "fec0::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001:db8::1",
        "2001::1",
        "100::1",
        "192.0.0.8",
        "192.0.0.171",
        "192.88.99.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.175.48.1",
        "2001:4:112::1",
        "2001:20::1",
        "2620:4f:8000::1",
        "3fff::1",
        "2002:c058:6301::1",
        "::ffff:192.0.0.8",
    ],
)
def test_no_address_that_is_not_public_is_public(address):
    """Every way to write an inside address is refused, also inside IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "192.0.1.1",
        "192.88.98.1",
        "2606:4700::1111",
        "2001:200::1",
        "2620:4f:8001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_public_addresses_are_public(address):
    """Ordinary ones, and IPv6 forms of ordinary ones."""
    assert is_public(address)
