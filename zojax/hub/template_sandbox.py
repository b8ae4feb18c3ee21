"""Renders a chat template in a process of its own: a program, which :mod:`template_process` runs.

A template is a program of whoever made the checkpoint. jinja2's sandbox keeps it from Python's
insides, but not from loops without an end or texts that fill the memory: the system's limits for
this process do. It imports nothing of zojax, so that it starts in a tenth of a second.

Each line of its input is a JSON object, and is answered by one: first the template, then chats.
"""

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

SECONDS = 1
"""The processor time for one chat, which takes about a ten-thousandth of that."""

BYTES = 512 << 20
"""The memory of the process, most of which is Python's."""

MOST_CHARACTERS = 4 << 20
"""The longest text that a chat may become, as for other prompts."""

TODAY = time.strptime("2024-07-26", "%Y-%m-%d")
"""What templates take for today: prompts must not change with the day."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` … ``{% endgeneration %}``, around what an assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_as_it_is")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """``dict`` without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """``namespace()``, whose attributes cannot be those that Python reserves."""

    def __init__(*args: Any, **kwargs: Any):  # so that self may be an attribute
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace has no attribute {name!r}")


def _refuse(message: object) -> None:
    raise jinja2.exceptions.TemplateError(str(message))


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def compile_template(source: str) -> jinja2.Template:
    """Compiles a template with what transformers' ``apply_chat_template`` gives to templates."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: time.strftime(form, TODAY)
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


def render(template: jinja2.Template, given: Mapping[str, Any]) -> str:
    """Renders a chat; ``ValueError`` if its text is too long."""
    pieces, count = [], 0
    for piece in template.generate(given):
        pieces.append(piece)
        count += len(piece)
        if count > MOST_CHARACTERS:
            raise ValueError(f"makes more than {MOST_CHARACTERS:,} characters of a chat")
    return "".join(pieces)


def _allow_time() -> None:
    """Lets this process go on for :data:`SECONDS` and a part of another, before the system ends it.

    This is time of the processor, which no load of the machine makes longer.
    """
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + SECONDS, hard))


def _limit() -> None:
    """Takes from this process what a template does not need: memory, files, processes."""
    limits = {"RLIMIT_AS": BYTES, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
    for name, most in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # macOS lacks some of them
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (least, least))


def render_all(template: jinja2.Template, chats: Iterable[Mapping[str, Any]]) -> list[str]:
    """Renders chats, each in the time that is allowed for one."""
    texts = []
    for chat in chats:
        _allow_time()
        texts.append(render(template, chat))
    return texts


def main() -> None:
    """Answers line by line until the input ends."""
    _limit()
    template: jinja2.Template | None = None
    for line in sys.stdin:
        told: dict[str, Any] = {"texts": []}
        try:
            asked = json.loads(line)
            if template is None:
                _allow_time()
                template = compile_template(asked["template"])
            else:
                told = {"texts": render_all(template, asked["chats"])}
        except MemoryError:
            told = {"error": "takes more memory than a chat needs"}
        except Exception as error:  # whatever a template does is an error of the template
            told = {"error": str(error) or type(error).__name__}
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
