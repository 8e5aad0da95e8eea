"""Who runs a task: a run that lives is not cut, and a Postgres that lost commits makes nobody's words another's."""

from __future__ import annotations

import pytest

from daemon.domain.errors import Code, LeaseLost, ProviderError, StoreAway
from daemon.domain.messages import WorkEntry
from daemon.domain.permits import Permit
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import CompletedAgain, Done, Failed, Fenced, Refused, Snoozed
from daemon.redis_client import keys
from tests.fakes import ANSWER, Crash, Step, Trouble, finished, text
from tests.integration.pipeline.conftest import Bench, Process, message
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_key_left")


async def arrive(bench: Bench, process: Process) -> InFlight:
    """A task is accepted and read."""
    await bench.accept(message())
    return await process.fetch()


async def lose_commits(bench: Bench) -> None:
    """As a failover does whose standby had not got them yet."""
    await bench.pool.fetch("DELETE FROM qstreamd.tasks")


async def test_who_stood_still_before_its_claim_cuts_nobody(bench: Bench) -> None:
    """`a` has read the entry, `b` has taken it over and runs it: `a` gives its permits back and settles nothing."""
    bench.plan("t1", (text("half"), 0.2, *ANSWER))
    a, b = bench.process("a"), bench.process("b")
    late = await arrive(bench, a)
    (taken,) = await b.take_over()
    work = b.start(taken)
    await wait_until(bench.calls, description="the model is called")
    places = await bench.permits()
    assert await a.run(late) == Refused()
    assert await bench.permits() == places and not late.settled
    assert isinstance(await work, Done)
    assert bench.calls() == 1 and await bench.story() == ["queued", "started", "done"]
    assert await bench.attempts() == [(1, "done", None)]
    assert await bench.left() == {}


async def test_an_entry_whose_claim_is_unknown_stays_while_another_runs_it(bench: Bench) -> None:
    """Postgres did not answer until the lease was over, and another owner's row names this entry: it is not moved."""
    bench.plan("t1", (text("half"), 0.3, *ANSWER))
    a, b = bench.process("a"), bench.process("b")
    late = await arrive(bench, a)
    (taken,) = await b.take_over()
    work = b.start(taken)
    await wait_until(bench.calls, description="the model is called")
    late.scope.interrupt(LeaseLost("no good beat"))
    a.recorder.away = {"ledger.claim": StoreAway("lost")}
    assert await a.run(late) == Refused()
    assert isinstance(await work, Done) and bench.calls() == 1
    assert await bench.left() == {}


async def test_a_number_that_postgres_hands_out_twice_is_raised(bench: Bench) -> None:
    """The text of two runs never stands under one attempt; the zombie's words and result are refused."""
    zombie_says = (text("of the zombie"), 0.3, text(" again"), finished())
    bench.plan("t1", zombie_says, ANSWER)
    a, b = bench.process("a"), bench.process("b")
    zombie = a.start(await arrive(bench, a))
    await wait_until(lambda: _told(bench), description="the zombie's words are told")
    await lose_commits(bench)
    (taken,) = await b.take_over()
    assert isinstance(await b.run(taken), Done)
    assert await zombie == Fenced()
    assert (await bench.row())["attempt"] == 2
    assert await bench.attempts() == [(2, "done", None)]
    events = await bench.events()
    assert [(str(e.type), e.data["attempt"]) for e in events if e.type != "token_batch"] == [
        ("queued", 0), ("started", 1), ("started", 2), ("done", 2),
    ]  # fmt: skip
    told = {1: "", 2: ""}
    for e in events:
        if e.type == "token_batch" and e.data["channel"] == "text":
            told[e.data["attempt"]] += e.data["delta"]
    assert told == {1: "of the zombie", 2: "the answer"}
    [result] = await bench.results()
    assert result["content"] == "the answer"
    assert await bench.left() == {} and await bench.permits() == {}


async def _told(bench: Bench) -> bool:
    return any(e.type == "token_batch" for e in await bench.events())


async def test_our_own_number_is_not_begun_again_either(bench: Bench) -> None:
    """The beat found no row; the same process reads its entry back and claims it: again number one, raised to two."""
    bench.plan("t1", (text("half"), 5.0), ANSWER)
    a = bench.process()
    hold = await arrive(bench, a)
    work = a.start(hold)
    await wait_until(lambda: _told(bench), description="its words are told")
    await lose_commits(bench)
    hold.scope.interrupt(LeaseLost("the attempt is not ours any more"))
    assert await work == Fenced()
    assert isinstance(await a.run(InFlight(hold.delivery)), Done)
    assert [e.data["attempt"] for e in await bench.events() if e.type == "started"] == [1, 2]
    assert a.recorder.calls.count("ledger.raise_attempt") == 1
    assert await bench.left() == {}


async def test_an_attempt_that_was_taken_over_is_not_raised(bench: Bench) -> None:
    """It looks for a number above its events, but the row is another owner's by then: it stops."""
    bench.plan("t1", (text("half"), 5.0), ANSWER)
    a, b = bench.process("a"), bench.process("b")
    hold = await arrive(bench, a)
    work = a.start(hold)
    await wait_until(lambda: _told(bench), description="its words are told")
    await lose_commits(bench)
    hold.scope.interrupt(LeaseLost("the attempt is not ours any more"))
    assert await work == Fenced()

    async def taken_over(call: str) -> None:
        if call == "ledger.raise_attempt":
            await bench.pool.fetch("UPDATE qstreamd.tasks SET owner = 'b', attempt = 7")

    a.recorder.before = taken_over
    assert await a.run(InFlight(hold.delivery)) == Fenced()
    assert (await bench.row())["attempt"] == 7 and bench.calls() == 1
    assert [e.data["attempt"] for e in await bench.events() if e.type == "started"] == [1]
    assert isinstance((await bench.finish_all(b))[-1], Done)


@pytest.mark.parametrize("full", [False, True])
async def test_what_a_dead_owner_ran_is_taken_at_once(bench: Bench, *, full: bool) -> None:
    """Its heartbeat is fresh, but it is proved dead: claimed, or released where it must wait; a crash counts."""
    a, b = bench.process("a"), bench.process("b")
    hold = await arrive(bench, a)
    a.recorder.trouble = Trouble(2, "before", Crash)
    with pytest.raises(Crash):
        await a.run(hold)
    (taken,) = await b.take_over()
    await bench.pool.fetch("UPDATE qstreamd.tasks SET heartbeat_at = now()")
    assert await b.run(taken) == Refused()
    b.with_(dead_owners={"a"})
    if full:
        for number in range(3):
            await b.limiter.retake(f"other{number}", [Permit(keys.user_permits("u_t1"), 3)], 200)
    outcome = await b.run(InFlight(taken.delivery))
    assert isinstance(outcome, Snoozed if full else Done)
    row = await bench.row()
    assert (row["crashes"], row["state"]) == (1, "queued" if full else "done")
    if full:
        await bench.finish_all(b, rounds_max=400)


async def done_without_a_row(bench: Bench, *script: Step) -> Process:
    """`a` told `done` and died before its ack; then Postgres lost its commits. Another process, that is to find it."""
    bench.plan("t1", script or ANSWER)
    a = bench.process("a")
    hold = await arrive(bench, a)
    a.recorder.trouble = Trouble(len(TOLD), "before", Crash)
    with pytest.raises(Crash):
        await a.run(hold)
    assert a.recorder.calls == [*TOLD, "settlement.ack"]
    await lose_commits(bench)
    return bench.process("b")


TOLD = ["limiter.acquire", "ledger.claim", "settlement.begin", "ledger.finish", "settlement.append_and_release"]


async def test_a_result_that_was_told_is_written_back(bench: Bench) -> None:
    """Row and result are those that `done` names; the model is not called again."""
    b = await done_without_a_row(bench)
    before = await bench.events()
    assert await bench.finish_all(b) == [CompletedAgain()]
    assert await bench.events() == before and bench.calls() == 1
    row, [result] = await bench.row(), await bench.results()
    assert (row["state"], row["attempt"], row["error_code"]) == ("done", 1, None)
    assert (result["content"], result["content_sha256"]) == ("the answer", before[-1].data["contentSha256"])
    assert await bench.attempts() == [(1, "done", None)]
    assert await bench.permits() == {} and await bench.letters() == []


async def test_a_result_that_nobody_has_is_lost_and_not_made_again(bench: Bench) -> None:
    """Its text has a hole: the row is `done` and says so, and its end can be repeated as any other one."""
    words = [text(f"{n} " + "x" * 900) for n in range(8)]
    b = await done_without_a_row(bench, *words, finished())
    delta = next(e for e in await bench.events() if e.type == "token_batch")
    await bench.client.xdel(keys.events("t1"), delta.id)
    assert await bench.finish_all(b) == [CompletedAgain()]
    row = await bench.row()
    assert (row["state"], row["error_code"], row["finished_at"] is None) == ("done", "RESULT_LOST", False)
    assert await bench.results() == [] and bench.calls() == 1
    await bench.accept(message())  # the same task once more: a duplicate
    await bench.add_raw(WorkEntry(message=message(), sha256="sha-t1", accepted_at=1))
    assert await bench.finish_all(b) == [CompletedAgain()]


async def test_a_failure_that_was_told_is_the_rows_too(bench: Bench) -> None:
    """Not `done` but `error`, and its row is lost: it ends with the code that viewers know."""
    bench.plan("t1", (ProviderError(code=Code.LLM_REFUSED),))
    a = bench.process("a")
    hold = await arrive(bench, a)
    a.recorder.before = _dies_at_the_letter
    with pytest.raises(Crash):
        await a.run(hold)
    await lose_commits(bench)
    assert await bench.finish_all(bench.process("b")) == [Failed(Code.LLM_REFUSED)]
    assert (await bench.row())["error_code"] == "LLM_REFUSED" and bench.calls() == 1


async def _dies_at_the_letter(call: str) -> None:
    if call == "settlement.dead_letter":
        raise Crash
