"""The event reducer of front ends: one ES module that browsers, mini-programs and Node share.

Its event names and its texts for users come from the contract; the types in `qstreamd.d.ts` beside it hold it to every
event that there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import jinja2

from daemon.domain.errors import CODES
from daemon.domain.event_schema import EVENTS
from daemon.domain.events import Reason
from daemon.domain.messages import CONTRACT_VERSION
from daemon.pipeline.attempt_events import WAITING

#: the words of `WAITING` for Chinese readers
WAITING_ZH: Final[Mapping[Reason, str]] = {
    Reason.GUARD_USER: "正在等待您的另一个任务完成。",
    Reason.GUARD_MODEL: "模型名额已满，正在等待。",
    Reason.RATE_LIMITED: "模型繁忙，任务正在等待。",
    Reason.BREAKER_OPEN: "模型出现故障，正在等待恢复。",
    Reason.QUEUE_PAUSED: "队列已暂停，请稍候。",
    Reason.RETRY_AT: "即将自动重试。",
}
#: what to say of an answer that is not whole, by why it ended
FINISHES: Final[Mapping[str, tuple[str, str]]] = {
    "length": ("The answer was cut off at its length limit.", "回答达到长度上限，已被截断。"),
    "filtered": ("Part of the answer was withheld by the provider's filter.", "部分回答被服务商的内容过滤拦截。"),
}


def module() -> str:
    """The file `qstreamd.js`."""
    source = (files("daemon.contract_docs") / "qstreamd.js.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        variable_start_string="[[",  # braces are JavaScript's
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    return environment.from_string(source).render(
        version=CONTRACT_VERSION,
        types=json.dumps([event.__struct_config__.tag for event in EVENTS]),
        errors=_texts({code.value: (info.en, info.zh) for code, info in CODES.items()}),
        reasons=_texts({reason.value: (_sentence(WAITING[reason]), WAITING_ZH[reason]) for reason in Reason}),
        finishes=_texts(FINISHES),
    )


def _texts(texts: Mapping[str, tuple[str, str]]) -> str:
    """An object literal, one line a name."""
    lines = [
        f"  {name}: {{ en: {json.dumps(en)}, zh: {json.dumps(zh, ensure_ascii=False)} }},"
        for name, (en, zh) in texts.items()
    ]
    return "\n".join(["{", *lines, "}"])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
