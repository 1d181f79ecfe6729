"""The sockets of a listener, their options, and the errors of ports that cannot be bound."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from gateway.errors import GatewayError
from gateway.runtime import factory
from gateway.runtime.listeners import Binding, bind, reserve_ports
from gateway.settings import load


@contextmanager
def bound(binding: Binding) -> Iterator[list[socket.socket]]:
    sockets = bind(binding)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def test_port_0_binds_all_sockets_to_the_same_free_port() -> None:
    with bound(Binding("127.0.0.1", 0, sockets=4)) as sockets:
        assert len(sockets) == 4
        assert len({each.getsockname() for each in sockets}) == 1
        with socket.create_connection(sockets[0].getsockname(), timeout=5):
            pass


def test_accepted_sockets_inherit_the_options() -> None:
    with bound(Binding("127.0.0.1", 0, send_buffer=65536, user_timeout=7.5)) as [listener]:
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname(), timeout=5):
            accepted, _ = listener.accept()
            with accepted:
                # Linux doubles the requested size (socket(7)).
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65536
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_of_another_gateway_is_an_error() -> None:
    with bound(Binding("127.0.0.1", 0, sockets=2)) as sockets:
        port = sockets[0].getsockname()[1]
        with pytest.raises(GatewayError, match=rf"cannot listen on 127.0.0.1:{port}: .*choose another"):
            bind(Binding("127.0.0.1", port, sockets=2))


def test_a_taken_port_is_an_error_that_names_its_flag_and_its_key() -> None:
    with bound(Binding("127.0.0.1", 0)) as [taken]:
        port = taken.getsockname()[1]
        flags = {"listen.public.port": port, "listen.internal.port": port}
        settings = load(None, dev=True, flags={**flags, "listen.internal.host": "127.0.0.2"})
        for made, option in (
            (factory.public_binding, r"--port, listen\.public\.port"),
            (factory.internal_binding, r"--internal-port, listen\.internal\.port"),
        ):
            binding = replace(made(settings, shares_ports=False), host="127.0.0.1")
            with pytest.raises(GatewayError, match=rf"choose another port \({option}\) or host"):
                bind(binding)
            with pytest.raises(GatewayError, match=option), reserve_ports(binding):
                pass


def test_a_port_in_time_wait_can_be_bound_again() -> None:
    with bound(Binding("127.0.0.1", 0)) as [listener]:
        listener.setblocking(True)
        port = listener.getsockname()[1]
        with socket.create_connection(listener.getsockname(), timeout=5) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the server closes first, which leaves its port in TIME_WAIT
            assert client.recv(1) == b""
    with bound(Binding("127.0.0.1", port)) as [again]:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize("host", ["203.0.113.1", "not a host"])
def test_a_host_of_another_machine_is_an_error(host: str) -> None:
    with pytest.raises(GatewayError, match="cannot listen on"):
        bind(Binding(host, 0))


def test_a_listener_can_bind_ipv6() -> None:
    with bound(Binding("::1", 0, sockets=2)) as sockets:
        assert sockets[0].family is socket.AF_INET6
        assert sockets[0].getsockname() == sockets[1].getsockname()
