"""The result that a `done` event told: for a task whose end Postgres has lost. A plain function."""

from __future__ import annotations

import msgspec

from daemon.domain.events import Event, Usage
from daemon.domain.messages import content_sha256
from daemon.ports import ResultDraft


def rebuild_result(done: Event, text: str) -> ResultDraft | None:
    """The result of which `contentSha256` is the hash: the text of its attempt, or what `done` holds; None: neither is.

    JSON that a model wrote in another form than ours does not come back from what `done` holds.
    """
    said = done.data
    inline, sha256 = said.get("result"), said["contentSha256"]
    is_text = inline is None or isinstance(inline, str)
    held = (inline or "") if is_text else msgspec.json.encode(inline).decode()
    content = next((c for c in (text, held) if content_sha256(c) == sha256), None)
    if content is None:
        return None
    usage, finish_reason = msgspec.convert(said["usage"], Usage), said.get("finishReason")
    return ResultDraft(content, None if is_text else inline, sha256, said["modelId"], usage, None, finish_reason)
