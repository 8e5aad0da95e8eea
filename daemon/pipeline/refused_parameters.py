"""Which parameters each model refuses: learned from its answers, kept for the life of the process.

A model that answers 400 to a `temperature` would answer so to every task, and a task would fail for good over something
that it can do without.
"""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

from daemon.domain.errors import ProviderError, TaskError
from daemon.domain.model_io import ModelRequest, Parameter
from daemon.observability.logging import logger
from daemon.services import Model

_log = logger(__name__)
_PARAMETERS = frozenset(get_args(Parameter))


class RefusedParameters:
    """Refused parameters by provider and model name."""

    def __init__(self) -> None:
        self._by_model: defaultdict[tuple[str, str], set[Parameter]] = defaultdict(set)

    def of(self, model: Model) -> frozenset[Parameter]:
        """What is not to be sent to `model`."""
        return frozenset(self._by_model.get((model.provider, model.name), ()))

    def add(self, model: Model, asked: ModelRequest, error: TaskError) -> bool:
        """Remember what `model` refused of `asked`. True if it refused a parameter that the call can do without."""
        parameter = error.parameter if isinstance(error, ProviderError) else ""
        if parameter not in _PARAMETERS or parameter in asked.omit:
            return False
        refused: Parameter = parameter  # type: ignore[assignment]  # one of them, as was just checked
        self._by_model[model.provider, model.name].add(refused)
        _log.warning("parameter.refused", model=model.id, parameter=parameter)
        return True
