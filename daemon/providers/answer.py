"""One answer as it comes in: text, end and counts, held together however odd its chunks are. Bytes in, pieces out.

A vendor's module says what its chunks hold; this decides what they mean for the answer:

* Only text, end and error are looked at. What stands beside them (usage, ids, log probabilities) is read on its own.
* An end is a state, not a latch. Text after it opens the answer again, and from then on only a clean end of the body or
  `[DONE]` ends it: a vendor that says `stop` in each chunk is not believed when its connection breaks.
* `[DONE]` without a finish reason is an end; no finish reason and no `[DONE]` is none.
* Half of a surrogate pair waits for the other half, else becomes U+FFFD.
* A payload that can't be read is an error, unless it comes after the end and holds no text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from daemon.domain.errors import Code, ProviderError
from daemon.domain.events import Channel, Usage
from daemon.domain.model_io import Delta, Finished, FinishReason
from daemon.observability.logging import logger
from daemon.providers.error_mapping import CONTENT_WORDS, Refusal, lost, to_error
from daemon.providers.lenient_json import Unreadable, documents
from daemon.providers.payloads import DONE
from daemon.providers.token_counts import Counts, TokenCounts

_log = logger("providers")

Meaning = Literal["stop", "length", "filtered", "failed", "overloaded"]

TORN_BYTES_MAX: Final = 256 * 1024  #: of payloads that can't be read, while a later one may complete them

#: what vendors call the end of an answer, in lower case; `failed` may end otherwise at another try
FINISHES: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "end", "complete", "completed", "finished",
             "end_of_turn", "stop_token"), "stop",
        ),
        **dict.fromkeys(
            ("length", "max_tokens", "max_output_tokens", "max_completion_tokens", "max_length", "model_length",
             "token_limit", "model_context_window_exceeded"), "length",
        ),
        **dict.fromkeys(
            ("content_filter", "content_filtered", "safety", "refusal", "sensitive", "recitation",
             "language", "blocklist", "prohibited_content", "spii", "model_armor", "escalation",
             "pup_limited_disabled", "image_safety", "image_prohibited_content", "image_recitation", "image_other",
             "no_image"), "filtered",
        ),
        **dict.fromkeys(
            ("error", "abort", "aborted", "cancelled", "network_error", "other", "malformed_function_call",
             "unexpected_tool_call", "too_many_tool_calls", "missing_thought_signature", "malformed_response",
             "continuation"), "failed",
        ),
        "insufficient_system_resource": "overloaded",
    }
)  # fmt: skip
_CAMEL: Final = re.compile("(?<=[a-z])(?=[A-Z])")
#: no end at all, though it stands where one would
_NO_FINISH: Final = frozenset({"", "null", "none", "unspecified"})
_REASONS: Final[Mapping[Meaning, FinishReason]] = MappingProxyType({"stop": "stop", "length": "length"})
_HOLDS_TEXT: Final = re.compile(rb'"(?:content|text)"\s*:(?!\s*(?:""|null))')
#: a payload that was cut, and whose text, if it had any, is behind it
_NO_TEXT: Final = re.compile(rb'"(?:choices|candidates)"\s*:\s*\[\s*\]|"usage(?!\w*"\s*:\s*n)|"usa?g?$')
_WORD: Final = re.compile("[a-z_]{1,40}")  #: what a reason may look like to be logged; everything else may be content
_NAME_CHARS: Final = 128  #: of a model's name, a request's id


class Answer(ABC):
    """Folds the payloads of one answer. Pure but for a warning: bytes in, pieces out; a wrong answer raises."""

    __slots__ = ("_early", "_ended", "_finish", "_half", "_length", "_more", "_odd", "_refusal", "_spoke", "_sure",
                 "_torn", "_unreliable", "_unspecified", "counts", "done", "model_name", "request_id")  # fmt: skip

    def __init__(self, *, thoughts_beside: bool) -> None:
        self.counts = TokenCounts(thoughts_beside=thoughts_beside)
        self.done = False  #: `[DONE]` came
        self.model_name = self.request_id = ""
        self._finish: str | None = None  #: the last finish reason, in lower case
        self._length = False  #: it was cut at its limit, and no text came since
        self._more = True  #: text may follow still
        self._ended = False  #: a finish reason, even one that says nothing, or `[DONE]` came
        self._unspecified = False  #: the last thing that came is a finish reason that says nothing
        self._unreliable = False  #: text came after an end
        self._early = False  #: counts came before the finish reason: more of them are no sign of an end
        self._sure = False  #: counts came with the finish reason or after it, and none before
        self._spoke = False  #: text came that is not only blanks and NULs
        self._refusal = False
        self._odd = False  #: texts may hold surrogates
        self._half: dict[Channel, str] = {}
        self._torn = b""  #: a payload that can't be read, which the next one may complete

    # --- what a vendor's module says ----------------------------------------------------------------------------

    @abstractmethod
    def _strict(self, data: bytes) -> list[Delta]:
        """The deltas of a payload of the usual shape. Raises `msgspec.DecodeError` for every other one."""

    @abstractmethod
    def _lenient(self, chunk: dict[str, Any]) -> list[Delta]:
        """The deltas of a chunk of any shape."""

    # --- taking it in -------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> list[Delta]:
        """The deltas of one payload; none for a role or usage chunk. Raises `ProviderError`."""
        if data == DONE:
            self.done = self._ended = True
            return []
        if not self._torn:
            try:
                return self._strict(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        return self._take_odd(data)

    def rest(self) -> list[Delta]:
        """What was held back, at the end of the body."""
        found = [Delta(channel, "\ufffd") for channel in self._half]
        self._half = {}
        return found

    def _take_odd(self, data: bytes) -> list[Delta]:
        self._odd = True
        if data.strip(b"\"' ").upper() == DONE:
            self.done = self._ended = True
            return []
        for whole in (self._torn + b"\n" + data, data) if self._torn else (data,):
            try:
                chunks = documents(whole)
            except Unreadable:
                continue
            if whole is data and self._torn:
                self._skip_torn()
            self._torn = b""
            return [delta for chunk in chunks for delta in self._lenient(chunk)]
        self._torn = self._torn + b"\n" + data if self._torn else data
        if len(self._torn) > TORN_BYTES_MAX:
            raise ProviderError(detail="unreadable answer: no JSON")
        return []

    def _skip_torn(self) -> None:
        """Go on without a payload that can't be read, if the answer can be whole without it."""
        torn, self._torn = self._torn, b""
        harmless = self.done or self._sure or DONE.startswith(torn.upper()) or _NO_TEXT.search(torn)
        if self._finish is None or not harmless or _HOLDS_TEXT.search(torn):
            raise ProviderError(detail="unreadable answer: a payload is not JSON")

    # --- for a vendor's module: what a chunk said ---------------------------------------------------------------

    def _say(self, found: list[Delta], channel: Channel, text: str) -> None:
        """Text came. `found` gets the delta."""
        if not self._spoke and channel is Channel.TEXT:
            self._spoke = bool(text.replace("\x00", "").strip())
        if self._ended and text:
            self._reopens()
        if self._odd:
            text = self._paired(channel, text)
        found.append(Delta(channel, text))

    def _reopens(self) -> None:
        """Text came after an end."""
        if self._unspecified:
            self._unspecified, self._ended = False, self._finish is not None or self.done
            if not self._ended:
                return
        self._unreliable = self._more = True
        self._length = self._sure = self.done = False

    def _ends(self, reason: str | None, *, with_text: bool) -> None:
        """A finish reason came, in a chunk `with_text` or without."""
        plain = _plain(reason or "")
        if plain in _NO_FINISH:
            if plain == "unspecified" and self._spoke:
                self._ended = self._unspecified = True
            return
        self._ended = True
        self._early = self.counts.known
        self._more = with_text or not self._spoke
        meaning = FINISHES.get(plain)
        if self._length and meaning == "stop":
            return
        self._finish, self._length = plain, meaning == "length"

    def _counts(self, counts: Counts) -> None:
        """Counts came, after what else the chunk holds."""
        if self.counts.merge(counts) and self._finish is not None and not self._unreliable and not self._early:
            self._sure = self._spoke or self._length  # a finish before all text is none to count on
            self._more = self._more and not self._sure

    def _fail(self, refusal: Refusal, counts: Counts) -> None:
        """Raise the error of an answer that says that it failed, and keep what it has cost.

        An error after the end, when nothing more was expected, does not void the answer.
        """
        self.counts.merge(counts)
        if not (self.may_end and self.nothing_follows) or refusal.words & CONTENT_WORDS:
            raise to_error(refusal, spoke=self._spoke)

    def _names(self, model: object, request_id: object) -> None:
        if isinstance(model, str):
            self.model_name = _storable(model) or self.model_name
        if isinstance(request_id, str):
            self.request_id = self.request_id or _storable(request_id)

    def _paired(self, channel: Channel, text: str) -> str:
        text = self._half.pop(channel, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._half[channel], text = text[-1], text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    # --- its end ------------------------------------------------------------------------------------------------

    @property
    def may_end(self) -> bool:
        """Whether the answer may be whole although its body is still open."""
        return self.done or (self._finish is not None and not self._unreliable)

    @property
    def nothing_follows(self) -> bool:
        """Whether nothing more is expected of an answer that may end."""
        return self.done or not self._more

    @property
    def over(self) -> bool:
        """Nothing more can matter: end, counts and `[DONE]` are here."""
        return self.done and self._finish is not None and self.usage.output_tokens is not None

    @property
    def usage(self) -> Usage:
        """What is known so far of what it has cost."""
        return self.counts.usage()

    def cut(self, error: BaseException) -> ProviderError | None:
        """The connection failed. None when the answer was complete: only usage may be missing."""
        return None if self.may_end else lost(error)

    def finished(self) -> Finished:
        """The end of the response: finish reason and usage. Raises `ProviderError` for an answer that is not one.

        `insufficient_system_resource` (DeepSeek) closes the model as overloaded if nothing was said, else is an error.
        """
        if self._torn:
            self._skip_torn()
        if not self._ended:
            raise ProviderError(detail="ended without a finish reason")
        meaning = FINISHES.get(self._finish or "")
        if meaning == "filtered" or (self._refusal and not self._spoke):
            raise ProviderError(code=Code.LLM_REFUSED, detail="content_filter")
        if meaning == "overloaded":
            raise to_error(Refusal(0, frozenset({"insufficient_system_resource"})), spoke=self._spoke)
        known = self._finish if meaning else "none" if self._finish is None else "unknown"
        if meaning == "failed":
            raise ProviderError(detail=f"finish_reason={known}")
        if not self._spoke:
            why = "; raise max_output_tokens of the service, thinking counts" if meaning == "length" else ""
            empty = ProviderError(code=Code.LLM_BAD_OUTPUT, detail=f"empty answer, finish_reason={known}{why}")
            empty.cut = meaning == "length"
            raise empty
        if meaning is None and (self._finish is not None or self._unspecified):
            odd = (
                "unspecified" if self._finish is None else self._finish if _WORD.fullmatch(self._finish) else "no word"
            )
            _log.warning("provider.finish_unknown", model_name=self.model_name, finish_reason=odd)
        return Finished(_REASONS[meaning] if meaning else None, self.usage, self.model_name, self.request_id)


def _plain(reason: str) -> str:
    """A finish reason as `FINISHES` spells it, without what an enumeration is called.

    >>> _plain("FinishReason.MAX_TOKENS"), _plain("maxTokens"), _plain("max-tokens"), _plain(" FINISH_REASON_STOP")
    ('max_tokens', 'max_tokens', 'max_tokens', 'stop')
    """
    if reason in FINISHES:
        return reason
    last = _CAMEL.sub("_", reason.strip().rpartition(".")[2])
    return last.replace("-", "_").replace(" ", "_").lower().removeprefix("finish_reason_")


def _storable(name: str) -> str:
    """A name of the provider's, as logs and spans can hold it."""
    return name[:_NAME_CHARS].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
