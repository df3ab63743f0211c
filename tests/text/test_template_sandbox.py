"""A template from a model file can neither reach out nor take long nor take much, whatever it says."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.errors import ModelError, UserError
from octavo.text import budget
from octavo.text.budget import MAX_CHARS, Budget, Exceeded
from octavo.text.sandbox import Sandbox
from octavo.text.template import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi"}]


def rendered(template: str, **variables: Any) -> str:
    return ChatTemplate(template, bos="<s>", eos="</s>").render(MESSAGES, **variables)


DOUBLED = "{% set x = 'ab' %}" + "{% set x = OP %}" * 60 + "{{ x }}"
LISTS = "{% set x = ['ab'] %}" + "{% set x = OP %}" * 60
BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that filter": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 12) %}{% endfor %}",
    "output": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "output in a macro": "{% macro m() %}{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endmacro %}"
    "{% set x = m() %}",
    "output in a block": "{% set x %}{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endset %}",
    "calls without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "branching calls": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "branching loops": "{% for a in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "repeated text": "{{ 'x' * 10 ** 10 }}",
    "repeated list": "{{ [1] * 10 ** 10 }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "a negative power": "{{ 2.0 ** -(10 ** 10) }}{{ 10 ** -(10 ** 10) }}",
    "squares": "{% set x = 10 %}" + "{% set x = x * x %}" * 60 + "{{ x }}",
    "doubling by +": DOUBLED.replace("OP", "x + x"),
    "doubling by ~": DOUBLED.replace("OP", "x ~ x"),
    "doubling by join": DOUBLED.replace("OP", "[x, x] | join"),
    "doubling by method": DOUBLED.replace("OP", "x.join(['', '', ''])"),
    "doubling by format": DOUBLED.replace("OP", "'{0}{0}'.format(x)"),
    "doubling by %": DOUBLED.replace("OP", "'%s%s' % (x, x)"),
    "doubling by replace": DOUBLED.replace("OP", "x | replace('', x)"),
    "doubling by its method": DOUBLED.replace("OP", "x.replace('a', x)"),
    "doubling by block": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60 + "{{ x }}",
    "doubling by indent": "{% set x = '\\n' * 3000 %}" + "{% set x = x | indent(900, true, true) %}" * 60,
    "joined by itself": "{% set x = 'x' * 8000000 %}{{ x.join(x) }}",
    "replaced by itself": "{% set x = 'x' * 8000000 %}{{ x.replace('x', x) }}",
    "lists of themselves": LISTS.replace("OP", "[x, x]") + "{{ x }}",
    "tuples of themselves": LISTS.replace("OP", "(x, x)") + "{{ x == x }}",
    "maps of themselves": LISTS.replace("OP", "{'a': x, 'b': x}") + "{{ x | tojson }}",
    "maps by dict": LISTS.replace("OP", "dict(a=x, b=x)") + "{{ x | string }}",
    "lists by +": LISTS.replace("OP", "x + x") + "{{ x }}",
    "lists of lists compared": LISTS.replace("OP", "[x, x]")
    + LISTS.replace("OP", "[x, x]").replace("x", "y")
    + "{{ x == y }}",
    "maps of maps compared": (LISTS + LISTS.replace("x", "y"))
    .replace("OP", "{'a': x, 'b': x}", 60)
    .replace("OP", "{'a': y, 'b': y}")
    + "{{ x == y }}",
    "names of names": "{% set x = namespace(a=1) %}" + "{% set x = namespace(a=x, b=x) %}" * 60 + "{{ x }}" * 1000,
    "a wide format": "{{ '{:>999999999}'.format(1) }}",
    "a nested wide format": "{{ '{:>{}}'.format(1, 999999999) }}",
    "many fields": "{% set x = 'x' * 8000000 %}{{ ('{0}' * 1000000).format(x) }}",
    "a wide %": "{{ '%999999999d' % 1 }}",
    "a wide % given apart": "{{ '%*d' % (999999999, 1) }}",
    "a precise %": "{{ '%.999999999f' % 1 }}",
    "a wide indentation": "{{ 'a\\nb' | indent(10 ** 10) }}",
    "wide JSON": "{{ [1] | tojson(indent=10 ** 10) }}",
    "deep wide JSON": "{% set ns = namespace(x=[1]) %}{% for i in range(400) %}{% set ns.x = [ns.x, 1] %}{% endfor %}"
    "{% for i in range(900) %}{{ ns.x | tojson(indent=1000) | length }}{% endfor %}",
    "a long number": "{{ ('9' * 1000000) | int }}{{ ('1' * 1000000) | int(base=2) }}",
    "a fine rounding": "{{ 5 | round(10 ** 9, 'ceil') }}{{ 5 | round(-(10 ** 9)) }}",
    "much kept in a macro": "{% set x = 'x' * 8000000 %}{% macro m() %}{% for a in range(9999) %}{{ x ~ a }}"
    "{% endfor %}{% endmacro %}{{ m() }}",
    "much kept by callers": "{% macro m() %}{% set y %}{% for i in range(80) %}" + "x" * 100_000 + "{% endfor %}"
    "{% endset %}{{ m() }}{{ y[0] }}{% endmacro %}{{ m() }}",
    "much kept in a list": "{% set x = 'x' * 8000000 %}{% set y = [" + "x[1:], " * 1000 + "] %}",
    "many words": "{% set x = 'x ' * 4000000 %}{% for a in range(9999) %}{% set y = x.split() %}{% endfor %}",
    "slow filters": "{% set x = 'a b ' * 500000 %}{% for a in range(9999) %}{% set y = x | title | upper %}"
    "{% endfor %}",
    "padding by method": "{{ 'x'.ljust(10 ** 10) }}{{ 'x'.zfill(10 ** 10) }}{{ 'x\\t'.expandtabs(10 ** 10) }}",
    "padding of bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
}


HARMLESS = {"names of names"}  # it ends by itself


def explode(name: str) -> None:
    """Light a bomb; it must be refused."""
    template = ChatTemplate(BOMBS[name], bos="<s>", eos="</s>")
    if name in HARMLESS:
        template.render(MESSAGES)
    else:
        with pytest.raises(UserError) as error:
            template.render(MESSAGES)
        assert "MemoryError" not in str(error.value)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_fizzle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_STEPS", 50_000)
    monkeypatch.setattr(budget, "MAX_SECONDS", 1.0)
    explode(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory(name: str) -> None:
    tracemalloc.start()
    try:
        explode(name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 29
    finally:
        tracemalloc.stop()


def test_compiling_computes_nothing() -> None:
    for sum in ("10 ** 10 ** 8", "'x' * 10 ** 12", "'x' | indent(10 ** 12)", "[1] * 10 ** 12", "'%99999999999d' % 1"):
        ChatTemplate("{{ " + sum + " }}{% set x = " + sum + " %}", bos="", eos="")
    sandbox = Sandbox()
    sandbox.start([])  # so that filters would work
    assert "ABC" not in sandbox.compile("{{ 'abc' | upper }}", raw=True)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ messages[0]['__class__'] }}{{ messages[0].__init__.__globals__ }}",
    "{{ (messages | attr('__class__')) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__base__ }}{{ dict.mro() }}",
    "{{ dict.__code__ }}{{ dict.__globals__ }}",
    "{{ range.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
    "{{ loop.__class__ }}{% for x in [1] %}{{ loop._iterator }}{% endfor %}",
    "{{ '{0.__class__.__mro__}'.format(1) }}{{ '{0.__class__}'.format(1).x }}",
    "{{ ('{0.__class__.__mro__}' | safe).format(1) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{% set f = ''.format_map %}{{ f({}) }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(__init__=1) }}",
    "{{ namespace({'__html__': 1}) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages.sort() }}{{ messages.clear() }}",
    "{{ (1).real.bit_length() }}",
    "{{ ''.encode() }}",
    "{{ ''.translate({}) }}",
    "{{ lipsum() }}",
    "{{ lipsum.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}{{ config.items() }}{{ request.application }}",
    "{{ environment.filters }}{{ context.environment }}",
    "{{ caller.__globals__ }}{{ varargs.x }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}{{ m._func.__globals__ }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_nothing_of_python_is_reached(template: str) -> None:
    try:
        out = rendered(template)
    except (UserError, ModelError):
        out = ""
    assert not any(word in out for word in ("class", "object", "module", "function", "built-in", "uid=", "0x")), out


@pytest.mark.parametrize("names", ["namespace(__init__=1)", "namespace({'__html__': 1})", "namespace(_x=1)"])
def test_names_of_python_are_not_free(names: str) -> None:
    with pytest.raises(UserError, match="begin with _"):
        rendered("{{ " + names + " }}")
    with pytest.raises(UserError, match="begin with _"):
        rendered("{% set ns = namespace() %}{% set ns.__class__ = 1 %}")
    assert rendered("{% set ns = namespace(self=1, a=2) %}{% set ns.b = 3 %}{{ ns.self + ns.a + ns.b }}") == "6"


def test_messages_are_never_changed_by_a_template() -> None:
    messages = [{"role": "user", "content": "Hi", "tool_calls": [{"a": [1]}]}]
    for change in (
        "messages.append(1)",
        "messages[0].update(a=1)",
        "messages[0].tool_calls[0].a.append(2)",
        "messages.pop()",
    ):
        with pytest.raises(UserError):
            ChatTemplate("{{ " + change + " }}", bos="", eos="").render(messages)
    assert messages == [{"role": "user", "content": "Hi", "tool_calls": [{"a": [1]}]}]


def test_large_conversations_are_no_bombs() -> None:
    template = (
        "{% for m in messages %}{{ '<' + m.role + '>' ~ m['content'] | trim }}"
        "{% if loop.last %}.{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": f" {i} " + "x" * 100} for i in range(20_000)]
    out = ChatTemplate(template, bos="", eos="").render(messages)
    assert out == "".join(f"<user>{i} " + "x" * 100 for i in range(20_000)) + "."
    whole = "x" * (MAX_CHARS - 100)
    assert ChatTemplate(template, bos="", eos="").render([{"role": "u", "content": whole}]) == "<u>" + whole + "."
    with pytest.raises(UserError, match="grows beyond"):
        ChatTemplate(template, bos="", eos="").render([{"role": "u", "content": "x" * (MAX_CHARS + 10)}])


def test_lists_handed_on_again_and_again_are_weighed_once() -> None:
    template = (
        "{% for m in messages %}"
        "{% if messages | rejectattr('role', 'equalto', 'x') | list | length %}{% endif %}{% endfor %}"
    )
    rendered = ChatTemplate(template, bos="", eos="").render([{"role": "user", "content": "x" * 1000}] * 300)
    assert rendered == ""


def test_each_render_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_STEPS", 5_000)
    template = ChatTemplate("{% for a in range(n) %}{% endfor %}", bos="", eos="")
    assert [template.render(MESSAGES, n=4_000) for _ in range(3)] == [""] * 3
    with pytest.raises(UserError, match="5000 steps"):
        template.render(MESSAGES, n=6_000)


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_SECONDS", -1.0)
    with pytest.raises(UserError, match="longer than"):
        rendered("{{ 1 }}")


TREES = st.recursive(
    st.one_of(st.text(max_size=5), st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(TREES, TREES)
def test_what_is_weighed_at_once_and_in_parts_weighs_the_same(known: Any, new: Any) -> None:
    def weight(value: Any) -> int:
        if isinstance(value, str):
            return len(value)
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        return sum(budget.ENTRY + weight(part) for part in value) if isinstance(value, list) else 0

    both = [known, new, known]
    assert Budget().weigh(both) == Budget([known]).weigh(both) == Budget([both]).weigh(both) == weight(both)
    assert max(len(repr(both)), 1) <= 12 * weight(both) + 80  # written out, it is not much larger


def test_a_budget_counts_down() -> None:
    spent = Budget()
    for _ in range(32):
        spent.made("x" * MAX_CHARS)
    with pytest.raises(Exceeded, match="in all"):
        spent.made("x")
    filled, entries = Budget(), [None] * (MAX_CHARS // budget.ENTRY)
    for _ in range(32):
        filled.made(entries)
    with pytest.raises(Exceeded, match="in all"):
        filled.made([None])
    with pytest.raises(Exceeded, match="grows"):
        Budget().made(["x" * MAX_CHARS])
