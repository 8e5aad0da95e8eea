"""What a load came to."""

from __future__ import annotations

from daemon.admin.load_generator import Progress, Sent
from daemon.admin.load_report import Spread, report, spread


def _sent(number: int, queue: str = "q", **fields: object) -> Sent:
    task = Sent(f"t{number}", queue, 100.0)
    for name, value in {"status": 200, "answered_at": 100.01, **fields}.items():
        setattr(task, name, value)
    return task


def test_a_good_load_is_summed_by_queue_and_over_all() -> None:
    """Waits, ends and the share in time."""
    tasks = [
        _sent(1, "a", started_at=101.0, ended_at=105.0, end="done", attempts=1),
        _sent(2, "b", started_at=102.0, first_token_at=103.0, ended_at=500.0, end="done", attempts=2,
              waits=["RETRY_AT"]),
        _sent(3, "b", started_at=102.0, ended_at=104.0, end="LLM_REFUSED", attempts=1),
        _sent(4, "b", status=429),
    ]  # fmt: skip
    found = report(tasks, Progress(wrong=2, held=2), sla_s=300)
    assert found.good
    assert [(q.queue, q.sent, q.accepted, q.done, q.failed, q.unended) for q in found.queues] == [
        ("a", 1, 1, 1, 0, 0), ("b", 3, 2, 1, 1, 0), ("all", 4, 3, 2, 1, 0),
    ]  # fmt: skip
    assert found.queues[1].in_sla == 0.0, "done, but too late"
    assert found.queues[1].first_token.p50 == 3.0
    assert (found.codes, found.refusals, found.waits) == ({"LLM_REFUSED": 1}, {"429": 1}, {"RETRY_AT": 1})
    assert found.queues[1].more_attempts == 1


def test_a_task_without_end_or_a_wrong_call_let_in_is_not_good() -> None:
    """These are what a sim is for."""
    assert not report([_sent(1)], Progress(), sla_s=300).good
    assert not report([_sent(1, ended_at=101.0, end="done")], Progress(wrong=2, held=1), sla_s=300).good


def test_nothing_measured_is_nothing() -> None:
    """No zero is made up."""
    assert spread([(1.0, None)]) == Spread(None, None, None)
    assert spread([(0.0, float(n)) for n in range(100)]) == Spread(50.0, 95.0, 99.0)
    assert report([_sent(1, status=0)], Progress(), sla_s=1).queues[0].in_sla is None
