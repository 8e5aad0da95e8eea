"""The one stretch of an attempt that may be interrupted."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import Code, LeaseLost, Stopping, TaskError
from daemon.pipeline.call_scope import CallScope
from tests.virtual_time import in_virtual_time


@in_virtual_time
async def test_an_interruption_before_the_call_keeps_it_from_beginning() -> None:
    """No model is called for an attempt that is already over."""
    scope = CallScope()
    scope.interrupt(Stopping("stop"))
    with pytest.raises(Stopping):
        async with scope:
            pytest.fail("the call began")


@in_virtual_time
async def test_an_interruption_ends_the_call_with_its_reason() -> None:
    """What comes out is why, not a cancellation; and the task goes on with its clean-up undisturbed."""
    scope = CallScope()
    asyncio.get_running_loop().call_later(1, scope.interrupt, LeaseLost("gone"))
    with pytest.raises(LeaseLost, match="gone") as caught:
        async with scope:
            await asyncio.sleep(60)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await asyncio.sleep(1)


@in_virtual_time
async def test_an_interruption_after_the_call_waits_to_be_looked_at() -> None:
    """A commit is never torn apart: outside of the scope nothing is cancelled."""
    scope = CallScope()
    async with scope:
        await asyncio.sleep(1)
    scope.interrupt(LeaseLost("late"))
    await asyncio.sleep(1)
    assert isinstance(scope.interrupted, LeaseLost)
    with pytest.raises(LeaseLost):
        async with scope:
            pytest.fail("a second call began")


@in_virtual_time
async def test_the_first_reason_wins() -> None:
    """A cancel by the user that comes after a lost lease changes nothing."""
    scope = CallScope()
    scope.interrupt(LeaseLost("first"))
    scope.interrupt(TaskError(code=Code.CANCELLED))
    with pytest.raises(LeaseLost):
        async with scope:
            pytest.fail("the call began")


@in_virtual_time
async def test_the_call_is_cancelled_once_however_often_it_is_interrupted() -> None:
    """A second interruption must not tear the closing of the socket apart."""
    scope, closed = CallScope(), False
    loop = asyncio.get_running_loop()
    loop.call_later(1, scope.interrupt, Stopping("one"))
    loop.call_later(1.5, scope.interrupt, Stopping("two"))

    async def call() -> None:
        nonlocal closed
        async with scope:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(1)
                closed = True

    with pytest.raises(Stopping, match="one"):
        await call()
    assert closed


@in_virtual_time
async def test_a_cancel_from_outside_wins() -> None:
    """The loop that shuts down is obeyed, also when the scope was interrupted in the same breath."""
    for interrupted in (False, True):
        scope = CallScope()

        async def call(scope: CallScope = scope) -> None:
            async with scope:
                await asyncio.sleep(60)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(call())
            await asyncio.sleep(1)
            if interrupted:
                scope.interrupt(Stopping("stop"))
            task.cancel()
        assert task.cancelled()


@in_virtual_time
async def test_a_vendor_that_swallows_the_cancel_is_still_interrupted() -> None:
    """A library that turns a cancel into an answer, or into an error of its own, changes nothing about why it ended."""

    async def swallow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    async def disguise() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            raise ConnectionError("closed") from error

    for vendor in (swallow, disguise):
        scope = CallScope()
        asyncio.get_running_loop().call_later(1, scope.interrupt, Stopping("stop"))
        with pytest.raises(Stopping):
            async with scope:
                await vendor()


@in_virtual_time
async def test_an_error_of_the_call_comes_through() -> None:
    """Without an interruption the scope is not there."""
    with pytest.raises(ZeroDivisionError):
        async with CallScope():
            raise ZeroDivisionError
    async with CallScope() as scope:
        pass
    assert scope.interrupted is None
