"""The model call: pieces in, deltas out, three clocks running. The only step that may be interrupted from outside."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from daemon.domain.errors import Code, ModelUnavailable, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.messages import content_sha256
from daemon.domain.model_io import Finished, ModelRequest
from daemon.observability.logging import logger
from daemon.pipeline.call_scope import CallScope
from daemon.pipeline.timeouts import Timeouts, TimeoutWatch
from daemon.ports import Clock, DeltaWriter, Provider, ResultDraft
from daemon.services import Model, cost

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A whole answer: its raw text, the end of the response, and when it began (unix s; None for batch)."""

    text: str
    finished: Finished
    first_token_at: float | None


async def ask_model(
    request: ModelRequest,
    provider: Provider,
    scope: CallScope,
    timeouts: Timeouts,
    writer: DeltaWriter | None,
    clock: Clock,
) -> ModelAnswer:
    """The model's answer; deltas went to `writer` on the way.

    Raises `ProviderError`, `ModelUnavailable`, or the error that the scope was interrupted with. The socket is closed
    before this returns or raises, whichever way.
    """
    texts: list[str] = []
    finished: Finished | None = None
    first_token_at: float | None = None
    began = False
    try:
        async with scope, aclosing(provider.generate(request)) as pieces:
            with TimeoutWatch(scope, timeouts, streams=request.stream) as watch:
                async for piece in pieces:
                    if isinstance(piece, Finished):
                        finished = piece
                        continue
                    began = True
                    if watch.token() and request.stream:
                        first_token_at = clock.time()
                    text = _keepable(piece.text)
                    if piece.channel is Channel.TEXT:
                        texts.append(text)
                    if writer is not None:
                        writer.push(piece.channel, text)
    except ModelUnavailable as closed:
        closed.midway = began
        raise
    if finished is None:
        raise ProviderError(detail="the answer ended without a finish reason")
    return ModelAnswer(_usable("".join(texts), finished), finished, first_token_at)


def _keepable(text: str) -> str:
    """`text` without what Postgres can't hold, so that what was streamed is what was stored, hash and all."""
    if text.isascii():
        return text if "\x00" not in text else text.replace("\x00", "")
    return text.replace("\x00", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _usable(text: str, finished: Finished) -> str:
    if not text.strip():
        raise ProviderError(code=Code.LLM_BAD_OUTPUT, detail=f"empty answer, finish reason {finished.reason}")
    return text


def result_of(answer: ModelAnswer, data: Any, model: Model, now: float) -> ResultDraft:
    """The row of `results`: the raw text, its hash, parsed `data` for json services, and what it cost `now`."""
    return ResultDraft(
        content=answer.text,
        data=data,
        content_sha256=content_sha256(answer.text),
        model_id=model.id,
        usage=priced(model, answer.finished.usage, now),
        first_token_at=answer.first_token_at,
        finish_reason=answer.finished.reason,
    )


def priced(model: Model, usage: Usage, now: float) -> Usage:
    """`usage` with what it costs, if that is known."""
    try:
        return cost(model, usage, now)
    except Exception as error:  # noqa: BLE001  # the answer is there and paid for: without its price it is still good
        _log.exception("cost.failed", error=type(error).__name__, model=model.id)
        return replace(usage, cost_usd=None)
