"""Turn an answer into what is committed. Plain function; the commit itself is the ledger's."""

from __future__ import annotations

from typing import Any

from daemon.contracts import content_sha256
from daemon.pipeline.execute import Answer
from daemon.ports import ResultDraft
from daemon.services import Model, cost


def result_of(answer: Answer, data: Any, model: Model) -> ResultDraft:
    """The row of `results`: the raw text, its hash, parsed `data` for json services, and what it cost."""
    return ResultDraft(
        content=answer.text,
        data=data,
        content_sha256=content_sha256(answer.text),
        model_id=model.id,
        usage=cost(model, answer.finished.usage),
        first_token_at=answer.first_token_at,
    )
