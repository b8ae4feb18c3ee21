"""Starts the process that renders a chat template, and asks it."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zojax.errors import InputError
from zojax.hub import template_sandbox
from zojax.text import plain

_PROGRAM = Path(template_sandbox.__file__)
_MOST_DEATHS = 3
"""How many chats in a row may need more than they are given before the template has a rest."""

_REST_SECONDS = 60.0


class TemplateProcess:
    """A process that renders one template, with limits of time and memory.

    It starts when it is first asked, and again after a chat that needed too much; after three of
    them in a row, not before a minute has passed.

    Args:
        template: the template's text.
        path: what errors call the checkpoint.
    """

    def __init__(self, template: str, path: str):
        self._template, self._path = template, path
        self._lock, self._deaths, self._rests_until = threading.Lock(), 0, 0.0
        self._owner, self._process = 0, None

    def render(self, chats: Sequence[Mapping[str, Any]]) -> list[str]:
        """Renders chats, each given by the template's variables.

        Raises:
            InputError: the template cannot be read or refuses a chat, or it takes more time or
                memory than any needs.
        """
        with self._lock:
            if self._process is None or self._owner != os.getpid():  # not that of a forked parent
                self._start()
            texts = self._ask({"chats": chats})
            self._deaths = 0
            return texts

    def _start(self) -> None:
        if self._deaths >= _MOST_DEATHS and time.monotonic() < self._rests_until:
            raise self._too_much()
        try:
            self._process, self._owner = _start_python(), os.getpid()
        except OSError as error:
            raise InputError(
                f"{self._path}: no process can be started for its chat template ({error.strerror})"
            ) from error
        self._finalizer = weakref.finalize(self, _end, self._process)
        try:
            self._ask({"template": self._template})
        except InputError:
            self._stop()
            raise

    def _stop(self) -> None:
        self._process = None
        self._finalizer()

    def _ask(self, asked: Mapping[str, Any]) -> list[str]:
        assert self._process is not None
        line = _exchange(self._process, json.dumps(asked))
        if not line.endswith("\n"):
            self._stop()
            self._deaths, self._rests_until = self._deaths + 1, time.monotonic() + _REST_SECONDS
            raise self._too_much()
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(f"{self._path}: its chat template: {plain(answer['error'], 200)}")
        return answer["texts"]

    def _too_much(self) -> InputError:
        seconds, size = template_sandbox.SECONDS, template_sandbox.BYTES >> 20
        return InputError(
            f"{self._path}: its chat template takes more than {seconds} s or {size} MiB for one "
            "chat; give another one in chat_template.jinja"
        )


def _start_python() -> subprocess.Popen[str]:
    # -P: not with zojax/hub in the path of its imports. In a session of its own, Ctrl-C does not
    # reach it.
    return subprocess.Popen(
        [sys.executable, "-P", "-B", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="ascii",
        start_new_session=True,
    )


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """Sends a line, and returns the answer; it has no end of a line if the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return ""


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.communicate()
