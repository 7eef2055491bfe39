"""Which servers are on this machine, so that a proxy from the environment is not asked for them."""

import pytest

from whit.client._channel import is_loopback


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7600",
        "127.1.2.3:80",
        "localhost:7600",
        "[::1]:7600",
        "unix:/run/whit.sock",
        "unix-abstract:whit",
        "ipv4:127.0.0.1:7600",
        "ipv6:[::1]:7600",
    ],
)
def test_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["10.0.0.7:7600", "unix-box.example:7600", "127.example:7600", "[::2]:7600"])
def test_others(address: str) -> None:
    assert not is_loopback(address)
