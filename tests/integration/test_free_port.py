from __future__ import annotations

import socket

from daemon.dev.embedded import free_port


def test_each_port_is_another_one_and_none_is_taken() -> None:
    """A server that starts a moment later finds its port free, however many start at once."""
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    with socket.socket() as server:
        server.bind(("127.0.0.1", ports[-1] + 1))
        server.listen()
        assert free_port() != ports[-1] + 1


def test_no_client_is_given_such_a_port() -> None:
    """What a kernel hands to outgoing connections begins above."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert free_port() < probe.getsockname()[1]
