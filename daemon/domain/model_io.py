"""What goes to a model and what comes back: the vocabulary between the pipeline and the providers. Not public."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from daemon.domain.events import Channel, Usage


@dataclass(frozen=True, slots=True)
class Picture:
    """Image bytes ready for a model: type already judged by magic bytes."""

    mime_type: str
    data: bytes


#: what a call can do without: a model that refuses one of these is asked again without it
Parameter = Literal["temperature", "max_output_tokens", "user_tag", "json_output", "stream_usage", "reasoning"]
Reasoning = Literal["off", "low", "medium", "high"]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of one model: what an adapter needs and nothing of the task around it."""

    provider: str  #: deepseek | openai | gemini
    model_name: str  #: what the provider calls it
    system: str
    prompt: str
    pictures: tuple[Picture, ...] = ()
    stream: bool = True
    json_output: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    reasoning: Reasoning | None = None  #: how much the model thinks; None: as it likes
    idle_s: float = 60.0  #: the caller's limit for a pause between texts
    user_tag: str = ""  #: an opaque hash for the provider's abuse tracking; never the user id itself
    proxy: str = field(default="", repr=False)  #: the model's own way out; "": the provider's
    omit: frozenset[Parameter] = frozenset()  #: not sent, whatever the fields above say: the model refuses them
    spent: list[Usage] = field(
        default_factory=list, compare=False
    )  #: adapter: what this call has cost, however it ends

    def sends(self, parameter: Parameter) -> bool:
        """Whether the adapter may send `parameter`."""
        return parameter not in self.omit


class Delta(msgspec.Struct, frozen=True, gc=False):
    """Text as it arrives. A struct: one is made for each token, and a frozen dataclass takes five times as long."""

    channel: Channel
    text: str


FinishReason = Literal["stop", "length", "filtered"]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a response: finish reason and usage. A stream without one is an error (`LLM_ERROR`) of the adapter.

    `usage.cost_usd` is always None here: prices belong to the services file.
    """

    reason: FinishReason | None  #: None: it gave none, or one that we don't know
    usage: Usage
    model_name: str = ""  #: as the provider reports it
    request_id: str = ""  #: the provider's id, for support


Piece = Delta | Finished
