"""Where a server listens: addresses that cannot be had, hosts, sockets in the file system."""

import socket

import pytest

from tests.support.server import server_thread
from tests.support.wire import connected
from whit.server import app


def test_an_address_in_use_is_refused(tmp_path, capfd):
    with server_thread(tmp_path / "a") as address:
        with (
            pytest.raises(app.ListenError, match=r"cannot listen on .* \(Address already in use\); .*--listen"),
            server_thread(tmp_path / "b", listen=address),
        ):
            pass
        assert "Failed to add port" not in capfd.readouterr().err  # gRPC's own words, which help nobody
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("unix:nowhere/whit.sock", "there is no directory nowhere"),
        ("unix:/dev/null", "what is there is no socket"),
        ("unix:/tmp", "what is there is no socket"),
        (f"{'a' * 64}.example:7600", "no host can have this name"),
        ("192.0.2.1:7600", "Cannot assign requested address"),  # of documentation: no machine has it
    ],
)
def test_an_address_that_cannot_be_had_is_refused_in_one_line(tmp_path, capfd, listen, why):
    with (
        pytest.raises(app.ListenError, match=rf"cannot listen on .* \({why}\); choose another address with --listen"),
        server_thread(tmp_path, listen=listen),
    ):
        pass
    assert "Failed to add port" not in capfd.readouterr().err


def test_a_host_with_an_address_that_this_machine_lacks_is_served_on_the_others(tmp_path, monkeypatch):
    """As localhost, where IPv6 is switched off but still in the hosts file."""
    here = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    elsewhere = [(*entry[:4], ("192.0.2.1", 0)) for entry in here]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: elsewhere + here)
    with server_thread(tmp_path / "a", listen="127.0.0.1:0") as address, connected(address) as wire:
        assert wire.new_collection()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: elsewhere)
    with pytest.raises(app.ListenError, match="Cannot assign"), server_thread(tmp_path / "b", listen="127.0.0.1:0"):
        pass


def test_a_socket_in_the_file_system(tmp_path):
    path = f"unix:{tmp_path}/whit.sock"
    with server_thread(tmp_path / "data", listen=path) as address, connected(address) as wire:
        assert address == path
        assert wire.embed("a").items


def test_a_socket_that_a_server_holds_is_refused_and_one_left_behind_is_not(tmp_path):
    path = f"unix:{tmp_path}/whit.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path.removeprefix("unix:"))
    with server_thread(tmp_path / "a", listen=path) as address, connected(address) as wire:
        with pytest.raises(app.ListenError, match="somebody answers there"), server_thread(tmp_path / "b", listen=path):
            pass
        assert wire.embed("a").items
