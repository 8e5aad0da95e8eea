"""The error codes that viewers see and the error tree that the code raises.

Imports nothing of ours; everything else may import it. Foreign exceptions (redis, asyncpg, vendors) are
translated into this tree once, at their adapter's edge, with the cause kept.

    QstreamdError
    ├── ConfigError              a setting is missing or wrong; exit 78
    ├── DependencyAway           Redis, Postgres or a provider can't be reached now
    │   ├── RedisAway
    │   ├── StoreAway
    │   └── DiskFull             the share of the disk that blobs may have is used up, or it can't be written
    ├── RedisFull                Redis refuses writes (maxmemory); the entry stays where it is
    ├── LeaseLost                another attempt owns the task now: stop, write nothing
    ├── Stopping                 this process stops: hand the task back
    └── TaskError                ends or delays one attempt; carries a `Code`
        ├── Rejected             can never succeed as sent
        └── ProviderError        the model's answer, translated
            └── ModelUnavailable      rate limit, overload, quota: the model is closed for everyone for a while
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final


class Code(StrEnum):
    """Public error codes (protocol 5). The value is the wire name; never rename one."""

    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    UNKNOWN_SERVICE = "UNKNOWN_SERVICE"
    CONTEXT_NOT_FOUND = "CONTEXT_NOT_FOUND"
    IMAGE_REJECTED = "IMAGE_REJECTED"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    QUEUE_FULL = "QUEUE_FULL"
    WORKER_OVERLOADED = "WORKER_OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    LLM_TIMEOUT = "LLM_TIMEOUT"
    LLM_ERROR = "LLM_ERROR"
    LLM_REFUSED = "LLM_REFUSED"
    LLM_QUOTA = "LLM_QUOTA"
    LLM_BAD_OUTPUT = "LLM_BAD_OUTPUT"
    STORE_ERROR = "STORE_ERROR"
    WORKER_LOST = "WORKER_LOST"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    DELIVERY_FAILED = "DELIVERY_FAILED"
    RESULT_LOST = "RESULT_LOST"
    INTERNAL = "INTERNAL"


class Disposition(Enum):
    """What `retry_policy.settle` does with an attempt that ended in a code."""

    RETRY = "retry"  #: counts a failure; runs again after a backoff while attempts are left
    REJECT = "reject"  #: counts a failure; never runs again
    DEFER = "defer"  #: counts no failure; waits for a place or for the model to open
    BUG = "bug"  #: ours; counts a failure, runs again, and is logged with its traceback


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means: for `retry_policy`, for HTTP (None: it never reaches HTTP) and for users in two languages."""

    disposition: Disposition
    http_status: int | None
    en: str
    zh: str

    @property
    def retryable(self) -> bool:
        """Whether trying the same task again can help."""
        return self.disposition is not Disposition.REJECT


def _info(disposition: Disposition, http_status: int | None, en: str, zh: str) -> CodeInfo:
    return CodeInfo(disposition, http_status, en, zh)


_R, _X, _D = Disposition.RETRY, Disposition.REJECT, Disposition.DEFER

CODES: Final[Mapping[Code, CodeInfo]] = MappingProxyType(
    {
        Code.INVALID_PAYLOAD: _info(_X, 489, "The request could not be read.", "请求内容无法识别。"),
        Code.UNKNOWN_SERVICE: _info(_X, 489, "This service does not exist.", "该服务不存在。"),
        Code.CONTEXT_NOT_FOUND: _info(_X, None, "The input of this task was not found.", "未找到该任务的输入内容。"),
        Code.IMAGE_REJECTED: _info(
            _X,
            489,
            "This image can't be used. Please send a JPEG, PNG, WebP or GIF.",
            "无法使用该图片，请上传 JPEG、PNG、WebP 或 GIF。",
        ),
        Code.IMAGE_NOT_FOUND: _info(_X, None, "The image is no longer available.", "图片已不存在，请重新上传。"),
        Code.QUEUE_FULL: _info(
            _D, 429, "Too many tasks are waiting. Please try again soon.", "排队任务过多，请稍后再试。"
        ),
        Code.WORKER_OVERLOADED: _info(_D, 503, "The service is busy. Please try again soon.", "服务繁忙，请稍后再试。"),
        Code.RATE_LIMITED: _info(_D, 429, "The model is busy; your task is waiting.", "模型繁忙，任务正在等待。"),
        Code.LLM_TIMEOUT: _info(_R, None, "The model did not answer in time.", "模型响应超时。"),
        Code.LLM_ERROR: _info(_R, None, "The model had an error.", "模型出现错误。"),
        Code.LLM_REFUSED: _info(_X, None, "The model declined to answer this.", "模型拒绝回答该内容。"),
        Code.LLM_QUOTA: _info(_D, None, "The model is unavailable for now.", "模型暂时不可用。"),
        Code.LLM_BAD_OUTPUT: _info(_R, None, "The model's answer could not be used.", "模型的回答无法使用。"),
        Code.STORE_ERROR: _info(_R, None, "The result could not be saved.", "结果保存失败。"),
        Code.WORKER_LOST: _info(_R, None, "The task was interrupted.", "任务被中断。"),
        Code.CANCELLED: _info(_X, None, "The task was cancelled.", "任务已取消。"),
        Code.EXPIRED: _info(_X, None, "The task waited too long and was dropped.", "任务等待超时，已放弃。"),
        Code.DELIVERY_FAILED: _info(_X, None, "The task could not be delivered.", "任务投递失败。"),
        Code.RESULT_LOST: _info(_X, None, "The result was lost.", "结果已丢失。"),
        Code.INTERNAL: _info(Disposition.BUG, 500, "Something went wrong on our side.", "服务内部错误。"),
    }
)


class QstreamdError(Exception):
    """Any error this package raises on purpose."""


class ConfigError(QstreamdError):
    """Settings that can't be used: one line for each mistake, in `mistakes`. The process exits with 78."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class DependencyAway(QstreamdError):
    """A server we need did not answer within its limit. May be tried again; nothing is known of the last command."""


class RedisAway(DependencyAway):
    """Redis can't be reached, is loading, is read-only, or was too slow."""


class StoreAway(DependencyAway):
    """Postgres can't be reached, is starting, is read-only, or was too slow. The statement may have committed."""


class DiskFull(DependencyAway):
    """No image can be laid down on disk now: the blobs' share is used up, or the directory can't be written."""


class RedisFull(QstreamdError):
    """Redis refused a write because it is out of memory. Nothing of the refused script was applied."""


class LeaseLost(QstreamdError):
    """A higher attempt exists, or our entry belongs to another consumer: nothing may be written any more."""


class Stopping(QstreamdError):
    """This process stops and gives the task back; no failure."""


class TaskError(QstreamdError):
    """Ends or delays one attempt. `message` is for the viewer: it never holds a prompt, a key or a vendor's body."""

    code: Code = Code.INTERNAL

    def __init__(
        self, message: str = "", *, code: Code | None = None, retry_after_s: float | None = None, detail: str = ""
    ) -> None:
        self.code = code or type(self).code
        self.message = message or CODES[self.code].en
        #: the earliest time to try again, in seconds from now, as named by whoever refused; None: not named
        self.retry_after_s = retry_after_s
        #: for operators (logs, attempts table); already free of secrets and prompts
        self.detail = detail
        super().__init__(f"{self.code}: {self.message}" + (f" ({detail})" if detail else ""))


class Rejected(TaskError):
    """Can never succeed as sent: bad message, unknown service, unusable image, missing context."""

    code = Code.INVALID_PAYLOAD


class ProviderError(TaskError):
    """The model call failed. Raised by provider adapters, and for answers that their service can't use.

    `parameter`: the one of `model_io.Parameter` that the provider refused before it answered; "" if none. The same
    call without it may succeed. `cut`: the answer hit its limit, and the same call would again.
    """

    code = Code.LLM_ERROR
    parameter: str = ""
    cut: bool = False


class ModelUnavailable(ProviderError):
    """The provider refuses this model for now (429, overload, quota). Counts no failure; closes the model for all.

    `reason` is `RATE_LIMITED` (429), `OVERLOADED` (503, 529), `QUOTA` (402, insufficient_quota, per-day limits) or
    `UNKNOWN_MODEL` (404: the provider does not know it; a fallback may).
    """

    code = Code.RATE_LIMITED

    def __init__(self, reason: str, *, retry_after_s: float | None = None, detail: str = "") -> None:
        code = {"QUOTA": Code.LLM_QUOTA, "UNKNOWN_MODEL": Code.LLM_ERROR}.get(reason, Code.RATE_LIMITED)
        super().__init__(code=code, retry_after_s=retry_after_s, detail=detail)
        self.reason = reason
        #: part of an answer had come: it counts as a failure, and no other model goes on from there
        self.midway = False
