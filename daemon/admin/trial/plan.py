"""What a trial will do and what it can cost at most, worked out before anybody is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.services import Model, Price

COST_MAX_USD: Final = 0.01
PROMPT_TOKENS_MAX: Final = 150  #: of a call: ours has some 30, and a vendor may add a system text of its own
OUTPUT_TOKENS: Final = (64, 512)  #: least and most of a call: thoughts count, so a sentence needs room
CALLS: Final = ("stream", "json")
#: for a model without a price in the services file: dearer than any that we know (docs/guides/models.md)
UNPRICED: Final = Price(input=10.0, cached_input=10.0, output=50.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """Both calls of one model. `output_tokens` 0: it is not called, and `why` says so."""

    model: Model
    output_tokens: int
    cost_max_usd: float  #: of both calls together
    why: str = ""


def plan(models: Sequence[Model], keys: Mapping[str, str]) -> list[Planned]:
    """The calls that fit into `COST_MAX_USD` together, cheapest first where not all do; in the order of the file.

    `keys`: provider -> the name of its setting when that is not set, else "".
    """
    callable_ = [model for model in models if not keys[model.provider]]
    afford: dict[str, Planned] = {}
    left, todo = COST_MAX_USD, len(callable_)
    for model in sorted(callable_, key=lambda m: _price(m).output):
        tokens = _tokens(_price(model), left / todo)
        bound = _bound(_price(model), tokens)
        todo -= 1
        if bound <= left:
            afford[model.id] = Planned(model, tokens, bound)
            left -= bound
    return [afford.get(model.id) or Planned(model, 0, 0.0, _why(model, keys[model.provider])) for model in models]


def cost_max_usd(planned: Sequence[Planned]) -> float:
    """What all calls together can cost at most."""
    return sum(p.cost_max_usd for p in planned)


def _why(model: Model, key: str) -> str:
    if key:
        return f"{key} is not set"
    if (alone := _bound(_price(model), OUTPUT_TOKENS[0])) > COST_MAX_USD:
        return f"two calls could cost ${alone:.4f}, more than ${COST_MAX_USD:g}: this price is not tried"
    return f"two calls would cost more than is left of ${COST_MAX_USD:g}; try it alone with --model"


def _price(model: Model) -> Price:
    return model.price or UNPRICED


def _tokens(price: Price, budget_usd: float) -> int:
    least, most = OUTPUT_TOKENS
    each = budget_usd / len(CALLS) * 1e6 - PROMPT_TOKENS_MAX * price.input
    return max(least, int(min(most, each / max(price.output, 1e-6))))


def _bound(price: Price, tokens: int) -> float:
    return len(CALLS) * (PROMPT_TOKENS_MAX * price.input + tokens * price.output) / 1e6
