"""Redis' errors become ours, once; and the limits of our clients are ours."""

from __future__ import annotations

import pytest
from redis import exceptions as rx

from daemon.domain.errors import ConfigError, RedisAway, RedisFull
from daemon.redis_client.connection import NoGroup, Polling, translate, translated


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (rx.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), RedisFull),
        (rx.ResponseError("user_script:1: OOM command not allowed when used memory > 'maxmemory'."), RedisFull),
        (rx.ResponseError("NOGROUP No such key 'x' or consumer group 'daemon'"), NoGroup),
        (rx.ResponseError("ERR Error running script: -NOGROUP No such key"), NoGroup),
        (rx.ResponseError("UNBLOCKED the stream key no longer exists"), NoGroup),
        (rx.ResponseError("UNBLOCKED client unblocked via CLIENT UNBLOCK"), RedisAway),
        (rx.ConnectionError("Connection refused"), RedisAway),
        (rx.TimeoutError("Timeout reading"), RedisAway),
        (rx.BusyLoadingError("Redis is loading the dataset in memory"), RedisAway),
        (rx.ReadOnlyError("You can't write against a read only replica."), RedisAway),
        (rx.ResponseError("user_script: READONLY You can't write against a read only replica."), RedisAway),
        (rx.ResponseError("MISCONF Redis is configured to save RDB snapshots"), RedisAway),
        (rx.ResponseError("max number of clients reached"), RedisAway),
        (rx.ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL"), RedisAway),
        (rx.MasterDownError("Link with MASTER is down"), RedisAway),
        (rx.ClusterDownError("The cluster is down"), RedisAway),
        (rx.MovedError("3999 127.0.0.1:6381"), RedisAway),
        (rx.AskError("3999 127.0.0.1:6381"), RedisAway),
        (rx.TryAgainError("Multiple keys request during rehashing of slot"), RedisAway),
        (rx.ResponseError("This instance has cluster support disabled"), ConfigError),
    ],
)
def test_what_may_pass_is_away_and_what_refuses_writes_is_full(error: rx.RedisError, kind: type[Exception]) -> None:
    """The pipeline waits for the one, leaves the entry where it is for the other, and never sees redis-py."""
    assert type(translate(error)) is kind


@pytest.mark.parametrize(
    "error", [rx.ResponseError("WRONGTYPE Operation against a key"), rx.ResponseError("ERR unknown command")]
)
async def test_a_mistake_of_ours_stays_what_it_is(error: rx.RedisError) -> None:
    """It is a bug, to be seen with its traceback, not something to wait for."""
    assert translate(error) is error
    with pytest.raises(rx.ResponseError), translated():
        raise error


async def test_the_cause_is_kept() -> None:
    """Operators see what redis-py said; so does a broken socket."""
    for cause in (rx.ConnectionError("refused"), ConnectionResetError("reset"), TimeoutError("slow")):
        with pytest.raises(RedisAway) as caught, translated():
            raise cause
        assert caught.value.__cause__ is cause


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
