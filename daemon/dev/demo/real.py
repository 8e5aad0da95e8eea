"""One task of the demo on a real provider: which model, which service, what it may cost. All else is embedded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from daemon import services
from daemon.admin.trial.plan import CALLS, plan
from daemon.config import Settings
from daemon.dev.demo.orders import Order
from daemon.domain.errors import ConfigError
from daemon.providers.registry import KEY_NAMES
from daemon.services import Model

SERVICE: Final = "first-words"
#: how a host names the authorities that it trusts; a proxy with a certificate of its own needs it
_TRUST: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROMPT: Final = "In three short sentences: why does a web server hand long work to a queue? Answer in {{ language }}."


@dataclass(frozen=True, slots=True)
class Real:
    """What the demo needs to know. `services_file`: its content, for relay and daemon; may hold a proxy's password."""

    model: Model
    order: Order
    services_file: str
    variables: Mapping[str, str]  #: for the daemon alone: key, address, proxy
    output_tokens: int
    cost_max_usd: float


def real(settings: Settings, provider: str) -> Real:
    """The task for the first model of `provider` in the services file in force. Raises `ConfigError`."""
    found = [m for m in services.load(settings.runtime.services_file).models.values() if m.provider == provider]
    key, key_name = getattr(settings.providers, f"{provider}_api_key"), KEY_NAMES[provider]
    if key is None:
        raise ConfigError([f"{key_name}: not set, but --real {provider} calls that provider"])
    if not found:
        raise ConfigError([f"--real: the services file has no model of provider {provider}"])
    model = found[0]
    [planned] = plan([model], {provider: ""})
    if not planned.output_tokens:
        raise ConfigError([f"--real: {model.id}: {planned.why}"])
    base = f"{provider.upper()}_BASE_URL"
    variables = {key_name: key.get_secret_value(), base: getattr(settings.providers, base.lower())}
    variables |= {name: os.environ[name] for name in _TRUST if name in os.environ}
    if settings.providers.https_proxy is not None:
        variables["QSTREAMD_HTTPS_PROXY"] = settings.providers.https_proxy.get_secret_value()
    about = f"{model.name} of {provider}, for real"
    order = Order("real", "q_paid_stream", SERVICE, "mara", about, {"language": "English"})
    return Real(model, order, _file(model, planned.output_tokens), variables, planned.output_tokens,
                planned.cost_max_usd / len(CALLS))  # fmt: skip


def _file(model: Model, output_tokens: int) -> str:
    """A services file with this model and one service. A text of JSON is a text of TOML."""
    given: dict[str, object] = {
        "provider": model.provider, "name": model.name, "input": ["text"], "sampling": model.sampling,
        **({"reasoning": model.reasoning} if model.reasoning else {}),
        **({"proxy": model.proxy} if model.proxy else {}),
    }  # fmt: skip
    lines = [f"[models.{json.dumps(model.id)}]", *(f"{name} = {json.dumps(value)}" for name, value in given.items())]
    if (p := model.price) is not None:
        lines.append(
            f"price_per_million_usd = {{ input = {p.input}, cached_input = {p.cached_input}, output = {p.output} }}"
        )
    lines += [
        f"[services.{SERVICE}]", f"prompt = {json.dumps(_PROMPT)}", f"models = {{ paid = [{json.dumps(model.id)}] }}",
        f"max_output_tokens = {output_tokens}", "temperature = 0.3", "attempts = 1",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
