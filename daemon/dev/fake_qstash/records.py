"""What the fake QStash remembers: events, dead letters, deduplication, URL groups. All in memory, all bounded."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemon.dev.fake_qstash.message import Answer, Message, State, grouped, milliseconds, text_or_base64

DEDUPLICATION_WINDOW_S: Final = 600.0
PAGE_MAX: Final = 1000

Query = dict[str, list[str]]
_DIRECT: Final = (
    "messageId",
    "url",
    "queueName",
    "topicName",
    "scheduleId",
    "label",
    "state",
    "callerIP",
    "responseStatus",
)


def matches(shown: Mapping[str, Any], query: Query, *, time_field: str = "createdAt") -> bool:
    """Does a record, as the API shows it, pass the filters of a query? Unknown parameters filter nothing."""
    for name in _DIRECT:
        wanted = query.get(name) or (query.get("callerIp") if name == "callerIP" else None)
        if wanted and str(shown.get(name)) not in wanted:
            return False
    for several, one in (("messageIds", "messageId"), ("dlqIds", "dlqId")):
        if (ids := query.get(several)) and shown.get(one) not in _split(ids):
            return False
    moment = int(shown.get(time_field) or 0)
    if (after := query.get("fromDate")) and moment < int(after[0]):
        return False
    return not ((before := query.get("toDate")) and moment > int(before[0]))


def page(
    records: Iterable[tuple[str, dict[str, Any]]], query: Query, *, size: int = 100
) -> tuple[list[Any], str | None]:
    """One page of (cursor, record) pairs and the cursor of the next page; None at the end."""
    count = min(int((query.get("count") or [str(size)])[0]), PAGE_MAX)
    start = (query.get("cursor") or [""])[0]
    if start:
        records = itertools.dropwhile(lambda pair: pair[0] != start, records)
    taken = list(itertools.islice(records, count + 1))
    return [record for _, record in taken[:count]], taken[count][0] if len(taken) > count else None


def _split(values: list[str]) -> set[str]:
    return {item for value in values for item in value.split(",")}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, with the last answer."""

    id: str
    message: Message
    answer: Answer

    def as_json(self) -> dict[str, Any]:
        """The entry as the DLQ API shows it."""
        return {
            **self.message.as_json(),
            "dlqId": self.id,
            "responseStatus": self.answer.status,
            "responseHeader": grouped(self.answer.headers),
            **text_or_base64("responseBody", self.answer.body),
        }


@dataclass(slots=True)
class UrlGroup:
    """A named set of endpoints; a message to it becomes one message for each."""

    name: str
    created_at: float
    updated_at: float
    endpoints: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The group as the API shows it."""
        return {
            "name": self.name,
            "createdAt": milliseconds(self.created_at),
            "updatedAt": milliseconds(self.updated_at),
            "endpoints": self.endpoints,
        }


class Records:
    """The memory of one fake; the oldest goes when it is full."""

    def __init__(self, *, records_max: int) -> None:
        self._max = records_max
        self._events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=records_max)
        self._numbers = itertools.count()
        self._seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.dead: OrderedDict[str, DeadLetter] = OrderedDict()
        self.groups: dict[str, UrlGroup] = {}

    def note(self, message: Message, state: State, now: float, **extra: Any) -> None:
        """The message is in this state now, and the log says so."""
        message.state = state
        shown = message.as_json()
        event = {"time": milliseconds(now), "state": state.value} | {k: v for k, v in extra.items() if v is not None}
        for name in ("messageId", "url", "topicName", "endpointName", "queueName", "scheduleId", "label", "method"):
            if name in shown:
                event[name] = shown[name]
        event["maxRetries"] = message.options.retries
        event["retried"] = message.retried
        self._events.append((f"{milliseconds(now)}-{next(self._numbers)}", event))

    def events(self, query: Query) -> dict[str, Any]:
        """A page of the log, newest first."""
        chosen = (pair for pair in reversed(self._events) if matches(pair[1], query, time_field="time"))
        events, cursor = page(chosen, query)
        return {"events": events, **({"cursor": cursor} if cursor else {})}

    def first_of(self, key: str, message_id: str, now: float) -> str:
        """The id of the first message with this key within the last 10 minutes: this one's, or an older one's."""
        while self._seen and (next(iter(self._seen.values()))[1] <= now or len(self._seen) >= self._max):
            self._seen.popitem(last=False)
        return self._seen.setdefault(key, (message_id, now + DEDUPLICATION_WINDOW_S))[0]

    def bury(self, message: Message, answer: Answer, now: float) -> DeadLetter:
        """Put a failed message into the dead letter queue."""
        letter = DeadLetter(f"{milliseconds(now)}-{next(self._numbers)}", message, answer)
        self.dead[letter.id] = letter
        while len(self.dead) > self._max:
            self.dead.popitem(last=False)
        return letter

    def letters(self, query: Query) -> list[DeadLetter]:
        """The dead letters that a query means, oldest first."""
        return [letter for letter in self.dead.values() if matches(letter.as_json(), query)]
