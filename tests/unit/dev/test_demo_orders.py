"""What the demo asks for is real: tasks that the relay and the daemon accept, and answers that fit them."""

from __future__ import annotations

import json

import msgspec
import pytest

from daemon import services
from daemon.blobs.magic import picture
from daemon.config import GuardSettings
from daemon.dev.demo.answers import answer
from daemon.dev.demo.orders import Order, orders
from daemon.dev.demo.show import FAULT
from daemon.dev.fake_llm.shapes import Asked
from daemon.dev.fake_llm.writing import dimensions, tokens
from daemon.domain.messages import parse_message
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.pipeline.route import Plan, route
from daemon.pipeline.validate import validate
from daemon.relay.ingest import route_of
from daemon.services.output import parse_output
from daemon.services.prompts import prompt

BOOK = services.load(None)
JPEG_BYTES_MAX = 120 * 1024


def planned(order: Order) -> Plan:
    """The daemon's plan for it."""
    body = msgspec.json.decode(order.body("t1"))
    message = parse_message({**body, "serviceId": order.service})
    return route(validate(message, order.queue, BOOK, 0.0), GuardSettings())


def asked(order: Order, *, images: bool = True) -> Asked:
    """The request that reaches a model for it."""
    service = BOOK.services[order.service]
    text = prompt(service.prompt or "").render(order.variables)
    pictures = (("image/jpeg", b"x"),) if order.picture and images else ()
    return Asked("openai", "m", stream=True, system=service.system or "", prompt=text, images=pictures)


def question(text: str) -> Asked:
    """The same from somebody else."""
    return Asked("openai", "m", stream=True, system="", prompt=text)


def test_every_queue_gets_a_task() -> None:
    assert {order.queue for order in orders()} == set(DEFAULT_QUEUES)


@pytest.mark.parametrize("order", orders(), ids=lambda order: order.name)
def test_the_daemon_accepts_what_is_asked(order: Order) -> None:
    """The route, the queue's tier and mode, the service and its models agree."""
    found = route_of(order.path)
    assert found is not None and found.service == order.service
    assert found.mode == DEFAULT_QUEUES[order.queue].mode
    assert planned(order).models


@pytest.mark.parametrize("order", orders(), ids=lambda order: order.name)
def test_every_question_has_an_answer_that_its_service_accepts(order: Order) -> None:
    text = answer(asked(order))
    assert text is not None and text == text.strip()
    parse_output(text, BOOK.services[order.service])
    assert "".join(tokens(text)) == text


def test_no_two_tasks_say_the_same() -> None:
    said = [answer(asked(order)) for order in orders()]
    assert len(set(said)) == len(said)


def test_a_stranger_is_not_told_what_was_written_for_the_demo() -> None:
    """With `--keep` people send their own; neither they nor a task whose picture got lost get these answers."""
    stranger = question("Review this résumé.\n<resume>Ten years of Java</resume>")
    lost = next(order for order in orders() if order.picture)
    other = question("Translate this for Fjordlight")
    assert [answer(stranger), answer(asked(lost, images=False)), answer(other)] == [None, None, None]


def test_the_screenshot_is_a_real_jpeg() -> None:
    """Judged by its bytes, as the daemon does."""
    order = next(order for order in orders() if order.picture)
    image = parse_message({**json.loads(order.body("t1")), "serviceId": order.service}).images
    assert image is not None and image[0].data is not None
    data = msgspec.json.decode(f'"{image[0].data}"', type=bytes)
    assert picture(data).mime_type == "image/jpeg"
    assert len(data) <= JPEG_BYTES_MAX
    assert dimensions(data) == (1088, 1173)


def test_the_fault_hits_only_the_task_that_is_to_be_retried() -> None:
    """It is planned for a model, so nobody else may ask that one."""
    hit = [order for order in orders() if planned(order).models[0].name == FAULT[0]]
    assert hit == [order for order in orders() if order.attempts == 2]
    assert len(hit) == 1 and "stream" in hit[0].queue
