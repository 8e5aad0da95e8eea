"""Turns a claimed task into the one request that a model gets: input, template, pictures.

Talks only to the ports `Templates` and `Blobs`. What users sent is data here: it fills variables and is never rendered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from daemon.domain.errors import Code, Rejected
from daemon.domain.messages import IMAGES_MAX, INLINE_BASE64_BYTES_MAX, ImageRef, TaskMessage
from daemon.domain.model_io import ModelRequest, Parameter, Picture
from daemon.pipeline.route import Plan
from daemon.pipeline.validate import check_images
from daemon.ports import Blobs, TaskContext, Templates
from daemon.services import Model, Service
from daemon.services.catalog import is_template_ref
from daemon.services.prompts import BadTemplate, MissingVariables, prompt
from daemon.services.sandbox import RenderFailed

#: all pictures of a call together: vendors take about as much in one request, and each is held twice for a while
PICTURES_BYTES_MAX: Final = 20 * 1024 * 1024
_SAMPLING: Final = frozenset[Parameter]({"temperature"})  #: what a model with `sampling = false` takes none of
_JSON_ONLY: Final = "Answer with one JSON document and nothing else: no introduction, no code fence."
_JSON_SCHEMA: Final = f"{_JSON_ONLY} It must be valid under this JSON Schema:\n"


@dataclass(frozen=True, slots=True)
class _Input:
    """What a task has to say, wherever it came from."""

    template_id: str | None
    variables: Mapping[str, Any]
    images: Sequence[ImageRef]


async def load(
    message: TaskMessage, plan: Plan, context: TaskContext | None, templates: Templates, blobs: Blobs
) -> ModelRequest:
    """What the task asks, whichever model is called; `for_model` makes one model's request of it.

    Raises `Rejected`: INVALID_PAYLOAD (variables are missing, and named; a bad template; an empty prompt),
    CONTEXT_NOT_FOUND, IMAGE_REJECTED, IMAGE_NOT_FOUND. May be repeated: the same input gives the same request.
    """
    service = plan.service
    found = _input(message, context)
    check_images(len(found.images), service)
    variables = _variables(message, found.variables)
    name, system, source = await _sources(found.template_id, service, templates)
    pictures = await _pictures(found.images, blobs, message.user_id)
    text = _rendered(name, source, variables)
    if not text.strip() and not pictures:
        raise Rejected(f"{name}: the prompt is empty")
    return ModelRequest(
        provider="",
        model_name="",
        system=_with_schema(_rendered(name, system, variables), service),
        prompt=text,
        pictures=pictures,
        stream=plan.stream,
        json_output=service.output == "json",
        max_output_tokens=service.max_output_tokens,
        temperature=service.temperature,
        idle_s=plan.timeouts.idle_s,
        user_tag=hashlib.sha256(f"qstreamd user {message.user_id}".encode()).hexdigest()[:32],
    )


def for_model(request: ModelRequest, model: Model, refused: frozenset[Parameter] = frozenset()) -> ModelRequest:
    """The request as `model` takes it: without a temperature if it takes none, and without what it has `refused`."""
    omit: frozenset[Parameter] = refused if model.sampling else refused | _SAMPLING
    return replace(
        request, provider=model.provider, model_name=model.name, reasoning=model.reasoning, proxy=model.proxy,
        omit=omit, spent=[],
    )  # fmt: skip


def _input(message: TaskMessage, context: TaskContext | None) -> _Input:
    """The message's own input, or the row of `task_context` when the message only brings ids."""
    if not message.id_first:
        return _Input(message.template_id, message.variables or {}, message.images or ())
    if context is None:
        raise Rejected(
            "no variables, no images, and no row in qstreamd.task_context for this taskId, jobId or refs",
            code=Code.CONTEXT_NOT_FOUND,
        )
    return _Input(message.template_id or context.template_id, context.variables, _images(context.images))


def _images(rows: Sequence[Mapping[str, Any]]) -> Sequence[ImageRef]:
    """The view's images, held to the rules of a message's."""
    if len(rows) > IMAGES_MAX:
        raise Rejected(f"images: task_context has {len(rows)}; at most {IMAGES_MAX}", code=Code.IMAGE_REJECTED)
    try:
        images = msgspec.convert(list(rows), list[ImageRef])
    except msgspec.ValidationError as error:
        raise Rejected(f"images of task_context: {error}", code=Code.IMAGE_REJECTED) from None
    for at, image in enumerate(images):
        if sum(form is not None for form in (image.data, image.file_id, image.file_key)) != 1 or image.blob is not None:
            raise Rejected(
                f"images[{at}] of task_context: exactly one of data, fileId, fileKey is allowed",
                code=Code.IMAGE_REJECTED,
            )
    return images


def _variables(message: TaskMessage, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the template may name. The ids win over variables of the same name; an absent `jobId` counts as missing."""
    own: dict[str, Any] = {"taskId": message.task_id, "refs": message.refs or {}}
    if message.job_id is not None:
        own["jobId"] = message.job_id
    return {**given, **own}


async def _sources(ref: str | None, service: Service, templates: Templates) -> tuple[str, str, str]:
    """Name, system and prompt source: of the message's template, the service's template, or the service itself."""
    ref = ref or service.template
    if ref is None:
        return service.id, service.system, service.prompt or ""
    if not is_template_ref(ref):  # from task_context; a message's was judged before
        raise Rejected(f"templateId: {ref[:80]!r} is not name or name@version")
    template = await templates.get(ref)
    return template.ref, service.system if template.system is None else template.system, template.prompt


def _rendered(name: str, source: str, variables: Mapping[str, Any]) -> str:
    try:
        text = prompt(source).render(variables)
        # JSON of `task_context` can spell half a surrogate pair, UTF-8 can't: it becomes U+FFFD
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    except (MissingVariables, RenderFailed, BadTemplate) as error:
        raise Rejected(f"{name}: {error}") from None


def _with_schema(system: str, service: Service) -> str:
    """A json service's system text says so: vendors' JSON modes want the word, and none of them knows the schema."""
    if service.output != "json":
        return system
    order = _JSON_ONLY if service.schema is None else _JSON_SCHEMA + service.schema
    return f"{system}\n\n{order}" if system else order


async def _pictures(images: Sequence[ImageRef], blobs: Blobs, user_id: str) -> tuple[Picture, ...]:
    """In the order they were sent. One after the other: all of them in flight would hold their bytes twice."""
    if sum(len(image.data or "") for image in images) > INLINE_BASE64_BYTES_MAX:
        raise Rejected(f"images: more than {INLINE_BASE64_BYTES_MAX} bytes of base64", code=Code.IMAGE_REJECTED)
    pictures: list[Picture] = []
    for image in images:
        pictures.append(await blobs.read(reference(image), user_id))
        if sum(len(picture.data) for picture in pictures) > PICTURES_BYTES_MAX:
            raise Rejected(f"images: more than {PICTURES_BYTES_MAX} bytes together", code=Code.IMAGE_REJECTED)
    return tuple(pictures)


def references(message: TaskMessage, context: TaskContext | None = None) -> list[str]:
    """What lies in a blob store for this task, as far as is known here; to be dropped when it is over."""
    images = list(message.images or ())
    for row in context.images if context is not None else ():
        with suppress(msgspec.ValidationError):  # `load` says so
            images.append(msgspec.convert(row, ImageRef))
    return [reference(image) for image in images if image.data is None]


def reference(image: ImageRef) -> str:
    """How the `Blobs` port names an image: `{scheme}:{rest}` with `redis`, `disk`, `file`, `key` or `data`.

    `blob` says its scheme itself, as whoever laid it down wrote it.
    """
    if image.blob is not None:
        return image.blob
    if image.file_id is not None:
        return f"file:{image.file_id}"
    if image.file_key is not None:
        return f"key:{image.file_key}"
    data = image.data or ""
    return data if data[:5].lower() == "data:" else f"data:;base64,{data}"
