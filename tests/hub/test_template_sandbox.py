"""Chat templates of strangers: none runs code, none takes more time or memory than it is given."""

import os
import time
from typing import Any

import jinja2
import pytest

from zojax.errors import InputError, as_line
from zojax.hub import template_process, template_sandbox
from zojax.hub.template_process import TemplateProcess

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "tools": None}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "{% for m in messages %}\n  {% if m %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "Hi\n",
        ),
        ("{{ strftime_now('%d %b %Y, %H:%M') }}", "26 Jul 2024, 00:00"),
        ("{{ {'ä': '<b>'} | tojson }}", '{"ä": "<b>"}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("a{% generation %}{% set b = 'c' %}{{ b }}{% endgeneration %}{{ b }}", "ac"),
        ("{% for i in range(9) %}{% if i > 1 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% set n = namespace(self=1) %}{% set n.b = 2 %}{{ n.self + n.b }}", "3"),
        ("{{ dict(a=1) }}{{ dict.fromkeys('b') }}", "{'a': 1}{'b': None}"),
        ("{{ tools is none }}{{ documents is defined }}", "TrueFalse"),
    ],
)
def test_a_template_is_rendered_as_transformers_does(template, text):
    assert template_sandbox.render(template_sandbox.compile_template(template), CHAT) == text


def test_many_chats_are_rendered_by_one_process():
    process = TemplateProcess("{{ messages[0].content }}\u2028é", "a/model")
    chats = [{"messages": [{"content": text}]} for text in ("a\n", "<&>", "\udcff", "\u2028")]
    assert process.render(chats) == [f"{c['messages'][0]['content']}\u2028é" for c in chats]
    first = process._process
    assert process.render(chats[:1]) == ["a\n\u2028é"]
    assert process._process is first


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__.os.system('true') }}",
    "{{ '{0.__class__.__mro__}'.format(messages).x.y }}",
    "{{ raise_exception.__globals__['os'].system('true') }}",
    "{{ (messages | attr('__class__')).__mro__ }}",
    "{{ dict.__class__.__base__ }}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "{{ namespace(__init__=1) }}",
    "{{ messages.append(1) }}",
    "{% set messages.content = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_nothing_beside_a_chat_can_be_reached(template):
    errors = (jinja2.TemplateError, TypeError)
    with pytest.raises(errors, match=r"unsafe|undefined|has no attribute|no loader|non-namespace"):
        template_sandbox.render(template_sandbox.compile_template(template), CHAT)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('System role\n not supported') }}", r"System role\\n not supported"),
        ("{% for", "unexpected 'end of template'"),
        ("{{ 'a' * 10 ** 10 }}", "takes more memory than a chat needs"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
        ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "maximum recursion depth exceeded"),
        ("{% for i in range(10 ** 6) %}{% endfor %}", "Range too big"),
        (
            "{% for i in range(1000) %}{{ 'a' * 9999 }}{% endfor %}",
            "more than 4,194,304 characters",
        ),
        ("{{ messages[0].content.nothing.more }}", "has no attribute 'nothing'"),
    ],
)
def test_a_template_that_fails_is_one_line(template, reason):
    with pytest.raises(InputError, match=f"^a/model: its chat template: .*{reason}") as refused:
        TemplateProcess(template, "a/model").render([CHAT])
    assert len(as_line(refused.value)) < 300


EXPONENTIAL = (
    "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
    "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"
)
"""Each list holds the one before twice: comparing two takes 2⁶⁰ steps, between none of which
Python would look for a signal."""


def test_a_template_without_an_end_is_stopped_and_the_next_chat_is_rendered():
    template = f"{{% if messages[0].content == 'x' %}}{EXPONENTIAL}{{% endif %}}done"
    process, started = TemplateProcess(template, "a/model"), time.process_time()
    with pytest.raises(InputError, match=r"^a/model: its chat template takes more than 1 s"):
        process.render([CHAT, {"messages": [{"content": "x"}]}])
    assert process.render([CHAT]) == ["done"]
    assert time.process_time() - started < 1  # of this process


def test_a_template_that_was_stopped_three_times_in_a_row_has_a_rest(monkeypatch):
    process, now = TemplateProcess("done", "a/model"), 1000.0
    exchange = template_process._exchange

    def dying(child: Any, line: str) -> str:
        return "" if "deadly" in line else exchange(child, line)

    monkeypatch.setattr(template_process, "_exchange", dying)
    monkeypatch.setattr(template_process.time, "monotonic", lambda: now)

    def render(content: str) -> list[str]:
        return process.render([{"messages": [{"content": content}]}])

    def dies() -> None:
        with pytest.raises(InputError, match="takes more than 1 s or 512 MiB"):
            render("deadly")

    dies()
    dies()
    assert render("a chat") == ["done"]
    for _ in range(3):
        dies()
    with pytest.raises(InputError, match="takes more than 1 s"):
        render("a chat")
    now += 61
    assert render("a chat") == ["done"]


def test_a_process_ends_with_whoever_asked_it():
    process = TemplateProcess("{{ messages }}", "a/model")
    process.render([CHAT])
    child = process._process
    assert child is not None
    os.kill(child.pid, 0)
    del process
    assert child.poll() is not None
