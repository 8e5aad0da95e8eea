"""Pauses for servers that do not block."""

from __future__ import annotations

from daemon.stream.polling import Polling


def test_a_server_that_blocks_is_asked_again_at_once() -> None:
    """However often nothing came."""
    polling = Polling(15.0)
    assert [polling.pause_s(found=False, asked_s=30, took_s=30) for _ in range(3)] == [0.0] * 3


def test_one_that_does_not_is_polled_ever_more_rarely() -> None:
    """Up to a limit; from the beginning again once something came."""
    polling = Polling(1.5)
    assert [polling.pause_s(found=False, asked_s=30, took_s=0.01) for _ in range(5)] == [0.25, 0.5, 1.0, 1.5, 1.5]
    assert polling.pause_s(found=True, asked_s=30, took_s=0.01) == 0.0
    assert polling.pause_s(found=False, asked_s=30, took_s=0.01) == 0.25
