"""What the demo asks for: tasks for all six queues, made of the files in `input/`, and how they are published."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import aiohttp
import msgspec

from daemon.domain.queues import DEFAULT_QUEUES

PUBLISH_S: Final = 10.0  #: a stand-in on this machine answers in milliseconds


class PublishRefused(Exception):
    """The stand-in for QStash did not take a message; the text has its answer."""


@dataclass(frozen=True, slots=True)
class Order:
    """One task to ask for. `attempts`: on which one it must end. `twice`: QStash delivers the call two times."""

    name: str
    queue: str
    service: str
    user: str
    about: str  #: what a viewer should look at
    variables: Mapping[str, str] = field(default_factory=dict)
    picture: bool = False
    attempts: int = 1
    twice: bool = False

    @property
    def path(self) -> str:
        """The relay's route for it, as a Next.js app calls it."""
        return f"/api/worker/{DEFAULT_QUEUES[self.queue].mode}/{self.service}"

    def body(self, task_id: str) -> bytes:
        """The message (protocol 2)."""
        message: dict[str, Any] = {
            "v": 1, "taskId": task_id, "queueId": self.queue, "userId": self.user, "variables": self.variables,
        }  # fmt: skip
        if self.picture:
            data = base64.b64encode(_file("job.jpg")).decode()
            message["images"] = [{"data": data, "mimeType": "image/jpeg"}]
        return msgspec.json.encode(message)


def orders() -> Sequence[Order]:
    """Everything that is asked for, in the order of publishing."""
    resume, job = _text("resume.txt"), _text("job.txt")
    chinese = _text("resume.zh.txt")
    return (
        Order("letter", "q_paid_stream", "cover-letter", "mara", "the model breaks off once",
              {"name": "Mara Lindqvist", "resume": resume, "job": job}, attempts=2),
        Order("review", "q_paid_stream", "resume-review", "mara", "streams beside it",
              {"role": "Senior Backend Engineer", "resume": resume}),
        Order("free-review", "q_free_stream", "resume-review", "yutong", "a résumé in Chinese",
              {"role": "前端工程师", "resume": chinese}),
        Order("free-letter", "q_free_stream", "cover-letter", "yutong", "same free user: one at a time",
              {"tone": "brief", "name": "Chen Yutong", "resume": chinese, "job": job}),
        Order("match", "q_paid_batch", "job-match", "mara", "the call comes twice, runs once",
              {"resume": resume, "job": job}, twice=True),
        Order("questions", "q_free_batch", "interview-questions", "jonas", "JSON, held to a schema",
              {"count": "5", "job": job}),
        Order("job-ad", "q_paid_vision", "job-ad-reader", "astrid", "reads a screenshot", picture=True),
        Order("page", "q_free_vision", "portfolio-feedback", "samira", "looks at the same one",
              {"role": "web designer", "work": "this page"}, picture=True),
    )  # fmt: skip  # a table


async def publish(order: Order, task_id: str, *, relay_url: str, qstash: Mapping[str, str]) -> str:
    """QStash's id of the message, sent as `@upstash/qstash` would. Raises `PublishRefused`."""
    headers = {"Authorization": f"Bearer {qstash['QSTASH_TOKEN']}", "Content-Type": "application/json"}
    if order.twice:
        headers["Upstash-Fake-Mischief"] = "twice"
    url = f"{qstash['QSTASH_URL']}/v2/publish/{relay_url}{order.path}"
    timeout = aiohttp.ClientTimeout(total=PUBLISH_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, data=order.body(task_id), headers=headers) as answer,
    ):
        said = await answer.text()
        if answer.status != 200:
            raise PublishRefused(f"{order.name}: {answer.status} {said[:300]}")
        return str(msgspec.json.decode(said)["messageId"])


def _file(name: str) -> bytes:
    return (files("daemon.dev.demo") / "input" / name).read_bytes()


def _text(name: str) -> str:
    return _file(name).decode("utf-8").strip()
