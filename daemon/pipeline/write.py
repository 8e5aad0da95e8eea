"""Turn an answer into what is committed. Plain function; the commit itself is the ledger's."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from daemon.contracts import Usage, content_sha256
from daemon.logs import logger
from daemon.pipeline.execute import Answer
from daemon.ports import ResultDraft
from daemon.services import Model, cost

_log = logger(__name__)


def result_of(answer: Answer, data: Any, model: Model) -> ResultDraft:
    """The row of `results`: the raw text, its hash, parsed `data` for json services, and what it cost."""
    return ResultDraft(
        content=answer.text,
        data=data,
        content_sha256=content_sha256(answer.text),
        model_id=model.id,
        usage=_priced(model, answer.finished.usage),
        first_token_at=answer.first_token_at,
    )


def _priced(model: Model, usage: Usage) -> Usage:
    try:
        return cost(model, usage)
    except Exception as error:  # noqa: BLE001  # the answer is there and paid for: without its price it is still good
        _log.exception("cost.failed", error=type(error).__name__, model=model.id)
        return replace(usage, cost_usd=None)
