"""Requests that no client should send: valid ones with something wrong, drawn from a seed."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from zojax.serving.tinker.messages import PROTOBUF
from zojax.serving.tinker.wire import field

OWN_WORDS = "mine-alone-4711"
"""Stands in every body, and must be in no log."""

VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": "demo",
        "prompt": f"a {OWN_WORDS} film",
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "n": 2,
        "best_of": 2,
        "seed": 1,
        "stop": ["\n", "END"],
        "stop_token_ids": [3],
        "logprobs": 2,
        "echo": True,
        "logit_bias": {"5": 1.5},
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "stream": False,
        "stream_options": {"include_usage": True},
    },
    "/v1/chat/completions": {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "short"},
            {"role": "user", "content": [{"type": "text", "text": f"a {OWN_WORDS} film"}]},
        ],
        "max_tokens": 3,
        "max_completion_tokens": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "stop": "END",
        "stream": True,
    },
    "/v1/score": {"model": "demo", "prompt": OWN_WORDS, "candidates": [" great", " terrible"]},
    "/tokenize": {"prompt": OWN_WORDS, "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [5, 6, 7]},
    "/v1/load_lora_adapter": {"lora_name": "new", "lora_path": "none", "load_inplace": False},
    "/v1/unload_lora_adapter": {"lora_name": "new"},
    "/v1/feedback": {"id": "cmpl-1", "index": 0, "reward": 0.5},
    "/v1/fine_tuning/jobs": {
        "model": "demo",
        "training_file": "file-1",
        "validation_file": "file-2",
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}},
        },
        "seed": 1,
        "suffix": "films",
        "metadata": {"for": OWN_WORDS},
        "integrations": [],
        "data": {"prompt": "{text} It was", "candidates": {"0": " bad", "1": " good"}},
    },
}
"""A valid body of each route that takes one."""

GETS = ("/health", "/ready", "/metrics", "/v1/models", "/v1/models/one", "/tokenizer_info")
TYPE = "Content-Type"


class Sent(NamedTuple):
    """A request.

    Attributes:
        why: what is wrong with it.
        method: its method.
        path: its path.
        headers: its headers, but for those that every request has.
        body: its body.
        length: what it says of the body's length; None for nothing.
    """

    why: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    length: str | None

    @property
    def is_http(self) -> bool:
        """Whether it is one request of HTTP, which the application sees and must answer."""
        return self.why not in _NOT_HTTP

    def to_bytes(self, key: str) -> bytes:
        """The request as it is sent."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: test", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not any(name.lower() == "authorization" for name, _ in self.headers):
            lines.append(f"Authorization: Bearer {key}")
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


def malformed(
    count: int, seed: int = 0, valid: Mapping[str, dict[str, Any] | bytes] = VALID
) -> Iterator[Sent]:
    """Draws requests; each kind of wrong and each route is drawn equally often.

    Args:
        count: how many.
        seed: what is wrong with them is drawn from it.
        valid: a valid body of each route: JSON, or a message of protobuf.
    """
    rng = random.Random(seed)
    routes = list(valid.items())
    for i in range(count):
        why, make = _KINDS[i % len(_KINDS)]
        path, body = routes[(i // len(_KINDS)) % len(routes)]
        if isinstance(body, bytes) and make in (_value, _written, _fields, _twice):
            make = _message
        yield make(rng, why, path, body)


_STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 0.5, -1e308),
    *("", " ", "a" * 5000, "null", "\0", "\x7f\u202e", "é€👍", "$(id)", "{{ 7*7 }}", "../../etc"),
    *([], {}, [[]], [{}], [None], [-1], [2**31], [0, "a"], {"": None}, {"__proto__": 1}),
    *(["a"] * 40, [[1]] * 40, {"-1": 1}, {"5": 1e9}, {"type": "json_object"}),
)
_WRITTEN = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-0", "1" * 5000, "0.0" + "1" * 5000, "01", "0x1"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "tru", "'a'", "undefined", '"a', "[1,]", ""),
    *("[" * 50_000, "[" * 900 + "]" * 900, "[" * 50_000 + "]" * 50_000, '{"a":' * 20_000),
    *("[" + "-1," * 50_000 + "-1]", "[" + "0," * 50_000 + "0]", "[" + '"a",' * 20_000 + '"a"]'),
    "{" + ",".join(f'"{i}":1' for i in range(20_000)) + "}",
)
"""Values that only text can be: some are no JSON, some are too much of it."""
_TYPES = (
    *("", "text/plain", "application/xml", "application/x-www-form-urlencoded", "json"),
    *("multipart/form-data", "multipart/form-data; boundary=a", "application/json; charset=utf-7"),
    *("application/json;" * 50, "application/\xff", "*/*", "application/vnd.api+json"),
)
_METHODS = (*("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "post", "POST"),)
_HEADERS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("Authorization", ""),),
    (("Authorization", "Bearer"),),
    (("Authorization", "Bearer " + "a" * 4000),),
    (("Authorization", "Bearer \xff\xfe"),),
    (("Authorization", "Basic YTpi"),),
    (("X-API-Key", "tml-\xff"),),
    (("Content-Encoding", "gzip"),),
    (("Expect", "100-continue"),),
    (("Accept", "image/png"), ("Accept-Encoding", "br;q=a")),
    (("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Host", "evil"), ("Forwarded", "for=x")),
    (("Range", "bytes=0-1"), ("If-None-Match", "*")),
    (("Upgrade", "websocket"), ("Sec-WebSocket-Key", "a"), ("Sec-WebSocket-Version", "13")),
    (("Cookie", "a=" + "b" * 8000),),
    tuple((f"X-{i}", "a") for i in range(90)),
    (("X-Long", "a" * 100_000),),
    (("Origin", "null"), ("Referer", "file:///etc/passwd")),
)
_LENGTHS = (
    "-1",
    "1e3",
    "0x10",
    "a",
    "",
    "1, 2",
    "9" * 30,
    "9" * 5000,
    "99999999",
    "0",
    "3",
    "\xb2",
)
_PATHS = (
    *("/", "//v1/completions", "/v1/completions/", "/v1/../v1/completions", "/v1/%2e%2e/metrics"),
    *("/v1/models/%00", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/" + "a" * 3000),
    *("/v1/models/%ff%fe", "/v1/models/%F0%9F%91%8D", "/v1/models/one/", "/v1/models/one?a=%00"),
    *("/v1/completions?model=one&model=", "/%", "/v1/completions%0d%0aX:%20y", "/docs", "/redoc"),
    *("/openapi.json", "/V1/completions", "*", "http://evil/v1/models", "/v1/models;a=b"),
    *("/api/v1/training_runs/%00", "/api/v1/training_runs/..%2f..", "/api/v1/samplers/%ff"),
    *("/api/v1/sessions/a/finish", "/api/v1/training_runs/a/checkpoints", "/api/v1/", "/api/v1"),
    "/api/v1/training_runs/a/checkpoints/weights/..%2f..%2fb",
)
_NUMBERS = (0, 1, 127, 2**31, 2**63, 2**64 - 1)
_PARTS = (
    *(b"", b"\0", b"\xff" * 9, b"a" * 70_000, b"\x0a" * 3000, b"../../etc/passwd", b"ppo"),
    *(
        field(1, field(1, field(1, b"\0\0\xc0\x7f"))),
        field(3, 1),
        field(2, b"a") * 5000,
        b"\x0b\x0c",
    ),
)
"""What stands in a field of a message instead of what belongs there."""
_NOT_HTTP = ("broken HTTP", "chunks")
_JSON = ((TYPE, "application/json"),)
_OF_MESSAGES = ((TYPE, PROTOBUF),)


def _encoded(body: dict[str, Any] | bytes) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _headers(body: dict[str, Any] | bytes) -> tuple[tuple[str, str], ...]:
    return _OF_MESSAGES if isinstance(body, bytes) else _JSON


def _post(why: str, path: str, body: bytes, headers: Any = _JSON) -> Sent:
    return Sent(why, "POST", path, headers, body, str(len(body)))


def _message(rng: random.Random, why: str, path: str, valid: bytes) -> Sent:
    """A message with other fields before or behind those that it has: the last one counts."""
    given = rng.choice(_NUMBERS) if rng.random() < 0.5 else rng.choice(_PARTS)
    other = field(rng.choice((1, 2, 3, 3, 4, 5, 6, 2**20)), given)
    body = rng.choice(
        (valid + other, other + valid, valid * 2, valid + other * rng.choice((2, 900)))
    )
    return _post(why, path, body, _OF_MESSAGES)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a body."""
    inner: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    for key, one in inner:
        yield (*at, key)
        yield from _places(one, (*at, key))


def _changed(body: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A body with another value at a place."""
    key, *rest = at
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[key] = _changed(copy[key], tuple(rest), value) if rest else value
    return copy


def _value(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = valid
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        body = _changed(body, rng.choice(list(_places(body))), rng.choice(_STRANGE))
    return _post(why, path, json.dumps(body).encode())


def _written(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = _changed(valid, rng.choice(list(_places(valid))), "@@")
    return _post(why, path, json.dumps(body).replace('"@@"', rng.choice(_WRITTEN)).encode())


def _fields(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = {k: v for k, v in valid.items() if rng.random() < 0.6}
    body[rng.choice(("tools", "user", "\0", "ä" * 100, "response_format", "__class__"))] = (
        rng.choice(_STRANGE)
    )
    return _post(why, path, json.dumps(body).encode())


def _twice(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    text, key = json.dumps(valid), rng.choice(list(valid))
    again = f'"{key}": {json.dumps(rng.choice(_STRANGE))}'
    text = rng.choice((f"{{{again}, {text[1:]}", f"{text[:-1]}, {again}}}"))
    return _post(why, path, text.encode())


def _bytes(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = bytearray(_encoded(valid))
    for _ in range(rng.choice((1, 3, 20))):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return _post(why, path, bytes(body), _headers(valid))


def _cut(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = _encoded(valid)
    return _post(why, path, body[: rng.randrange(len(body))], _headers(valid))


def _whole(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    text = json.dumps(valid) if isinstance(valid, dict) else "{}"
    bodies = (
        *(b"", b" \n", b"null", b"[]", b"1", b'"a"', b"true", b"{}", b"{" * 1000, b"\xff" * 100),
        *(text.encode("utf-16"), text.encode("utf-32-le"), b"\xef\xbb\xbf" + text.encode()),
        *(f"[{text}]".encode(), text.encode() * 2, b"prompt=a&model=b", b"\0" * 1000),
        b"--a\r\nContent-Disposition: form-data; name=prompt\r\n\r\na\r\n--a--\r\n",
    )
    return _post(why, path, rng.choice(bodies), _headers(valid))


def _kind(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body, kind = _encoded(valid), rng.choice(_TYPES)
    return _post(why, path, body, ((TYPE, kind),) if kind else ())


def _method(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    at = rng.choice((path, rng.choice(GETS)))
    body = _encoded(valid) if at == path else b"{}"
    return _post(why, at, body, _headers(valid))._replace(method=rng.choice(_METHODS))


def _header(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = _encoded(valid)
    return _post(why, path, body, (*_headers(valid), *rng.choice(_HEADERS)))


def _broken(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    sent = _post(why, path, _encoded(valid), _headers(valid))
    if rng.random() < 0.2:
        return sent._replace(headers=(*_headers(valid), ("Host", "another")))
    if rng.random() < 0.2:
        return sent._replace(path=f"{path} a")
    return sent._replace(length=rng.choice(_LENGTHS))


def _chunks(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    body = _encoded(valid)
    sizes = (f"{len(body):x}", "0", "-1", "z", "ffffffffffffffff", "1;a=" + "b" * 9000)
    chunked = f"{rng.choice(sizes)}\r\n".encode() + body + rng.choice((b"\r\n0\r\n\r\n", b""))
    headers = (
        *_headers(valid),
        ("Transfer-Encoding", rng.choice(("chunked", "gzip", "chunked, chunked"))),
    )
    return Sent(why, "POST", path, headers, chunked, rng.choice((None, "5")))


def _other_path(rng: random.Random, why: str, path: str, valid: Any) -> Sent:
    sent = _post(why, rng.choice(_PATHS), _encoded(valid))
    return sent._replace(method=rng.choice(("GET", "POST")))


_KINDS: tuple[tuple[str, Callable[[random.Random, str, str, Any], Sent]], ...] = (
    ("a value of another kind", _value),
    ("values of other kinds", _value),
    ("a value that is not JSON, or too much", _written),
    ("fields left out or unknown", _fields),
    ("a key twice", _twice),
    ("bytes changed", _bytes),
    ("no end", _cut),
    ("another body", _whole),
    ("another content type", _kind),
    ("another method", _method),
    ("other headers", _header),
    ("broken HTTP", _broken),
    ("chunks", _chunks),
    ("another path", _other_path),
)
