"""Asks the routes of Tinker as its client does, but for bodies that it would never send, too."""

from typing import Any

import numpy as np

from zojax.serving.tinker.messages import PROTOBUF
from zojax.serving.tinker.wire import field

MINE = "tml-mine"
_KINDS = {1: "<f4", 2: "<i8"}


def post(client: Any, path: str, body: Any, key: str = MINE) -> Any:
    """The answer to a body, which is a message if it is bytes, else JSON."""
    headers = {"X-API-Key": key}
    if isinstance(body, bytes):
        headers["Content-Type"] = PROTOBUF
        return client.post(f"/api/v1/{path}", content=body, headers=headers)
    return client.post(f"/api/v1/{path}", json=body, headers=headers)


def outcome(client: Any, answer: Any, key: str = MINE) -> Any:
    """What came of a request that was answered with a future."""
    assert answer.status_code == 200, answer.text
    body = {"request_id": answer.json()["request_id"]}
    while (found := post(client, "retrieve_future", body, key)).status_code == 408:
        assert found.json()["type"] == "try_again"
    assert found.status_code == 200, found.text
    return found.content if PROTOBUF in found.headers["content-type"] else found.json()


def created(client: Any, key: str = MINE, **changes: Any) -> str:
    """The id of a new model, in a session of its own."""
    session = post(client, "create_session", {}, key).json()["session_id"]
    body = {
        "session_id": session,
        "model_seq_id": 0,
        "base_model": "demo",
        "lora_config": {"rank": 2, "seed": 3},
        **changes,
    }
    return outcome(client, post(client, "create_model", body, key), key)["model_id"]


def tensor(values: Any, dtype: int) -> bytes:
    """A dense tensor: float32 for 1, int64 for 2."""
    return field(1, np.array(values, _KINDS[dtype]).tobytes()) + field(3, dtype)


def scoring(
    model_id: str,
    seq_id: int,
    ids: Any,
    *,
    loss: str = "cross_entropy",
    only: bool = False,
    **inputs: bytes,
) -> bytes:
    """Asks to score one datum: each token after those before it."""
    tokens = field(1, np.array(ids[:-1], "<i4").tobytes())
    given = {"target_tokens": tensor(ids[1:], 2), **inputs}
    entries = [field(2, field(1, name) + field(2, value)) for name, value in given.items()]
    datum = field(1, field(1, tokens)) + b"".join(entries)
    head = field(1, model_id) + field(2, seq_id) + field(3, datum)
    return head + field(4, loss) + field(6, int(only))
