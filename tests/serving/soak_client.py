"""Clients of ``soak.py``, in a process that can be killed: prints how what they asked for ended.

    python tests/serving/soak_client.py URL SEED END

Knows nothing of zojax, so that it starts quickly.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx

THREADS = 6
MODELS = ("demo", "one", "two", "live")


class Client:
    """Asks for one thing after another, of which it counts the outcomes.

    Args:
        url: the server's.
        seed: what is asked is drawn from it.
    """

    def __init__(self, url: str, seed: int):
        self.outcomes: Counter[str] = Counter()
        self._http = httpx.Client(base_url=url, timeout=60)
        self._rng = random.Random(seed)

    def ask_until(self, end: float) -> None:
        """Asks until a time."""
        asks = (self._whole, self._whole, self._stream, self._score, self._leave, self._hurry)
        with self._http:
            while time.time() < end:
                try:
                    self.outcomes[self._rng.choice(asks)()] += 1
                except Exception as error:
                    self.outcomes[f"lost: {type(error).__name__}"] += 1

    def _body(self, **fields: Any) -> dict[str, Any]:
        words = self._rng.choices(("a", "film", "story", "dull", "great", "of", "the"), k=6)
        return {
            "model": self._rng.choice(MODELS),
            "prompt": " ".join(words),
            "max_tokens": self._rng.randint(1, 40),
            "n": self._rng.choice((1, 1, 1, 2, 4)),
            **fields,
        }

    def _told(self, status: int) -> str:
        return {200: "answered", 429: "refused"}.get(status, f"lost: {status}")

    def _whole(self) -> str:
        body = self._body()
        answer = self._http.post("/v1/completions", json=body)
        if answer.status_code == 200 and len(answer.json()["choices"]) != body["n"]:
            return "lost: a choice"
        return self._told(answer.status_code)

    def _score(self) -> str:
        body = {"model": self._rng.choice(MODELS), "prompt": "a film", "candidates": [" a", " b"]}
        answer = self._http.post("/v1/score", json=body)
        return self._told(answer.status_code)

    def _stream(self) -> str:
        body = self._body(stream=True)
        with self._http.stream("POST", "/v1/completions", json=body) as answer:
            lines = [line for line in answer.iter_lines() if line]
        if answer.status_code != 200:
            return self._told(answer.status_code)
        parts = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        choices = [choice for part in parts for choice in part["choices"]]
        ended = {choice["index"] for choice in choices if choice["finish_reason"]}
        is_whole = lines[-1] == "data: [DONE]" and ended == set(range(body["n"]))
        return "answered" if is_whole else "lost: the end of a stream"

    def _leave(self) -> str:
        body = self._body(stream=True, max_tokens=50, ignore_eos=True)
        with self._http.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines(), None)
        return "left"

    def _hurry(self) -> str:
        body = self._body(max_tokens=50, n=4, ignore_eos=True)
        try:
            answer = self._http.post("/v1/completions", json=body, timeout=0.05)
        except httpx.TimeoutException:
            return "left"
        return self._told(answer.status_code)


def be_client(url: str, seed: int, end: float) -> None:
    """Asks with several threads, and prints the outcomes at the end."""
    clients = [Client(url, seed * THREADS + i) for i in range(THREADS)]
    threads = [threading.Thread(target=one.ask_until, args=(end,)) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sum((one.outcomes for one in clients), Counter())))


if __name__ == "__main__":
    be_client(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
