"""What a template may cost, and that templates which cost little write what jinja2 itself writes."""

from __future__ import annotations

import time
from typing import Any

import jinja2
import pytest

from twofold.errors import TemplateError
from twofold.text.chat import ChatTemplate
from twofold.text.sandbox import BUDGET, Budget, Sandbox

HELLO: Any = [{"role": "user", "content": "Hello " * 1000}]


def render(source: str, **variables: Any) -> str:
    return Sandbox().from_string(source).render({BUDGET: Budget(5.0), **variables})


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in 'abc' %}{{ loop.index }}/{{ loop.length }}{{ x }}{{ loop.last }}{{ loop.nextitem }} {% endfor %}",
        "{% for x in missing %}x{% else %}none{% endfor %}{{ 'a' ~ 1 ~ none ~ 2.5 }}",
        "{{ [1, 2] | join(', ') }}{{ ', '.join(['a', 'b']) }}{{ [1, 2] | map('string') | join('-') }}",
        "{{ 'abc' | replace('b', 'c') }}{{ 'abc'.replace('b', 'cc') }}{{ 'a\nb' | indent(4) }}",
        "{{ '%s-%s' % ('a', 1) }}{{ '%05d' | format(3) }}{{ 'x{:>5}'.format(2) }}{{ '{a}'.format(a=1) }}",
        "{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{% for k, v in {'a': 1}.items() if v %}{{ k }}{% endfor %}",
        "{% for a in [[1], [2, [3]]] recursive %}{{ a if a is number else loop(a) }}{% endfor %}",
        "{% set ns = namespace(a='') %}{% for x in [1, 2] %}{% set ns.a = ns.a ~ x %}{% endfor %}{{ ns.a }}",
        "{% set x %}{{ 'abc' * 2 }}{% endset %}{{ x | upper | trim }}{{ 2 ** 10 }}{{ 7 % 3 }}{{ [3, 4] | sum }}",
        "{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}"
        "{{ x }}{% endfor %}{{ 'word ' | wordwrap(3) }}{{ 'x' | center(9) }}{{ [1, 2, 3] | batch(2) | list }}",
    ],
)
def test_what_costs_little_is_written_as_jinja_writes_it(source: str) -> None:
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    assert render(source) == plain.from_string(source).render()


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in m %}{% for b in m %}{% for c in m %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in m recursive %}{{ loop(m) if loop.depth < 9 }}{% endfor %}",
    ],
)
@pytest.mark.parametrize("blamed", [1, 50])
def test_a_template_that_goes_on_is_stopped(source: str, blamed: int) -> None:
    template = ChatTemplate({"default": source}, seconds=0.2)
    start = time.thread_time()
    with pytest.raises(TemplateError, match=r"longer than 0\.2 seconds"):
        template.render(HELLO * blamed, m="x" * 3000)
    assert time.thread_time() - start < 5


@pytest.mark.parametrize(
    "source",
    [
        "{{ '%9999999d' % 1 }}",
        "{{ '%*d' % (9999999, 1) }}",
        "{{ '%9999999d' | format(1) }}",
        "{{ '{:>9999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 9999999) }}",
        "{{ 'x' | center(9999999) }}",
        "{{ 'x'.ljust(9999999) }}",
        "{{ [] | slice(9999999) | list }}",
        "{{ [1] | batch(9999999, 'x') | list }}",
        "{{ ('%s' * 9999) % (('x' * 99999,) * 9999) }}",
        "{{ (x * 9).replace('x', x) }}",
        "{{ (x * 9) | replace('', x) }}",
        "{{ x.join(range(99999) | map('string')) }}",
        "{{ range(99999) | map('string') | join(x) }}",
        "{{ ('\n' * 99999) | indent(999999) }}",
        "{{ ('\t' * 99999).expandtabs(999999) }}",
        "{{ [[1]] | tojson(indent=1000) }}",
        "{{ [[1]] | sum(start=[]) }}",
        "{{ 3 ** 40000000 }}",
        "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{{ lipsum(n=99999) }}",
    ],
)
def test_no_single_step_fills_the_memory(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate({"default": source}).render(HELLO, x="x" * 99999)


def test_a_clients_variables_cannot_lift_the_limits() -> None:
    template = ChatTemplate({"default": "{% for i in range(10 ** 7) %}x{% endfor %}"})
    with pytest.raises(TemplateError, match="range"):
        template.render(HELLO, **{BUDGET: Budget(1e9), "range": range})
