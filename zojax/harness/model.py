"""An engine as lm-eval's model: log-likelihoods of continuations and of texts, and free answers.

Texts become tokens as lm-eval's own ``hf`` model makes them, so that figures can be compared.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from zojax.engine import Engine
from zojax.engine.requests import Scores
from zojax.errors import InputError, first_few
from zojax.generation import Sampling
from zojax.hub.turns import for_chats
from zojax.scoring import Item

Answer = tuple[float, bool]
"""A continuation's log-likelihood in nats, and whether greedy decoding would give it."""

_MAX_NEW_TOKENS = 256
"""The most tokens of an answer unless its task says otherwise, as for lm-eval's other models."""

_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1}
"""Settings of generation that change nothing at these values, and are not supported at others."""


class EngineLM(TemplateLM):
    """An engine that lm-eval asks.

    Continuations of one prompt are scored together, as one tree, which holds the prompt once.

    Args:
        engine: the engine.
        batch_size: the most prompts in one call of the device.
        max_length: the most tokens of a text; None for the model's positions. Of longer ones the
            first tokens are left out.
        seed: what sampling draws from.
        on_progress: called with the number of prompts that are done, and of all, for each kind of
            request.

    Attributes:
        num_nonfinite: the number of continuations whose scores were not finite. They are as if
            impossible.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch_size: int = 16,
        max_length: int | None = None,
        seed: int = 0,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        super().__init__()
        positions = engine.model.config.max_position_embeddings
        self.max_length = min(max_length or positions, positions)
        self.tokenizer = engine.tokenizer.tokens  # whose chat template lm-eval notes
        self.num_nonfinite = 0
        self._engine, self._batch_size, self._seed = engine, batch_size, seed
        self._on_progress = on_progress

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._engine.tokenizer.tokens.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that nothing is before: BOS, even if prompts do not start so."""
        of_model, of_files = self._engine.tokenizer.bos, self._engine.tokenizer.tokens.bos_token_id
        known = of_files if of_model is None else of_model
        return self.eot_token_id if known is None else known

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name in lm-eval's caches."""
        return self._engine.tokenizer.path.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """A text's tokens, after BOS if there is one, unless the text begins with it."""
        tokenizer = self._engine.tokenizer
        ids = tokenizer.ids(string)
        begins = add_special_tokens is None and ids[:1] == [tokenizer.bos]
        if add_special_tokens is False or begins or tokenizer.bos is None:
            return ids
        return [tokenizer.bos, *ids]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat's text, up to the answer or, without a generation prompt, within the last turn."""
        try:
            return self._chat(chat_history, add_generation_prompt)
        except InputError:  # some models know no system's turn
            rest = [turn for turn in chat_history if turn["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            return self._chat(rest, add_generation_prompt)

    def _chat(self, chat_history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        template = for_chats(self._engine.tokenizer).chat
        assert template is not None, "for_chats gives one"
        turns = [(turn["role"], turn["content"]) for turn in chat_history]
        [text] = template.render([turns], answered=[not add_generation_prompt])
        if add_generation_prompt:
            return text
        last = turns[-1][1].strip()
        return text[: text.rindex(last) + len(last)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Answer]:
        """The log-likelihoods of continuations, each after its own context."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """The log-likelihoods of whole texts, those that are too long in windows."""
        windows, owners = [], []
        for i, request in enumerate(requests):
            of_text = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            for context, scored in map(make_disjoint_window, of_text):
                windows.append((None, context, scored))
                owners.append(i)
        sums = np.zeros(len(requests))
        np.add.at(sums, owners, [logprob for logprob, _ in self._loglikelihood_tokens(windows)])
        for request, found in zip(requests, sums.tolist(), strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found)
        return sums.tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[Answer]:
        trees: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
        places: list[tuple[tuple[int, ...], int]] = []
        for texts, context, continuation in requests:
            self._check(texts, continuation)
            kept = (context + continuation)[-(self.max_length + 1) :]  # the last is not computed
            prompt, last = tuple(kept[: -len(continuation)]), tuple(continuation)
            known = trees.setdefault(prompt, {})
            places.append((prompt, known.setdefault(last, len(known))))
        items = [
            Item(np.array(prompt, np.int32), tuple(np.array(one, np.int32) for one in known))
            for prompt, known in trees.items()
        ]
        scores = self._engine.rank_items(
            items,
            self._batch_size,
            on_progress=lambda done: self._on_progress(done, len(items)),
        )
        found = [_answers(*one) for one in zip(items, scores, strict=True)]
        by_prompt = dict(zip(trees, found, strict=True))
        answers = [by_prompt[prompt][k] for prompt, k in places]
        self.num_nonfinite += sum(not np.isfinite(logprob) for logprob, _ in answers)
        for (texts, *_), answer in zip(requests, answers, strict=True):
            if texts is not None:  # else a part of a text
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _check(self, texts: Any, continuation: list[int]) -> None:
        if not 1 <= len(continuation) <= self.max_length:
            raise InputError(
                f"a task's continuation has {len(continuation)} tokens, but 1 to "
                f"{self.max_length} can be scored: {texts[1][:80] if texts else ''!r}"
            )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answers to prompts, each up to one of its task's ends."""
        asked: list[Any] = [request.args for request in requests]
        groups: dict[str, list[int]] = {}
        for i, (_, settings) in enumerate(asked):
            groups.setdefault(repr(settings), []).append(i)
        texts: dict[int, str] = {}
        for indices in groups.values():
            before, prompts = len(texts), [asked[i][0] for i in indices]

            def report(done: int, before: int = before) -> None:
                self._on_progress(before + done, len(requests))

            found = self._continued(prompts, asked[indices[0]][1], report)
            for i, text in zip(indices, found, strict=True):
                texts[i] = text
                self.cache_hook.add_partial("generate_until", asked[i], text)
        return [texts[i] for i in range(len(requests))]

    def _continued(
        self, prompts: Sequence[str], given: dict[str, Any], on_progress: Callable[[int], None]
    ) -> list[str]:
        wanted: dict[str, Any] = dict(normalize_gen_kwargs(given, _MAX_NEW_TOKENS))
        until, most = wanted.pop("until"), wanted.pop("max_gen_toks")
        if most >= self.max_length:
            raise InputError(
                f"max_gen_toks={most}: the most tokens of a prompt with its answer are "
                f"{self.max_length}; give fewer with --gen-kwargs max_gen_toks=N"
            )
        # Only these, since text is decoded without them.
        special = [stop for stop in until if stop in self._engine.tokenizer.special]
        ends = [id_ for stop in special for id_ in self._engine.tokenizer.ids(stop)]
        generations = self._engine.generate_tokens(
            [
                np.array(self.tok_encode(text)[most - self.max_length :], np.int32)
                for text in prompts
            ],
            list(dict.fromkeys((*self._engine.tokenizer.stop_ids, *ends))),
            max_new_tokens=most,
            sampling=_sampling(wanted),
            stop=[stop for stop in until if stop and stop not in special],
            seed=self._seed,
            batch_size=self._batch_size,
            on_progress=on_progress,
        )
        self.num_nonfinite += sum(one.finish_reason == "nonfinite" for one in generations)
        return [one.text for one in generations]


def _answers(item: Item, scores: Scores) -> list[Answer]:
    """The answer for each candidate; if a score is not finite, as if it was impossible."""
    answers = []
    for ids, logprobs, tops in zip(item.candidates, scores.logprobs, scores.tops, strict=True):
        total = float(logprobs.sum(dtype=np.float64))
        is_greedy = all(top[0][0] == id_ for id_, top in zip(ids, tops, strict=True))
        is_finite = np.isfinite(total)
        answers.append((total if is_finite else -np.inf, bool(is_finite and is_greedy)))
    return answers


def _sampling(wanted: dict[str, Any]) -> Sampling:
    """How tokens are chosen, from settings with lm-eval's names."""
    rest = {k: v for k, v in wanted.items() if k not in _NEUTRAL or v != _NEUTRAL[k]}
    does_sample = rest.pop("do_sample", False)
    chosen = {name: rest.pop(name) for name in Sampling._fields if name in rest}
    if rest:
        raise InputError(
            f"a task wants to generate with {first_few(rest)}, which zojax does not know; known "
            f"are do_sample, max_gen_toks, until, {', '.join(Sampling._fields)}"
        )
    return Sampling(**chosen) if does_sample else Sampling()
