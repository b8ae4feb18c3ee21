"""The messages of training and of sampling, as tinker's client writes and reads them.

Axes: t tokens of a datum, k most probable tokens.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zojax.engine.requests import Token
from zojax.errors import InputError
from zojax.serving.tinker.wire import Message, field
from zojax.training.weighted import Datum

PROTOBUF = "application/x-protobuf"

MOST_DATA = 1024
"""The most datums of a request; the client is told to send fewer."""

_FLOAT32, _INT64 = 1, 2
_TYPES = {_FLOAT32: np.dtype("<f4"), _INT64: np.dtype("<i8")}
_ABSENT = -99999.0
"""Stands for a log-probability of a token that is not there."""


class ForwardBackward(NamedTuple):
    """A request to score datums.

    Attributes:
        model_id: the model.
        seq_id: the request's number among the model's.
        data: what is scored.
        forward_only: whether nothing is learnt from it.
    """

    model_id: str
    seq_id: int
    data: list[Datum]
    forward_only: bool


def read_forward_backward(body: bytes, *, vocab_size: int, max_length: int) -> ForwardBackward:
    """Reads a request to score datums.

    Args:
        body: the message.
        vocab_size: the number of the model's tokens.
        max_length: the most tokens of an input.

    Raises:
        InputError: it is no such message, asks for another loss, or a datum cannot be scored.
    """
    message = Message(body)
    if (loss := message.text(4)) != "cross_entropy":
        raise InputError(
            f"loss_fn={loss[:50]}: only cross_entropy is known here; forward_backward_custom takes "
            "other losses, which it computes in the client"
        )
    if not 0 < len(message.all(3)) <= MOST_DATA:
        raise InputError(f"data: give 1 to {MOST_DATA} datums in a request")
    data = [_datum(Message(one), f"data[{i}]") for i, one in enumerate(message.all(3))]
    for i, (tokens_t, targets_t, _) in enumerate(data):
        if len(tokens_t) > max_length:
            raise InputError(
                f"data[{i}]: has {len(tokens_t)} tokens; the most is {max_length} (--max-length)"
            )
        both = np.concatenate([tokens_t, targets_t])
        if both.min() < 0 or both.max() >= vocab_size:
            raise InputError(f"data[{i}]: the model's tokens are 0 to {vocab_size - 1}")
    return ForwardBackward(message.text(1), message.integer(2), data, bool(message.integer(6)))


def _datum(message: Message, name: str) -> Datum:
    chunks = [Message(chunk) for chunk in message.all(1)]
    if not all(1 in chunk for chunk in chunks):
        raise InputError(f"{name}: only tokens are understood, no images and no sound")
    tokens_t = _array(b"".join(Message(chunk.data(1)).data(1) for chunk in chunks), "<i4", name)
    inputs = message.entries(2)
    if "target_tokens" not in inputs or not len(tokens_t):
        raise InputError(f"{name}: give an input of one token or more, and target_tokens")
    targets_t = _tensor(inputs["target_tokens"], len(tokens_t), f"{name}.target_tokens")
    weight_t = np.ones(len(tokens_t), np.float32)
    if "weights" in inputs:
        weight_t = _tensor(inputs["weights"], len(tokens_t), f"{name}.weights")
    if not np.isfinite(weight_t).all():
        raise InputError(f"{name}.weights: are not finite")
    targets_t = targets_t.clip(-1, 2**31 - 1).astype(np.int32)
    return Datum(tokens_t, targets_t, weight_t.astype(np.float32))


def _tensor(data: bytes, length: int, name: str) -> np.ndarray:
    """A dense vector of a length."""
    message = Message(data)
    kind = _TYPES.get(message.integer(3))
    if kind is None or 2 in message:
        raise InputError(f"{name}: give a dense tensor of float32 or int64")
    found = _array(message.data(1), kind, name)
    if len(found) != length:
        raise InputError(f"{name}: has {len(found)} numbers, but the input has {length} tokens")
    return found


def _array(data: bytes, dtype: str | np.dtype, name: str) -> np.ndarray:
    if len(data) % np.dtype(dtype).itemsize:
        raise InputError(f"{name}: has a part of a number")
    return np.frombuffer(data, dtype)


def write_scored(logprobs: Sequence[np.ndarray], metrics: Mapping[str, float]) -> bytes:
    """The answer to a request to score datums.

    Args:
        logprobs: for each datum the log-probabilities of its targets ``(t,)``.
        metrics: numbers by name; a name ends in how those of several requests are put together.
    """
    arrays = [np.asarray(one, "<f4") for one in logprobs]
    offsets = np.cumsum([0, *(one.nbytes for one in arrays)], dtype="<i8")
    data = b"".join(one.tobytes() for one in arrays)
    tensor = field(1, data) + field(2, offsets.tobytes()) + field(3, _FLOAT32)
    entry = field(1, "logprobs") + field(2, tensor)
    record = field(1, "ArrayRecord") + field(2, entry) + field(3, len(arrays))
    told = [field(3, field(1, name) + field(2, float(x))) for name, x in metrics.items()]
    return field(1, "ArrayRecord") + field(2, record) + b"".join(told)


class Sampled(NamedTuple):
    """A continuation.

    Attributes:
        tokens: its tokens.
        is_stopped: whether it has ended by itself.
    """

    tokens: list[Token]
    is_stopped: bool


def write_samples(
    samples: Sequence[Sampled], count: int, prompt: Sequence[Token] | None, prompt_count: int
) -> bytes:
    """The answer to a request for continuations.

    Args:
        samples: the continuations.
        count: the number of most probable tokens to tell with each of their tokens.
        prompt: the prompt's tokens with their log-probabilities, if they were asked for.
        prompt_count: the same number for these.
    """
    parts = []
    for tokens, is_stopped in samples:
        ids = np.array([token.id for token in tokens], "<i4")
        written = field(1, int(not is_stopped)) + field(2, ids.tobytes())
        written += field(3, _logprobs(tokens)) + _tops(4, tokens, count)
        parts.append(field(1, written))
    if prompt is not None:
        parts += [field(2, _logprobs(prompt)), _tops(3, prompt, prompt_count)]
    return b"".join(parts)


def _logprobs(tokens: Sequence[Token]) -> bytes:
    found = [np.nan if token.logprob is None else token.logprob for token in tokens]
    return np.array(found, "<f4").tobytes()


def _tops(number: int, tokens: Sequence[Token], count: int) -> bytes:
    if not count:
        return b""
    ids_tk = np.zeros((len(tokens), count), "<i4")
    logprob_tk = np.full((len(tokens), count), _ABSENT, "<f4")
    for i, token in enumerate(tokens):
        for j, (id_, logprob) in enumerate(token.top[:count]):
            ids_tk[i, j], logprob_tk[i, j] = id_, logprob
    arrays = field(1, ids_tk.tobytes()) + field(2, logprob_tk.tobytes())
    return field(number, arrays + field(3, count) + field(4, len(tokens)))
