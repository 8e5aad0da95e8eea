from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from daemon.services import sandbox
from daemon.services.prompts import SOURCE_CHARS_MAX, BadTemplate, MissingVariables, prompt
from daemon.services.sandbox import RenderFailed


def render(source: str, **variables: Any) -> str:
    return prompt(source).render(variables)


def failure(source: str, **variables: Any) -> str:
    with pytest.raises(RenderFailed) as caught:
        render(source, **variables)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Hi {{ name }}!", "Hi Ann!"),
        ("{{ nothing }}|{{ flag }}|{{ number }}|{{ xs }}", '|true|1.5|["é", null, 1]'),
        ("{{ user }}", '{"copy": "c", "items": 3}'),
        ("{{ xs | join('; ') }}", "é; ; 1"),
        ("{{ 'a' ~ 1 ~ nothing ~ flag ~ xs }}", 'a1true["é", null, 1]'),
        ("{{ user.copy }} {{ user['items'] }} {{ user.get('x', 'y') }}", "c 3 y"),
        ("{% for k, v in user.items() %}{{ loop.index }}/{{ loop.length }} {{ k }}={{ v }}, {% endfor %}",
         "1/2 copy=c, 2/2 items=3, "),
        ("{% for x in people if x.age > 1 %}{{ x.name }}{{ loop.last }}{% else %}none{% endfor %}", "Btrue"),
        ("{{ people | map(attribute='name') }} {{ people | sum(attribute='age') }}", '["A", "B"] 3'),
        ("{% for g in people | groupby('age') %}{{ g.grouper }}{{ g.list | length }}{% endfor %}", "1121"),
        ("{{ people | join('+', attribute='name') }} {{ name | string | upper }}", "A+B ANN"),
        ("{{ user | tojson }} {{ xs | tojson(indent=2) }}", '{"copy": "c", "items": 3} [\n  "é",\n  null,\n  1\n]'),
        ("{% set greeting = 'Dear ' ~ name %}{% with a = 1 %}{{ greeting }}{{ a }}{% endwith %}", "Dear Ann1"),
        ("{{ name.split('n') | first }}{{ 'a b'.split() }}{{ name.lower() }}", 'A["a", "b"]ann'),
        ("{{ 2 * 3 + 1 - 4 }} {{ 7 % 4 }} {{ 'ab' * 2 }} {{ [1] * 2 + [2] }}", "3 3 abab [1, 1, 2]"),
        ("{{ 1.25 | round(1) }}", "1.2"),
        ("{{ 'aXb' | replace('X', '--') }} {{ 'a\nb' | indent(2) }}", "a--b a\n  b"),
        ("{{ missing | default('d') }}{% if missing is defined %}x{% endif %}{{ '' if missing is undefined }}", "d"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{% if flag %}\n  yes\n{% endif %}\nno", "  yes\nno"),
        ("{# a comment #}{% raw %}{{ not a variable }}{% endraw %}", "{{ not a variable }}"),
        ("<b>{{ '<&>' }}</b>", "<b><&></b>"),
    ],
)  # fmt: skip
def test_prompts_are_written_as_people_expect(source: str, text: str) -> None:
    """Null reads as nothing, other values as JSON; no method hides a key; nothing is escaped."""
    assert render(
        source, name="Ann", nothing=None, flag=True, number=1.5, xs=["é", None, 1], user={"copy": "c", "items": 3},
        people=[{"name": "A", "age": 1}, {"name": "B", "age": 2}],
    ) == text  # fmt: skip


def test_what_a_user_sends_is_never_rendered() -> None:
    """A résumé full of template syntax stays what it is."""
    evil = "{{ 7 * 7 }}{% for x in range(9) %}{# gone #}"
    assert render("{{ resume }}|{{ deep.a[0] }}", resume=evil, deep={"a": [evil]}) == f"{evil}|{evil}"


def test_a_source_is_compiled_once() -> None:
    assert prompt("Hello {{ you }}") is prompt("Hello {{ you }}")


def test_a_prompt_says_which_variables_it_needs() -> None:
    found = prompt("{{ a }}{{ b.c }}{% if d is defined %}{{ d }}{% endif %}{{ e | default(1) }}{% set f = 1 %}{{ f }}"
                   "{% for g in range(2) %}{{ g }}{% endfor %}")  # fmt: skip
    assert (found.required, found.optional) == (frozenset("ab"), frozenset("de"))


@pytest.mark.parametrize(
    ("source", "variables", "names"),
    [
        ("{{ a }} {{ b }} {{ c | default('') }}", {"b": 1}, ["a"]),
        ("{{ c }} {{ a.x }} {{ b | join }}", {}, ["a", "b", "c"]),
        ("{{ a.x }}", {"a": {}}, ["x of an object"]),
        ("{{ a[0] }}", {"a": []}, ["an element of an object"]),
        ("{{ a.x }}", {"a": {"y": "content"}}, ["x of an object"]),
        ("{% for x in a %}{% endfor %}", {}, ["a"]),
        ("{{ a ~ 'x' }}", {}, ["a"]),
        ("{{ cycler() }}", {}, ["cycler"]),
    ],
)
def test_missing_variables_are_named_all_at_once(source: str, variables: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(MissingVariables) as caught:
        render(source, **variables)
    assert caught.value.names == names
    assert "content" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ open", "line 1: unexpected end of template"),
        ("a\n{% if %}", "line 2: "),
        ("{% macro m() %}{% endmacro %}", "line 1: 'macro' is not offered; allowed: if, for, set, with"),
        ("{% include 'x' %}", "'include' is not offered"),
        ("{% import 'x' as y %}", "'import' is not offered"),
        ("{% extends 'x' %}", "'extends' is not offered"),
        ("{% block a %}{% endblock %}", "'block' is not offered"),
        ("{% filter upper %}{% endfilter %}", "'filterblock' is not offered"),
        ("{% set a %}{% endset %}", "'assignblock' is not offered"),
        ("{% for a in b recursive %}{% endfor %}", "'for' is not offered"),
        ("{% autoescape true %}{% endautoescape %}", "is not offered"),
        ("{{ a | upperr }}", "no filter 'upperr'; did you mean \"upper\"?; allowed: abs, "),
        ("{% if 0 %}{{ a | attr('b') }}{% endif %}", "no filter 'attr'"),
        ("{{ a is nope }}", "no test 'nope'"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("{% for a in range(1) %}" * 40 + "{% endfor %}" * 40, "nested too deeply"),
        ("x" * (SOURCE_CHARS_MAX + 1), "longer than 262144 characters"),
    ],
)
def test_a_bad_source_is_refused_when_it_is_compiled(source: str, said: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        prompt(source)
    assert said in str(caught.value)
    assert "for rounds" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for i in range(1000000000) %}x{% endfor %}", "range is longer than 10000"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "more than 100000 rounds"),
        ("{% for a in range(9) %}{{ 'x' * 1000000 }}{% endfor %}", "the prompt is longer than 4194304 characters"),
        ("{% for a in range(99) %}" + "x" * 200_000 + "{% endfor %}", "the prompt is longer than"),
        ("{{ 'x' * 1000000000 }}", "a value is larger than 4194304"),
        ("{{ 1000000000 * [1] }}", "a value is larger than 4194304"),
        ("{% set s = 'xxxxxxxx' %}" + "{% set s = s ~ s %}" * 40, "a value is larger than 4194304"),
        ("{% set s = 'xxxxxxxx' %}" + "{% set s = s + s %}" * 40, "a value is larger than 4194304"),
        ("{% set s = 'xxxxxxxx' %}" + "{% set s = s | replace('x', s) %}" * 40, "a value is larger than 4194304"),
        ("{% set s = 'xxxxxxxx' %}" + "{% set s = range(9) | join(s) %}" * 40, "a value is larger than 4194304"),
        ("{% set n = 9 %}" + "{% set n = n * n %}" * 40, "a number is larger than 128 bits"),
        ("{{ 9 ** 9 ** 9 }}", "** is not offered"),
        ("{{ '%999999999d' % 1 }}", "formatting with % is not offered"),
        ("{{ 'a' | indent(999999999) }}", "indent is wider than 100"),
        ("{{ 'a' | tojson(indent=999999999) ~ '{:>99999999}'.format(1) }}", "templates may not use"),
        ("{{ 'x'.ljust(999999999) }}", "templates may not use"),
        ("{{ ''.__class__.__mro__ }}", "templates may not use"),
        ("{{ 'x'['__class__'] }}", "templates may not use"),
        ("{{ xs.append(1) }}", "templates may not use"),
        ("{{ range }}", "a function can't be written into a prompt"),
        ("{% for x in xs %}{{ loop }}{% endfor %}", "a LoopContext can't be written"),
        ("{{ 1 / 0 }}", "an expression failed with ZeroDivisionError"),
        ("{% for x in 5 %}{% endfor %}", "an expression failed with TypeError"),
        ("{{ secret + 1 }}", "an expression failed with TypeError"),
    ],
)
def test_a_rendering_that_goes_too_far_is_stopped(source: str, said: str) -> None:
    """Each of these would fill the memory, stop the loop or leave the sandbox."""
    began = time.perf_counter()
    found = failure(source, xs=[1], secret="a secret")
    assert said in found
    assert "a secret" not in found
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "show", ["{{ s }}", "{{ s | string }}", "{{ s | tojson }}", "{{ s ~ '' }}", "{{ [s] | join }}"]
)
def test_cpu_time_is_bounded(show: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that holds itself many times over is small in memory and endless as text."""
    monkeypatch.setattr(sandbox, "CPU_S_MAX", 0.05)
    assert "rendering takes more than" in failure("{% set s = [''] %}" + "{% set s = [s, s] %}" * 60 + show)


def test_a_usual_prompt_renders_within_a_millisecond() -> None:
    """The bounds cost little: 20 kB of input and a loop over 50 entries."""
    source = "Review for {{ role }}:\n{% for x in xs %}- {{ x.title }} ({{ x.years }})\n{% endfor %}{{ resume }}"
    variables = {"role": "r", "resume": "x" * 20_000, "xs": [{"title": "t", "years": i} for i in range(50)]}
    assert _best_of(20, lambda: prompt(source).render(variables)) < 0.005  # 0.2 ms where it was written


def _best_of(times: int, call: Callable[[], object]) -> float:
    def once() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return min(once() for _ in range(times))
