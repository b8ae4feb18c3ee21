"""Two servers behind a proxy: one is drained while clients ask, and none of them notices."""

import dataclasses
import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import openai
import pytest

from tests.serving.conftest import Running

ASKING = {"model": "demo", "prompt": "a gripping film", "temperature": 0, "max_tokens": 40}
NO_END = {"extra_body": {"ignore_eos": True}}


def proxy(urls: list[str], answered: Counter[str]) -> ThreadingHTTPServer:
    """Gives requests to servers in turn, and to the next if one is not there or sends it away.

    As nginx does with ``proxy_next_upstream error http_503 non_idempotent``.
    """
    turns = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            first = next(turns)
            for i in range(len(urls)):
                url = urls[(first + i) % len(urls)]
                connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
                try:
                    headers = {"content-type": "application/json", "connection": "close"}
                    connection.request("POST", self.path, body, headers)
                    answer = connection.getresponse()
                except (OSError, http.client.HTTPException):
                    continue
                if answer.status != 503:
                    break
            answered[url] += 1
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers["content-type"])
            self.end_headers()
            while part := answer.read1():
                self.wfile.write(part)

        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def replicas(service) -> Iterator[list[Running]]:
    found = [Running(dataclasses.replace(service)) for _ in range(2)]
    yield found
    for one in found:
        if one.thread.is_alive():
            one.server.handle_exit(15, None)
            one.thread.join(30)


def test_no_client_fails_while_one_of_two_servers_is_drained(replicas):
    answered: Counter[str] = Counter()
    before = proxy([one.url for one in replicas], answered)
    threading.Thread(target=before.serve_forever, daemon=True).start()
    texts: list[str] = []
    failed: list[Exception] = []
    is_over = threading.Event()

    def ask(streams: bool) -> None:
        url = f"http://127.0.0.1:{before.server_port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            while not is_over.is_set():
                try:
                    answer = client.completions.create(**ASKING, **NO_END, stream=streams)
                    parts = list(answer) if streams else [answer]
                    texts.append("".join(part.choices[0].text for part in parts))
                except Exception as error:
                    failed.append(error)

    clients = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(6)]
    for client in clients:
        client.start()
    drained, left = replicas
    wait_until(lambda: len(answered) == 2 and len(texts) > 6)
    drained.server.handle_exit(15, None)
    drained.thread.join(30)
    served, count = answered[drained.url], len(texts)
    wait_until(lambda: len(texts) > count + 6)
    is_over.set()
    for client in clients:
        client.join()
    before.shutdown()
    before.server_close()
    assert not failed
    assert len(set(texts)) == 1
    assert not drained.thread.is_alive()
    assert drained.server.exit_code == 143
    assert answered[drained.url] == served
    assert answered[left.url] > 0


def wait_until(is_so) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it never was so")
