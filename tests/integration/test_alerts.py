"""Every alert fires on what it is for and stays silent on what it is not for; judged by Prometheus' own promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs would be one more package for two calls
from prometheus_client.metrics import MetricWrapperBase

from daemon.observability.metrics import Metrics

DEPLOY: Final = Path(__file__).parents[2] / "docs" / "deploy"
RULES: Final = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "dashboards" / "qstreamd.json"
RUNBOOKS: Final = (DEPLOY.parent / "runbook.md", DEPLOY.parent / "runbook.zh-CN.md")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")

Series = Mapping[str, str]  #: series -> values, one each 15 s, in promtool's notation


@dataclass(frozen=True)
class Case:
    """One alert: series that set it off (with these labels), and series close to that which must not."""

    fires: Series
    silent: Series
    labels: Mapping[str, str] = field(default_factory=dict)
    at: str = "20m"
    step: str = "15s"  #: between two values


Q: Final = 'queue="q_paid_stream"'
DAEMON: Final = 'instance="a:9464", job="qstreamd-daemon"'
OF_QUEUE: Final = {"queue": "q_paid_stream"}
STEADY: Final = "x300"  #: as it is for 75 minutes


def metric(name: str, *labels: str) -> str:
    """A series of ours."""
    return f"qstreamd_{name}{{{', '.join(labels)}}}"


def tasks(ok: float, late: float) -> dict[str, str]:
    """So many tasks each 15 s within the promise and after it."""
    of = (Q, 'outcome="done"')
    return {
        metric("task_seconds_bucket", *of, 'le="300.0"'): f"0+{ok}{STEADY}",
        metric("task_seconds_count", *of): f"0+{ok + late}{STEADY}",
    }


def calls(provider: str, ok: float, bad: float, outcome: str = "LLM_ERROR") -> dict[str, str]:
    """So many calls of a provider each 15 s that end well and badly."""
    name = f'provider="{provider}"'
    return {
        metric("provider_calls_total", name, 'outcome="ok"'): f"0+{ok}{STEADY}",
        metric("provider_calls_total", name, f'outcome="{outcome}"'): f"0+{bad}{STEADY}",
    }


def waiting(values: str) -> dict[str, str]:
    """What waits, as two daemons tell it."""
    state = (Q, 'state="waiting"')
    return {metric("queue_tasks", *state, f'instance="{one}"'): values for one in ("a", "b")}


def permits(used: int, limit: int, snoozes: float) -> dict[str, str]:
    """Places of a model, and tasks that found none."""
    of = ('model="m1"', 'tier="paid"')
    return {
        metric("permits_in_use", *of): f"{used}{STEADY}",
        metric("permits_max", *of): f"{limit}{STEADY}",
        metric("snoozes_total", Q, 'reason="GUARD_MODEL"'): f"0+{snoozes}{STEADY}",
    }


def doors(name: str, ok: float, bad: float, *labels: str) -> dict[str, str]:
    """Answers of a door each 15 s."""
    return {
        metric(f"{name}_requests_total", *labels, 'status="200"'): f"0+{ok}{STEADY}",
        metric(f"{name}_requests_total", *labels, 'status="503"'): f"0+{bad}{STEADY}",
    }


def slow(name: str, fast: float, all_of_them: float, edge: str, *labels: str) -> dict[str, str]:
    """A histogram with one edge that matters."""
    return {
        metric(f"{name}_bucket", *labels, f'le="{edge}"'): f"0+{fast}{STEADY}",
        metric(f"{name}_bucket", *labels, 'le="5.0"'): f"0+{all_of_them}{STEADY}",
        metric(f"{name}_bucket", *labels, 'le="+Inf"'): f"0+{all_of_them}{STEADY}",
    }


def accepted(**each: float) -> dict[str, str]:
    """Judged messages each 15 s, by outcome."""
    return {metric("accepted_total", Q, f'outcome="{o}"'): f"0+{n}{STEADY}" for o, n in each.items()}


def steady(name: str, *labels: str, each: float) -> dict[str, str]:
    """One counter."""
    return {metric(name, *labels): f"0+{each}{STEADY}"}


def gauge(name: str, *labels: str, value: float) -> dict[str, str]:
    """One gauge."""
    return {metric(name, *labels): f"{value}{STEADY}"}


def pool(used: int) -> dict[str, str]:
    """Connections to Postgres of one daemon."""
    of = (DAEMON, 'server="postgres"')
    return {**gauge("connections", *of, 'state="used"', value=used), **gauge("connections_max", *of, value=10)}


def memory(used: int, limit: int) -> dict[str, str]:
    """Redis."""
    return {**gauge("redis_memory_bytes", value=used), **gauge("redis_memory_max_bytes", value=limit)}


def dead(letters: float, ended: float) -> dict[str, str]:
    """Dead letters among ended tasks, each 15 s."""
    return {
        **steady("dead_letters_total", Q, 'code="LLM_ERROR"', each=letters),
        **steady("task_seconds_count", Q, 'outcome="failed"', each=ended),
    }


def check(name: str, *, ok: int, draining: int = 0) -> dict[str, str]:
    """One check of one daemon."""
    return {**gauge("check_ok", DAEMON, f'check="{name}"', value=ok), **gauge("draining", DAEMON, value=draining)}


OLDEST: Final = metric("queue_oldest_timestamp_seconds", Q, 'instance="a"')
PAUSED: Final = metric("queue_paused", Q, 'instance="a"')
STARTED: Final = metric("process_start_time_seconds", DAEMON)
COST: Final = metric("cost_usd_total", 'model="m1"')
OF_DAEMON: Final = {"instance": "a:9464", "job": "qstreamd-daemon"}

CASES: Final[dict[str, Case]] = {
    "QueueTooOld": Case(
        {OLDEST: "1" + STEADY, PAUSED: "0" + STEADY}, {OLDEST: "1" + STEADY, PAUSED: "1" + STEADY}, OF_QUEUE),
    "NoConsumers": Case(
        waiting("3" + STEADY) | gauge("queue_consumers", Q, value=0),
        waiting("3" + STEADY) | gauge("queue_consumers", Q, value=1), OF_QUEUE),
    "PromiseBroken": Case(tasks(4, 1), tasks(9, 1), OF_QUEUE, at="70m"),
    "BacklogGrows": Case(
        waiting("20+1" + STEADY) | tasks(0.2, 0), waiting("600-1" + STEADY) | tasks(0.2, 0), OF_QUEUE, at="40m"),
    "QueueFull": Case(accepted(full=1, queued=5), accepted(full=0, queued=5), OF_QUEUE),
    "QueuePaused": Case({PAUSED: "1" + STEADY}, {PAUSED: "1x100 0x100 1x100"}, OF_QUEUE, at="70m"),
    "ProcessDown": Case({f"up{{{DAEMON}}}": "0" + STEADY}, {'up{job="other"}': "0" + STEADY}, OF_DAEMON),
    "DaemonsGone": Case(
        {'up{job="qstreamd-relay"}': "1" + STEADY}, {f"up{{{DAEMON}}}": "1" + STEADY}, {}),
    "NotReady": Case(
        check("postgres", ok=0), check("reading", ok=0, draining=1), OF_DAEMON | {"check": "postgres"}),
    "CrashLoop": Case({STARTED: "0+1" + STEADY}, {STARTED: "1x100 2x200"}, OF_DAEMON),
    "WorkReclaimed": Case(
        steady("reclaimed_total", Q, each=0.5), steady("reclaimed_total", Q, each=0.01), OF_QUEUE),
    "WritesFenced": Case(
        steady("fenced_total", 'operation="ack"', each=0.5), steady("fenced_total", 'operation="ack"', each=0.01)),
    "LoopLag": Case(
        slow("loop_lag_seconds", 1, 2, "0.5", DAEMON), slow("loop_lag_seconds", 2, 2, "0.5", DAEMON),
        {"instance": "a:9464"}),
    "PoolUsedUp": Case(pool(10), pool(8), {"instance": "a:9464", "server": "postgres"}),
    "RelayFailing": Case(doors("relay", 9, 1, 'route="task"'), doors("relay", 99, 1, 'route="task"')),
    "RelaySlow": Case(
        slow("relay_request_seconds", 9, 10, "1.0", 'route="task"'),
        slow("relay_request_seconds", 10, 10, "1.0", 'route="task"')),
    "CallsNotBelieved": Case(accepted(unauthorized=1, queued=0), accepted(unauthorized=1, queued=1)),
    "GatewayFailing": Case(doors("gateway", 9, 1), doors("gateway", 99, 1)),
    "UploadsRefused": Case(
        steady("uploads_total", 'outcome="full"', each=1), steady("uploads_total", 'outcome="stored"', each=1)),
    "ProviderFailing": Case(
        calls("deepseek", 3, 1), calls("deepseek", 3, 1, "CANCELLED") | calls("openai", 0.2, 0.2),
        {"provider": "deepseek"}),
    "AllProvidersFailing": Case(
        calls("deepseek", 0.1, 1) | calls("openai", 0.1, 1), calls("deepseek", 0, 1) | calls("openai", 1, 0)),
    "ModelUnavailable": Case(
        gauge("model_available", 'model="m1"', value=0), gauge("model_available", 'model="m1"', value=1),
        {"model": "m1"}),
    "ConcurrencyLimitReached": Case(permits(20, 20, 1), permits(20, 20, 0), {"model": "m1", "tier": "paid"}, at="40m"),
    "DeadLettersGrow": Case(dead(0.5, 1), dead(0.5, 100), OF_QUEUE),
    "CostRunaway": Case(
        {COST: "0+0.02x288 6+1x12"}, {COST: "0+1x300"}, at="25h", step="5m"),
    "RedisNearlyFull": Case(memory(90, 100), memory(90, 0)),
    "RedisForgot": Case(steady("restored_total", Q, each=1), steady("restored_total", Q, each=0), OF_QUEUE),
    "PostgresFailing": Case(
        steady("postgres_errors_total", DAEMON, 'kind="away"', each=1),
        steady("postgres_errors_total", DAEMON, 'kind="away"', each=0.1), {"instance": "a:9464"}),
    "Watchdog": Case({"up": "1" + STEADY}, {}),
}  # fmt: skip  # a table
ALWAYS: Final = {"Watchdog"}  #: has no silence to test


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert of the rules, by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def promtool(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What promtool says; it must be content."""
    program = shutil.which("promtool") or ""
    found = subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True, timeout=50, check=False)
    said = (found.stdout + found.stderr).decode()
    assert found.returncode == 0, said
    return said


def expected(name: str, case: Case) -> dict[str, Any]:
    """The alert as it must come."""
    rule = alerts()[name]
    said = {
        key: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: case.labels[found[1]], text)
        for key, text in rule["annotations"].items()
    }
    return {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": said}


def both_of(name: str, case: Case) -> Iterator[dict[str, Any]]:
    """Fires; stays silent."""
    for series, outcome in ((case.fires, [expected(name, case)]), (case.silent, [])):
        if outcome or name not in ALWAYS:
            yield {
                "name": f"{name} {'fires' if outcome else 'stays silent'}",
                "interval": case.step,
                "input_series": [{"series": one, "values": values} for one, values in series.items()],
                "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": outcome}],
            }


def test_every_alert_has_its_cases() -> None:
    """A new alert without a test of both kinds is refused."""
    assert set(CASES) == set(alerts())


@needs_promtool
@pytest.mark.parametrize("step", sorted({case.step for case in CASES.values()}))
def test_every_alert_fires_and_stays_silent(step: str, tmp_path: Path) -> None:
    """Judged by the real evaluator; a day is looked at in larger steps than an hour."""
    cases = [test for name, case in CASES.items() if case.step == step for test in both_of(name, case)]
    file, every = tmp_path / "alerts.test.json", {"15s": "1m", "5m": "30m"}[step]
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": every, "tests": cases}))
    promtool("test", "rules", file)


@needs_promtool
def test_prometheus_accepts_its_files() -> None:
    """Rules and configuration as shipped; every expression parses."""
    assert "rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", RULES.with_name("prometheus.yml"))


@needs_promtool
def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    """The variables of Grafana stand for values; the rest is PromQL."""
    rules = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(expressions_of_dashboard())]
    assert len(rules) > 20
    file = tmp_path / "dashboard.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


@needs_promtool
def test_promtool_has_nothing_to_say_about_the_metrics() -> None:
    """Names, units and help as Prometheus wants them."""
    assert promtool("check", "metrics", stdin=Metrics().render()) == ""


def expressions_of_dashboard() -> list[str]:
    """Every query, with Grafana's variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", ())]
    found += [a["expr"] for a in dashboard["annotations"]["list"] if "expr" in a]
    filled = {"$__rate_interval": "1m", "$__range": "1h", "$queue": ".*"}
    for variable, value in filled.items():
        found = [expression.replace(variable, value) for expression in found]
    return found


def samples() -> set[str]:
    """Every sample name that a process of ours can show."""
    names = {"qstreamd_process_start_time_seconds", "qstreamd_process_resident_memory_bytes"}
    names |= {"qstreamd_process_cpu_seconds_total", "qstreamd_process_open_fds", "qstreamd_build_info"}
    for one in vars(Metrics(process=False)).values():
        if isinstance(one, MetricWrapperBase):
            (family,) = one.describe()
            ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
            names |= {family.name + end for end in ends}
    return names


def test_every_metric_that_is_asked_for_exists() -> None:
    """In alerts and dashboard; a renamed metric must not leave a silent alert behind."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    asked = [rule["expr"] for group in groups for rule in group["rules"]] + expressions_of_dashboard()
    for expression in asked:
        words = set(re.findall(r"\bqstreamd[:_][\w:]+", re.sub(r'"[^"]*"', "", expression)))
        assert words <= samples() | recorded, expression


def test_every_label_that_is_asked_for_exists() -> None:
    """A filter on a label that no metric has matches nothing, for ever."""
    ours = {
        label for one in vars(Metrics()).values() if isinstance(one, MetricWrapperBase) for label in one._labelnames
    }
    known = ours | {"le", "instance", "job", "alertname", "alertstate"}
    for expression in [rule["expr"] for rule in alerts().values()] + expressions_of_dashboard():
        filters = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression))
        grouped = {w for g in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression) for w in re.findall(r"\w+", g)}
        assert filters | grouped <= known, expression


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.name)
def test_every_alert_has_its_section_in_the_runbook(page: Path) -> None:
    """Meaning, impact, diagnosis and cure, in both languages; the link of the alert leads to the section."""
    text = page.read_text("utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    words = (
        ("Meaning", "Impact", "Diagnosis", "Cure") if page.name == "runbook.md" else ("含义", "影响", "诊断", "处理")
    )
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert [w for w in words if f"**{w}**" not in sections.get(name, "")] == [], name
    assert set(sections) == set(alerts()), "a section without an alert"
