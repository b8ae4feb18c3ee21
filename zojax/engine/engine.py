"""The engine: a model with its tokenizer and an adapter, which scores and generates texts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.config import Config
from zojax.engine.encoding import Encoder
from zojax.engine.jobs import Job
from zojax.engine.requests import GenerateRequest, ScoreRequest, Scores
from zojax.engine.score_items import OnProgress, rank_items, score_items
from zojax.engine.session import OnCompiled, Session
from zojax.engine.submission import ScoreReader, Submission, TextReader
from zojax.errors import InputError
from zojax.generation import Generation, Sampling, check_settings, generate
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model
from zojax.scoring import Item, Pages, Ranked, score, score_and_rank
from zojax.scoring.pages import IntArray

Tree = Any

_score_pages: Any = jax.jit(score, static_argnames="graphdef")
_rank_pages: Any = jax.jit(score_and_rank, static_argnames=("graphdef", "count"))
"""These two for all engines, so that none of a model that was loaded before is traced anew."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """A language model that scores and generates, with or without an adapter.

    :func:`zojax.load` makes one from a checkpoint, and :func:`zojax.load_run` from a run. Texts are
    scored and generated in batches; each new shape is compiled once, and shapes are rounded up, so
    that there are few.

    Attributes:
        model: the architecture and its weights, on the device.
        tokenizer: the model's tokenizer.
        pool: the adapter's arrays, stacked with the base model in slot 0 and the adapter in slot 1;
            ``{}`` for the base model alone.
        chat: whether prompts are chats unless a call says otherwise: what the user says, with the
            model's own chat template around it. It is true for a run that was trained so.
        system: what the system says first in a chat; None for what the template writes without.

    Example:
        >>> import zojax
        >>> engine = zojax.load(zojax.demo.MODEL)
        >>> scores_nk = engine.score(["a gripping film . It was"], [" great", " terrible"])
        >>> scores_nk.shape
        (1, 2)
        >>> [generation] = engine.generate(["a gripping"], max_new_tokens=3)
        >>> len(generation.tokens)
        3
    """

    model: Model
    tokenizer: Tokenizer
    pool: Tree = dataclasses.field(default_factory=dict)
    chat: bool = False
    system: str | None = None

    def score(
        self,
        prompts: Sequence[str],
        candidates: Sequence[str],
        *,
        batch_size: int = 16,
        chat: bool | None = None,
    ) -> np.ndarray:
        """Returns the log-probability of every candidate after every prompt.

        Args:
            prompts: n texts, which are not scored themselves.
            candidates: k texts that may follow each prompt, with a leading space unless the prompt
                ends with one. In a chat, blanks around them are left out.
            batch_size: the most prompts in one call of the device.
            chat: whether a prompt is what the user says in a chat and a candidate what the
                assistant says; None for :attr:`chat`.

        Returns:
            ``(n, k)`` float32, in nats: the sum over the candidate's tokens. A number that is not
            finite means that the weights are not finite or overflow their dtype.

        Raises:
            zojax.InputError: a candidate has no tokens or the same tokens as another, a prompt
                with its longest candidate has more tokens than the model has positions, or the
                model has no chat template.
        """
        _check_texts(prompts=prompts, candidates=candidates)
        items = [
            self.encode(text, candidates, f"prompts[{i}]", chat=chat)
            for i, text in enumerate(prompts)
        ]
        scored = self.score_items(items, batch_size)
        sums = [[logprobs.sum() for logprobs in of_item] for of_item in scored]
        return np.array(sums, np.float32).reshape(len(prompts), len(candidates))

    def logprobs(self, texts: Sequence[str], *, batch_size: int = 16) -> list[np.ndarray]:
        """Returns the log-probability of every token of each text, given the tokens before it.

        Args:
            texts: n texts. The first token of each follows the model's BOS. If the model has none,
                the first token is not scored, as nothing is before it.
            batch_size: the most texts in one call of the device.

        Returns:
            An array ``(tokens,)`` float32 for each text, in nats. ``exp(-array.mean())`` is the
            text's perplexity.

        Raises:
            zojax.InputError: a text has no token, or more tokens than the model has positions.

        Example:
            >>> import zojax
            >>> engine = zojax.load(zojax.demo.MODEL)
            >>> [logprobs] = engine.logprobs(["a gripping film"])
            >>> len(logprobs) == len(engine.tokenizer.ids("a gripping film"))
            True
        """
        _check_texts(texts=texts)
        items = [self._encoder.whole(text, f"texts[{i}]") for i, text in enumerate(texts)]
        return [logprobs for [logprobs] in self.score_items(items, batch_size)]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 50,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 16,
        names: Sequence[str] | None = None,
        on_progress: OnProgress = lambda done: None,
        chat: bool | None = None,
    ) -> list[Generation]:
        """Continues prompts, greedily unless ``sampling`` says otherwise.

        Args:
            prompts: the texts to continue. To draw several continuations of one prompt, give it
                several times.
            max_new_tokens: the most tokens that are added to each prompt.
            sampling: how tokens are chosen; None takes the most probable token every time.
            stop: texts that end a continuation and are cut off, besides the model's end-of-text
                token.
            seed: what sampling draws from, from 0 to 2³¹ − 1. A continuation depends on the seed
                and on the prompt's place among the prompts, not on the batch size.
            batch_size: the most prompts that are continued together.
            names: what errors call each prompt.
            on_progress: called now and then with the number of prompts that are done.
            chat: whether to answer what the user says in a chat instead of continuing a text; None
                for :attr:`chat`. An answer also ends with the assistant's turn.

        Returns:
            One :class:`zojax.Generation` for each prompt, in order.

        Raises:
            zojax.InputError: a setting is out of range, or a prompt with its new tokens does not
                fit the model's positions, or the model has no chat template.
        """
        _check_texts(prompts=prompts, stop=stop)
        names = names or [f"prompts[{i}]" for i in range(len(prompts))]
        by_text: dict[str, np.ndarray] = {}
        for name, text in zip(names, prompts, strict=True):
            if text not in by_text:
                by_text[text] = self._encoder.prompt(text, name, chat=chat)
        return self.generate_tokens(
            [by_text[text] for text in prompts],
            self._encoder.tokenizer_for(chat).stop_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            seed=seed,
            batch_size=batch_size,
            names=names,
            on_progress=on_progress,
        )

    def generate_tokens(
        self,
        prompts: Sequence[IntArray],
        stop_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 16,
        names: Sequence[str] | None = None,
        on_progress: OnProgress = lambda done: None,
    ) -> list[Generation]:
        """Continues prompts that are tokens already, up to one of ``stop_ids``.

        The other arguments, and the errors, are those of :meth:`generate`.
        """
        if not 0 <= seed < 2**31:
            raise InputError(f"seed={seed}: give 0 or more, below 2147483648")
        return generate(
            self.model,
            prompts,
            self.tokenizer.text,
            max_new_tokens=max_new_tokens,
            sampling=sampling or Sampling(),
            key=jax.random.key(seed),
            stop_ids=stop_ids,
            stop_strings=stop,
            pool=self.pool,
            slots=[self._slot] * len(prompts),
            names=names,
            batch_size=batch_size,
            on_progress=on_progress,
        )

    def submit(
        self,
        prompt: str,
        candidates: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 50,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        chat: bool | None = None,
        adapter: str | None = None,
    ) -> Submission[Any]:
        """Asks for one text or for scores without waiting; for coroutines.

        What was submitted is answered together, side by side, whatever comes when: a text that
        ends makes room for the next, and different adapters share calls of the device. The first
        call starts the runtime, which compiles all its programs; :meth:`start` does so before.
        docs/library.md has an example.

        Args:
            prompt: the text to continue, or before the candidates.
            candidates: texts that may follow, to score them instead of continuing the prompt.
            max_new_tokens: the most tokens to add.
            sampling: how tokens are chosen; None takes the most probable token every time.
            stop: texts that end the text and are cut off.
            seed: what sampling draws from; the same seed and prompt give the same text.
            chat: as for :meth:`generate`.
            adapter: the name of one of the adapters that :meth:`start` was given, or of a job of
                :meth:`train`; None for the engine's own.

        Returns:
            ``await`` it for the :class:`zojax.Generation`, or the candidates' log-probabilities
            ``(k,)``. ``async for text in …`` reads a text while it is generated. Its ``cancel()``
            ends the request, as does a task that is cancelled while it awaits it, or a loop that
            is left.

        Raises:
            zojax.InputError: as for :meth:`generate` and :meth:`score`, or there is no such
                adapter.
        """
        if candidates is not None:
            _check_texts(candidates=candidates)
            item = self.encode(prompt, candidates, "prompt", chat=chat)
            request = ScoreRequest(item, self._session.adapter(adapter))
            return self._session.submit(request, ScoreReader())
        _check_texts(stop=stop)
        check_settings([sampling or Sampling()], max_new_tokens, stop)
        request = GenerateRequest(
            self._encoder.prompt(prompt, "prompt", chat=chat),
            max_new_tokens,
            sampling or Sampling(),
            seed,
            self._encoder.tokenizer_for(chat).stop_ids,
            adapter=self._session.adapter(adapter),
        )
        return self._session.submit(request, TextReader(self.tokenizer.text, stop))

    def start(
        self,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        rows: int = 16,
        max_length: int | None = None,
        max_loras: int = 4,
        max_lora_rank: int | None = None,
        shared_layers: int = 0,
        training_share: float = 0.1,
        on_progress: OnCompiled = lambda done, of: None,
    ) -> None:
        """Compiles the programs of :meth:`submit` and makes room for adapters; takes a while.

        Args:
            adapters: directories of LoRAs in PEFT's format, by the names that :meth:`submit` takes.
            rows: the most texts that are continued together.
            max_length: the most tokens of a prompt and what follows it; None for the model's
                positions, but at most 2048.
            max_loras: the most adapters on the device together; others take their turn.
            max_lora_rank: the largest rank of adapters that come later, from :meth:`train`; None if
                none do.
            shared_layers: the number of lowest layers whose cache the adapters share that leave
                these layers as they are: of a prompt that another of them has had, only the layers
                above are computed.
            training_share: the share of the time that :meth:`train` is sure of, however many
                requests there are, from 0 up to less than 1. It gets all that requests leave.
            on_progress: called with the number of programs that are compiled, and of all.

        Raises:
            zojax.InputError: an adapter is bad, a setting does not fit the model, or the runtime
                has started already.
        """
        self._session.start(
            adapters=adapters,
            rows=rows,
            max_length=max_length,
            max_loras=max_loras,
            max_lora_rank=max_lora_rank,
            shared_layers=shared_layers,
            training_share=training_share,
            on_progress=on_progress,
        )

    def train(self, config: Config, name: str) -> Job:
        """Trains a run beside the engine's requests, on the same weights; does not wait for it.

        A step is cut into its forward passes over ``train.micro_batches``, which take turns with
        what :meth:`submit` has asked for. What the run has learnt is there for requests after every
        ``train.chunk`` steps, as an adapter, and at the end the best step's. The run is one of
        ``zojax train`` with ``train.in_pieces=true``: its journal has the same scalars, whatever
        else the engine does, and ``zojax eval``, ``export`` and ``journal replay`` take it.

        Args:
            config: the run's configuration. Its model is the engine's, and what it trains stays
                beside the weights and fits into :meth:`start`'s ``max_lora_rank``:
                ``space.name=lora``, or ``space.name=linear`` with ``space.fold=none`` or
                ``adapter``.
            name: the job's name, by which :meth:`submit` asks for its adapter.

        Returns:
            The job: ``result()`` waits for the contents of ``result.json``, ``num_steps`` says how
            far it is, ``cancel()`` ends it. :meth:`close` cancels those that are not done.

        Raises:
            zojax.InputError: the engine has not been started, the name is taken, or the
                configuration is of another model or moves the weights. What is wrong with the data
                is what the job's ``result()`` raises.
        """
        return self._session.train(config, name)

    def close(self) -> None:
        """Answers what was submitted, and ends the runtime; a ``with`` statement does so, too."""
        self._session.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @functools.cached_property
    def _session(self) -> Session:
        return Session(self.model, self.pool)

    @property
    def _slot(self) -> int:
        return 1 if self.pool else 0

    def encode(
        self, prompt: str, candidates: Sequence[str], name: str, *, chat: bool | None = None
    ) -> Item:
        """Returns the tokens of a prompt and its candidates.

        Args:
            prompt: the text that is not scored; BOS, if the model has one, or what its chat
                template writes is put before it.
            candidates: the texts that may follow.
            name: what errors call the prompt.
            chat: as for :meth:`score`.

        Raises:
            zojax.InputError: as for :meth:`score`.
        """
        return self._encoder.item(prompt, candidates, name, chat=chat)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        positions = self.model.config.max_position_embeddings
        return Encoder(self.tokenizer, positions, self.chat, self.system)

    def score_items(self, items: Sequence[Item], batch_size: int = 16) -> list[list[np.ndarray]]:
        """Returns the log-probability of every token of every candidate.

        Args:
            items: the items to score, from :meth:`encode`.
            batch_size: the most items in one call of the device.

        Returns:
            For each item and each candidate an array ``(tokens,)`` float32, in nats.
        """
        return score_items(self._score, items, self.model, batch_size)

    def rank_items(
        self,
        items: Sequence[Item],
        batch_size: int = 16,
        *,
        on_progress: OnProgress = lambda done: None,
    ) -> list[Scores]:
        """Returns the same, and the model's first choice in the place of every token.

        Args:
            items: as for :meth:`score_items`.
            batch_size: as for :meth:`score_items`.
            on_progress: called after every call of the device with the number of items done.
        """
        return rank_items(self._rank, items, self.model, batch_size, 1, on_progress)

    def _score(self, pages: Pages) -> jax.Array:
        return self._in_slot(_score_pages, pages)

    def _rank(self, pages: Pages) -> Ranked:
        return self._in_slot(_rank_pages, pages, ranks=jnp.bool_(True), count=1)

    def _in_slot(self, program: Any, pages: Pages, **options: Any) -> Any:
        """Scores pages with a program under the engine's adapter."""
        slot_p = np.full_like(pages.slot_p, self._slot)
        pages = dataclasses.replace(pages, slot_p=slot_p)
        of_model = {"graphdef": self.model.graphdef}
        return program(self.model.weights, self.pool, pages, **options, **of_model)


def _check_texts(**lists: Sequence[str]) -> None:
    """Raises ``TypeError`` for a single text, whose characters would be taken for texts."""
    for name, texts in lists.items():
        if isinstance(texts, str):
            raise TypeError(f"{name} should be a list of texts, not one text")
