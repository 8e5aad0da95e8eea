"""`python -m daemon report`: what a week was like, for each service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from daemon import config
from daemon.admin.connections import Connections
from daemon.admin.explain import Language
from daemon.cli import terminal as t
from daemon.domain.clock import SystemClock
from daemon.domain.errors import CODES, Code
from daemon.store.history import ServiceSum

SUMMING_S = 60.0  #: a big week takes longer than a task's statements may
_DAY_S = 86400.0
_HEAD = {
    "en": "LAST tasks done failed in-{sla} wait-p95 took-p95 tokens-in out cost else",
    "zh": "最近 任务 完成 失败 {sla}内 等待P95 总时P95 输入词元 输出 费用 其他",
}
_REST = {"en": ("open", "cancelled"), "zh": ("进行中", "已取消")}
_WORDS = {
    "en": ("all", "Tasks that failed:", "Attempts that failed:", "No task was accepted in the last {}."),
    "zh": ("合计", "失败的任务：", "失败的尝试：", "最近 {} 内没有接受任何任务。"),
}
_CUT = {"en": "Answers cut at a limit (max_output_tokens):", "zh": "被长度上限截断的回答（max_output_tokens）："}


@click.command(
    "report", epilog="Examples:  python -m daemon report   |   report --days 1 --lang zh   |   report --json"
)
@click.option("--days", default=7.0, show_default=True, type=click.FloatRange(0.01, 366), help="How far back.")
@click.option("--service", metavar="S", help="Only this one.")
@click.option(
    "--sla", "sla_s", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds a task may take."
)
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@t.as_json
def command(*, days: float, service: str | None, sla_s: float, lang: Language, as_json: bool) -> None:
    """Sum up what each service was sent: tasks, failures by code, waits, tokens and cost (from Postgres).

    Counts tasks by when they were accepted, with all attempts they took. Tokens and cost are what providers reported;
    an attempt that broke off tells what was known by then, perhaps nothing. Exit 1 when --service was sent nothing.
    """
    settings = config.load()
    t.no_colour(settings.runtime.no_color)
    window_s = days * _DAY_S
    sums = t.run(
        _sums(
            settings.model_copy(
                update={"postgres": settings.postgres.model_copy(update={"command_timeout_s": SUMMING_S})}
            ),
            days,
            sla_s,
        )
    )
    if service is not None:
        sums = [found for found in sums if found.service_id == service]
        if not sums:
            t.fail(f"{service}: no task in the last {t.seconds(window_s)}", "without --service all are shown")
    if as_json:
        to = SystemClock().time()
        services = [found for found in sums if found.service_id is not None]
        total = next((found for found in sums if found.service_id is None), None)
        told = {"services": t.plain(services), "total": t.plain(total)}
        t.emit({"from_at": to - window_s, "to_at": to, "sla_s": sla_s, **told})
    else:
        click.echo("\n".join(page(sums, window_s, sla_s, lang)))


async def _sums(settings: config.Settings, days: float, sla_s: float) -> list[ServiceSum]:
    async with Connections(settings, redis_may_be_away=True) as at:
        return await at.history.sums(days * _DAY_S, sla_s)


def page(sums: Sequence[ServiceSum], window_s: float, sla_s: float, lang: Language) -> Iterator[str]:
    """The lines for people: one for each service, then what went wrong, the most frequent first."""
    span = t.seconds(window_s)
    every, ended, failed, nothing = _WORDS[lang]
    if not any(found.tasks for found in sums):
        yield nothing.format(span)
        return
    head = _HEAD[lang].format(sla=t.seconds(sla_s).replace(" ", "")).split()
    numbers, first = " ".join(head[1:-1]), f"{head[0]} {span}"
    yield t.table((first, *head[1:]), (_line(s, every, lang) for s in sums), right=numbers, keep=head[-1])
    services = [found for found in sums if found.service_id is not None]
    if cut := [(-s.cut, t.safe(str(s.service_id))) for s in services if s.cut]:
        yield f"\n{_CUT[lang]}  " + ", ".join(f"{-count} {service}" for count, service in sorted(cut))
    yield from _failures(ended, {str(s.service_id): s.failures for s in services}, lang)
    yield from _failures(failed, {str(s.service_id): s.attempt_failures for s in services}, lang)


def _line(s: ServiceSum, every: str, lang: Language) -> tuple[str, ...]:
    ended, lost = s.done + s.failed + s.expired, s.failed + s.expired
    in_time = f"{100 * s.in_time / ended:.1f}%" if ended else "-"
    spans = (t.seconds(s.wait_p95_s), t.seconds(s.total_p95_s))
    tokens = (t.short(s.input_tokens), t.short(s.output_tokens))
    cost = "-" if s.cost_usd is None else f"${s.cost_usd:.2f}" if s.cost_usd >= 1 else f"${s.cost_usd:.4f}"
    rest = zip((s.open, s.cancelled), _REST[lang], strict=True)
    return (
        every if s.service_id is None else t.safe(s.service_id),
        *(str(s.tasks), str(s.done), click.style(str(lost), fg="red") if lost else "0", in_time),
        *(*spans, *tokens, cost),
        ", ".join(f"{count} {word}" for count, word in rest if count),
    )


def _failures(title: str, counted: Mapping[str, Mapping[str, int]], lang: Language) -> Iterator[str]:
    lines = [(-n, code, service) for service, codes in counted.items() for code, n in codes.items()]
    if not lines:
        return
    yield f"\n{title}"
    rows = [(str(-n), t.safe(service), t.safe(code), _meaning(code, lang)) for n, code, service in sorted(lines)]
    widths = [max(t.cells(row[at]) for row in rows) for at in range(3)]
    for count, service, code, meaning in rows:
        line = f"  {count:>{widths[0]}}  {service:<{widths[1]}}  {code:<{widths[2]}}  {meaning}"
        yield t.cut(line, t.width()).rstrip()


def _meaning(code: str, lang: Language) -> str:
    if code not in set(Code):
        return ""
    info = CODES[Code(code)]
    return info.zh if lang == "zh" else info.en
