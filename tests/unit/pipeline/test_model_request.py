from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from daemon.config import GuardSettings
from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import INLINE_BASE64_BYTES_MAX, ImageRef
from daemon.domain.model_io import ModelRequest, Picture
from daemon.pipeline.model_request import for_model, load, reference, references
from daemon.pipeline.route import route
from daemon.pipeline.validate import validate
from daemon.ports import TaskContext, Template
from daemon.services import Service
from tests.unit.pipeline.messages import BOOK, EYE, LOOK, REVIEW, message

GOOD = {"resume": "my résumé", "role": "cook"}
IMAGE = ImageRef(file_id="f_1")


class Stored:
    """Templates and pictures that are there, and a record of what was asked for."""

    def __init__(self, *templates: Template) -> None:
        self.templates = {template.ref.partition("@")[0]: template for template in templates}
        self.asked: list[str] = []

    async def get(self, ref: str) -> Template:
        self.asked.append(ref)
        try:
            return self.templates[ref.partition("@")[0]]
        except KeyError:
            raise Rejected(f"templateId: {ref} does not exist") from None

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        raise AssertionError("a step that loads drops nothing")

    async def read(self, ref: str, user_id: str) -> Picture:
        self.asked.append(ref)
        if "gone" in ref:
            raise Rejected(code=Code.IMAGE_NOT_FOUND)
        return Picture("image/png", ref.encode())


async def loaded(
    stored: Stored | None = None, context: TaskContext | None = None, service: Service | None = None, **fields: Any
) -> ModelRequest:
    catalog = BOOK if service is None else dataclasses.replace(BOOK, services={service.id: service})
    sent = message(**({"service_id": service.id} if service else {}), **fields)
    plan = route(validate(sent, sent.queue_id, catalog, 0.0), GuardSettings())
    stored = stored or Stored()
    return for_model(await load(sent, plan, context, stored, stored), plan.model)


async def refusal(*args: Any, **fields: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        await loaded(*args, **fields)
    return caught.value


async def test_a_request_holds_what_the_service_and_the_message_say() -> None:
    request = await loaded(variables=GOOD)
    assert (request.provider, request.model_name) == ("deepseek", "deepseek-v4-pro")
    assert (request.system, request.prompt) == ("You coach people.", "Review my résumé for cook")
    assert (request.max_output_tokens, request.temperature) == (512, 0.3)
    assert (request.stream, request.json_output, request.pictures) == (True, False, ())
    assert not (await loaded(variables=GOOD, queue_id="q_paid_batch")).stream


async def test_the_user_s_id_never_reaches_the_provider() -> None:
    """The tag is the same for a user's tasks and says nothing of who it is."""
    first, second = await loaded(variables=GOOD), await loaded(variables={**GOOD, "role": "x"}, task_id="t2")
    assert first.user_tag == second.user_tag
    assert first.user_tag != (await loaded(variables=GOOD, user_id="u2")).user_tag
    assert len(first.user_tag) == 32
    assert "u1" not in repr(first).replace(first.user_tag, "")


async def test_the_same_input_gives_the_same_request() -> None:
    assert await loaded(variables=GOOD) == await loaded(variables=GOOD)


async def test_a_fallback_gets_the_same_request() -> None:
    request = for_model(await loaded(variables=GOOD), EYE)
    assert (request.provider, request.model_name) == ("gemini", "gemini-flash-latest")
    assert request.prompt == "Review my résumé for cook"


async def test_how_much_it_thinks_is_the_model_s_own() -> None:
    """A fallback that has no such setting is asked without it."""
    asked = await loaded(variables=GOOD)
    assert for_model(for_model(asked, dataclasses.replace(EYE, reasoning="off")), EYE).reasoning is None
    assert for_model(asked, dataclasses.replace(EYE, reasoning="low")).reasoning == "low"


async def test_a_model_s_way_out_goes_with_its_request() -> None:
    request = for_model(await loaded(variables=GOOD), dataclasses.replace(EYE, proxy="http://u:s3cret@h:3128"))
    assert request.proxy == "http://u:s3cret@h:3128"
    assert "s3cret" not in repr(request)


async def test_missing_variables_are_invalid_and_named() -> None:
    error = await refusal(variables={"who": "x"})
    assert (error.code, error.message) == (Code.INVALID_PAYLOAD, "review: missing variables: resume, role")


async def test_ids_can_be_named_and_win_over_variables() -> None:
    service = dataclasses.replace(REVIEW, prompt="{{ taskId }} {{ jobId }} {{ refs.cv }}")
    fields: dict[str, Any] = {"service": service, "variables": {"taskId": "forged"}, "refs": {"cv": "c9"}}
    assert (await loaded(job_id="j1", **fields)).prompt == "t1 j1 c9"
    assert "missing variables: jobId" in (await refusal(**fields)).message


async def test_user_text_is_data_wherever_it_comes_from() -> None:
    evil = "{{ role }}{% for x in range(9) %}"
    assert (await loaded(variables={**GOOD, "resume": evil})).prompt == f"Review {evil} for cook"
    context = TaskContext(None, {**GOOD, "resume": evil}, [])
    assert (await loaded(context=context)).prompt == f"Review {evil} for cook"


async def test_ids_alone_load_the_context() -> None:
    assert (await loaded(context=TaskContext(None, GOOD, []))).prompt == "Review my résumé for cook"


async def test_no_context_is_an_error_of_its_own() -> None:
    assert (await refusal()).code is Code.CONTEXT_NOT_FOUND


async def test_a_message_with_input_does_not_look_at_the_context() -> None:
    assert "missing variables" in (await refusal(context=TaskContext(None, GOOD, []), variables={})).message


async def test_a_message_s_template_wins_over_the_context_s_and_the_service_s() -> None:
    stored = Stored(Template("a@1", "A", "SYS {{ role }}"), Template("b@2", "B"), Template("c@3", "C"))
    service = dataclasses.replace(REVIEW, prompt=None, template="c")
    context = TaskContext("b", GOOD, [])
    first = await loaded(stored, context, service, template_id="a@1")
    assert (first.system, first.prompt) == ("SYS cook", "A")
    second = await loaded(stored, context, service)
    assert (second.system, second.prompt) == ("You coach people.", "B")
    assert (await loaded(stored, service=service, variables={})).prompt == "C"
    assert stored.asked == ["a@1", "b", "c"]


async def test_a_template_that_can_not_be_used_is_invalid() -> None:
    stored = Stored(Template("bad@1", "{{ open"), Template("deep@1", "{{ 1 / 0 }}"))
    assert (await refusal(stored, variables={}, template_id="bad")).message.startswith("bad@1: line 1")
    assert "deep@1: an expression failed" in (await refusal(stored, variables={}, template_id="deep")).message
    assert "does not exist" in (await refusal(stored, variables={}, template_id="gone")).message
    assert "is not name or name@version" in (await refusal(stored, TaskContext("../x", {}, []))).message
    assert stored.asked == ["bad", "deep", "gone"]


async def test_an_empty_prompt_is_refused_unless_there_is_a_picture() -> None:
    service = dataclasses.replace(LOOK, prompt="{{ text }}")
    assert "the prompt is empty" in (await refusal(service=service, variables={"text": " \n"})).message
    assert (await loaded(service=service, variables={"text": ""}, images=[IMAGE])).pictures


async def test_json_services_tell_the_model_the_schema() -> None:
    """Vendors' JSON modes want the word JSON in the prompt, and none of them gets the schema otherwise."""
    request = await loaded(service=LOOK, variables={})
    assert request.json_output
    assert request.system.endswith('under this JSON Schema:\n{"type":"object"}')
    free = dataclasses.replace(LOOK, schema=None, system="Be exact.")
    assert (await loaded(service=free, variables={})).system.startswith("Be exact.\n\nAnswer with one JSON document")


async def test_pictures_keep_their_order_whatever_their_form() -> None:
    images = [
        ImageRef(blob="redis:{bp:queue:q}:blob:t1:0"), IMAGE, ImageRef(file_key="images/x.jpg"), ImageRef(data="QUJD"),
        ImageRef(data="DATA:image/png;base64,QUJD"),
    ]  # fmt: skip
    stored = Stored()
    request = await loaded(stored, service=LOOK, images=images)
    assert stored.asked == [
        "redis:{bp:queue:q}:blob:t1:0", "file:f_1", "key:images/x.jpg", "data:;base64,QUJD",
        "DATA:image/png;base64,QUJD",
    ]  # fmt: skip
    assert [picture.data.decode() for picture in request.pictures] == stored.asked == [reference(i) for i in images]


async def test_a_picture_that_is_gone_ends_the_task() -> None:
    assert (await refusal(service=LOOK, images=[ImageRef(file_id="f_gone")])).code is Code.IMAGE_NOT_FOUND


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"fileId": "f"}] * 9, "task_context has 9; at most 8"),
        ([{"fileld": "f"}], "unknown field `fileld`"),
        ([{"fileId": 5}], "Expected `str"),
        ([{}], "images[0] of task_context: exactly one of"),
        ([{"fileId": "f"}, {"fileId": "f", "fileKey": "k"}], "images[1] of task_context"),
        ([{"blob": "redis:x"}], "images[0] of task_context"),
        ([{"fileId": "f", "blob": "redis:x"}], "images[0] of task_context"),
        ([{"data": "A" * (INLINE_BASE64_BYTES_MAX + 1)}], "bytes of base64"),
    ],
)
async def test_the_context_s_images_are_held_to_the_same_rules(rows: list[dict[str, Any]], said: str) -> None:
    error = await refusal(context=TaskContext(None, {}, rows), service=LOOK)
    assert error.code is Code.IMAGE_REJECTED
    assert said in error.message


async def test_the_context_s_images_need_a_service_that_takes_them() -> None:
    error = await refusal(context=TaskContext(None, GOOD, [{"fileId": "f"}]))
    assert (error.code, "takes no images" in error.message) == (Code.IMAGE_REJECTED, True)
    assert (await loaded(context=TaskContext(None, {}, [{"fileId": "f"}]), service=LOOK)).pictures


async def test_text_that_utf8_can_not_spell_is_mended() -> None:
    """A lone surrogate would break the call; a pair spelt in two halves becomes its character."""
    request = await loaded(variables={"resume": "a\ud800b\ud83d\ude00", "role": "x"})
    assert request.prompt == "Review a\ufffdb😀 for x"


async def test_all_pictures_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is held in memory twice while the call is made; no more are read once it is passed."""
    monkeypatch.setattr("daemon.pipeline.model_request.PICTURES_BYTES_MAX", 20)
    stored = Stored()
    images = [ImageRef(file_id=f"f_{n}") for n in range(8)]
    error = await refusal(stored, service=LOOK, images=images)
    assert (error.code, "together" in error.message) == (Code.IMAGE_REJECTED, True)
    assert stored.asked == ["file:f_0", "file:f_1", "file:f_2"]


def test_what_lies_in_a_store_is_known_by_its_references() -> None:
    """Inline bytes of the message or the view lie nowhere; rows that are no images are judged elsewhere."""
    sent = message(images=[ImageRef(data="aGk="), ImageRef(file_id="f_1"), ImageRef(blob="disk:x")])
    rows: list[dict[str, Any]] = [{"fileKey": "a/b"}, {"data": "aGk="}, {"what": 1}]
    assert references(sent, TaskContext(None, {}, rows)) == ["file:f_1", "disk:x", "key:a/b"]
    assert references(message()) == []
