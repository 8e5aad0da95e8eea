"""The page of metrics: one row for each, read from the register itself."""

from __future__ import annotations

from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from daemon.contract_docs.tables import table
from daemon.observability.metrics import Metrics

_HEAD: Final = """# Metrics

Written by `python -m daemon export-contracts --write docs/`; don't edit it here.

Relay, gateway and each daemon serve `/metrics`: one process, one address; none knows the numbers of another. Labels are
closed sets: no id of a task or user, no text. Sizes of queues, concurrency limits and Redis are read at a
scrape (one command a queue, shared by all scrapes within `QSTREAMD_DEPTHS_S`), and every daemon reports them for all
queues: use `max by (queue)`, never `sum`. What a server does not report is not shown. Besides these there is
`qstreamd_process_*` (memory, CPU, start, files) of each process.

Alerts, a dashboard and a Prometheus that reads all of it are in `docs/deploy/`; what to do about an alert:
[runbook.md](runbook.md).
"""


def metrics() -> str:
    """The whole page."""
    rows = []
    for one in vars(Metrics(process=False)).values():
        if isinstance(one, MetricWrapperBase):
            (family,) = one.describe()
            end = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = ", ".join(f"`{label}`" for label in one._labelnames)  # noqa: SLF001  # it has no public name
            rows.append((f"`{family.name}{end}`", family.type, labels, family.documentation))
    return f"{_HEAD}\n{table(('metric', 'kind', 'labels', 'meaning'), rows)}\n"
