"""What stands between us and a provider: a network, a proxy, a key, a quota, a name? Told apart, each with its cure.

Judges an exception of the connection, or status and body of an answer. Pure. Used by `doctor` (lists of models) and by
`try` (calls of models).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import aiohttp
import msgspec

from daemon.providers.error_mapping import KEY_WORDS, MODEL_WORDS, QUOTA_WORDS, Refusal, known_words

Kind = Literal[
    "network", "proxy", "tls", "key", "region", "quota", "rate_limit", "model", "parameter", "request", "provider"
]

#: beside what names a bad key: we may be refused for where we are
REGION_WORDS: Final = frozenset({"unsupported_country_region_territory"})
REGION_TEXT: Final = "user location is not supported"  #: Gemini's 400 FAILED_PRECONDITION
KEY_TEXT: Final = "api key not valid"  #: Gemini's 400 INVALID_ARGUMENT
WORDS_CHARS_MAX: Final = 300

_CURES: Final = MappingProxyType[Kind, str](
    {
        "network": "blocked network: this host does not reach {host}. From China and some clouds a proxy is needed: "
        "QSTREAMD_HTTPS_PROXY, or `proxy` of the model; else look at firewall and DNS, and at {base}",
        "proxy": "the proxy refuses: look at its address, user and password in QSTREAMD_HTTPS_PROXY (or `proxy` of the "
        "model), and whether it lets {host} through",
        "tls": "something on the way presents a certificate of its own: install its authority on this host "
        "(SSL_CERT_FILE), or take the way around it",
        "key": "bad key: take a new {key} from the provider's console; look for blanks in it",
        "region": "the provider serves no calls from this country: go through a proxy elsewhere (QSTREAMD_HTTPS_PROXY)",
        "quota": "no credit or quota left: look at billing and limits in the provider's console",
        "rate_limit": "too many calls at this moment: wait a minute; limits are in the provider's console",
        "model": "correct `name` of the model in the services file; docs/guides/models.md lists today's names",
        "parameter": "the model does not take `{parameter}`: docs/guides/models.md says what to set (`sampling`, "
        "`reasoning`)",
        "request": "the provider does not take this call; send the transcript back",
        "provider": "the provider has a fault: look at its status page, and try again",
    }
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom we asked, for the words of a cure."""

    provider: str
    host: str
    proxy: bool = False

    @property
    def key_name(self) -> str:
        """The setting of its key."""
        return f"{self.provider.upper()}_API_KEY"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, in one word for programs and one line for people; `cure` says what to do."""

    kind: Kind
    text: str
    cure: str


def verdict(kind: Kind, text: str, peer: Peer, *, parameter: str = "") -> Verdict:
    """The verdict with its cure."""
    cure = _CURES[kind].format(
        host=peer.host, base=f"{peer.provider.upper()}_BASE_URL", key=peer.key_name, parameter=parameter
    )
    return Verdict(kind, text, cure)


def of_exception(error: BaseException, peer: Peer) -> Verdict:
    """No answer came: why. The text names hosts only, never a key."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientHttpProxyError):
        why = {407: "it wants another user or password", 403: f"it does not let {peer.host} through"}
        said = why.get(error.status, "it does not reach the provider")
        return verdict("proxy", f"the proxy answered {error.status}: {said}", peer)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return verdict("proxy", "nobody answers at the proxy's address", peer)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return verdict("proxy" if peer.proxy else "network", f"the name {error.host} can't be resolved", peer)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return verdict("tls", "the certificate is not one that this host trusts", peer)
    if isinstance(error, TimeoutError):
        return verdict("network", f"{peer.host} did not answer in time", peer)
    if isinstance(error, aiohttp.ClientConnectorError):
        return verdict("network", f"{peer.host} can't be reached: {error.os_error.strerror or name}", peer)
    return verdict("network", f"the connection to {peer.host} broke ({name})", peer)


def of_answer(status: int, content_type: str, raw: bytes, peer: Peer) -> Verdict | None:
    """What an answer means; None for one that serves. `raw`: its body, or the beginning of one."""
    found = _error(raw)
    if found is None and _is_page(content_type, raw):
        text = f"a web page answered instead of the provider ({status})"
        if status >= 520:  # Cloudflare, before the provider: it was reached, and the provider has no answer
            return verdict("provider", text, peer)
        return verdict("proxy" if peer.proxy else "network", text, peer)
    if status == 200 and found is None:
        return None
    fields = found or {}
    message = str(fields.get("message") or "")
    details = [d for d in fields.get("details") or () if isinstance(d, dict)]
    reasons = [d.get("reason") for d in details]
    if "PerDay" in str(details):  # a quota of Gemini's that waiting for a minute does not cure
        reasons.append("per_day")
    words = known_words([fields.get("code"), fields.get("type"), fields.get("status"), *reasons, message])
    code = fields.get("code")
    refusal = Refusal(code if status == 200 and isinstance(code, int) else status, words)
    return verdict(_kind(refusal, message), f"{peer.provider} refuses the call: {refusal.detail}", peer)


def _kind(refusal: Refusal, message: str) -> Kind:
    status, words, said = refusal.status, refusal.words, message.lower()
    rules: tuple[tuple[Kind, bool], ...] = (
        ("region", bool(words & REGION_WORDS) or REGION_TEXT in said),
        ("quota", status == 402 or bool(words & QUOTA_WORDS)),
        ("key", status in (401, 403) or bool(words & KEY_WORDS) or KEY_TEXT in said),
        ("model", status == 404 or bool(words & MODEL_WORDS)),
        ("rate_limit", status == 429),
        ("request", 400 <= status < 500),
    )
    return next((kind for kind, holds in rules if holds), "provider")


def _error(raw: bytes) -> dict[str, Any] | None:
    """The `error` of a JSON answer, or of the first event of a stream; None when there is none."""
    text = raw.strip().removeprefix(b"data:").strip()
    try:
        body = msgspec.json.decode(text.partition(b"\n")[0] if raw.lstrip().startswith(b"data:") else text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    body = body[0] if isinstance(body, list) and body else body
    found = body.get("error") if isinstance(body, dict) else None
    if found is None or found == "":
        return None
    return found if isinstance(found, dict) else {"message": str(found)[:WORDS_CHARS_MAX]}


def _is_page(content_type: str, raw: bytes) -> bool:
    start = raw[:200].lstrip().lower()
    return "html" in content_type or start.startswith((b"<!doctype", b"<html"))
