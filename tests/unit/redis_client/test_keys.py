"""The register of Redis keys: what protocol 4 promises to operators and other programs."""

from __future__ import annotations

import re

from daemon.redis_client import keys

Q = "q_paid_stream"


def slot_tag(key: str) -> str:
    """What Redis Cluster hashes: the first braces' content if there is any, else the whole key."""
    found = re.search(r"\{(.+?)\}", key)
    return found[1] if found else key


def test_the_published_names_are_to_the_letter() -> None:
    """Front ends and autoscalers read these."""
    names = keys.queue_keys(Q)
    assert names.counter == "bp:queue:q_paid_stream"
    published = {n: f"{{bp:queue:{Q}}}:{n}" for n in ("waiting", "tasks", "ready", "retry", "held", "dead", "control")}
    assert {n: getattr(names, n) for n in published} == published
    assert keys.dedup(Q, "t1") == "{bp:queue:q_paid_stream}:seen:t1"
    assert keys.model_permits("m1", "paid") == "{guard}:model:m1:paid"
    assert keys.user_permits("u") == "{guard}:user:u"
    assert keys.waiters_of(keys.user_permits("u")) == "{guard}:wait:user:u"
    assert keys.events("t1") == "task:t1:events"
    assert keys.events_state("t1") == "{task:t1:events}:state"
    assert (keys.GROUP, keys.ENVIRONMENT) == ("daemon", "qstreamd:environment")


def test_what_one_script_touches_shares_a_slot() -> None:
    """On Redis Cluster a script over two slots is refused."""
    of_queue = {
        slot_tag(k) for k in (*keys.queue_keys(Q), keys.dedup(Q, "t"), keys.restored(Q, "t"), keys.blob(Q, "t", 0))
    }
    assert of_queue == {"bp:queue:q_paid_stream"}
    assert {slot_tag(keys.events("t1")), slot_tag(keys.events_state("t1"))} == {"task:t1:events"}
    guards = (
        keys.model_permits("m", "paid"),
        keys.user_permits("u"),
        keys.waiters_of(keys.user_permits("u")),
        keys.CONSUMERS,
    )
    assert {slot_tag(k) for k in guards} == {"guard"}


def test_the_keys_of_a_queue_are_made_once() -> None:
    """Every command needs them."""
    assert keys.queue_keys(Q) is keys.queue_keys(Q)
