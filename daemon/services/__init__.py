"""What the services file says: models, services and further queues, checked whole and immutable.

Imports only `config` and `domain`. `load` reads a file, `ServiceCatalog` answers what the
pipeline, the relay and the operator ask. `daemon.services.prompts` and `.schemas` are imported only where templates are
rendered and answers validated, so that the relay stays small.
"""

from daemon.services.catalog import Model, Output, Service, ServiceCatalog, cost
from daemon.services.prices import Price
from daemon.services.reader import load

__all__ = ["Model", "Output", "Price", "Service", "ServiceCatalog", "cost", "load"]
