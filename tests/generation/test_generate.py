"""Greedy decoding against transformers' ``generate``; rows against themselves in other batches."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from zojax.adapters import stack_variants
from zojax.adapters.lora import load_lora
from zojax.errors import InputError
from zojax.generation import Sampling, generate, generate_tokens, pack_prompts, rows
from zojax.generation.prompts import UNUSED
from zojax.models import Model
from zojax.programs.compiling import CompilationCounter
from zojax.scoring import repeat_for_slots

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


MAX_NEW = 20
GENERATE_TOKENS = jax.jit(generate_tokens, static_argnames=("graphdef", "max_new_tokens"))
KEY = jax.random.key(0)


def random_prompts(lengths=(1, 3, 17, 28, 9, 24), seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 97, length).astype(np.int32) for length in lengths]


PROMPTS = random_prompts()


def their_model(model: Model) -> Any:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None
    return theirs.eval()


def their_tokens(theirs, prompts, max_new_tokens=MAX_NEW, **options) -> list[list[int]]:
    """What ``generate`` adds to each prompt alone, greedily."""
    return [
        theirs.generate(
            input_ids=torch.tensor(prompt[None], dtype=torch.int64),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=1,
            **options,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


def our_tokens(model: Model, prompts, pool=None, max_new_tokens=MAX_NEW, stop_ids=(UNUSED, UNUSED)):
    """``new_pm`` of a batch, as lists without what is unused."""
    new_pm = GENERATE_TOKENS(
        model.weights,
        pool or {},
        prompts,
        KEY,
        graphdef=model.graphdef,
        max_new_tokens=max_new_tokens,
        stop_ids=np.array(stop_ids),  # always two, for one program
    )
    return [[t for t in row if t != UNUSED] for row in np.asarray(new_pm).tolist()]


def letters(ids: list[int]) -> str:
    """A text of one character a token."""
    return "".join(chr(ord("!") + i) for i in ids)


@pytest.fixture(scope="session")
def references(rough_models) -> dict[str, list[list[int]]]:
    """Transformers' greedy continuations of :data:`PROMPTS`, by the model's path."""
    found = {m.path: their_tokens(their_model(m), PROMPTS) for m in rough_models.values()}
    for texts in found.values():
        assert all(len(set(row)) > 3 for row in texts), "constant texts say little"
    return found


# --- Greedy


def test_greedy_tokens_are_those_of_transformers(rough_model, references):
    ours = our_tokens(rough_model, pack_prompts(PROMPTS, MAX_NEW, num_rows=8))
    assert ours == [*references[rough_model.path], [], []]


def test_rows_under_an_adapter_go_on_as_pefts_and_those_beside_as_the_base(
    rough_model, references, tmp_path
):
    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(their_model(rough_model), settings).eval()
    adapted.save_pretrained(str(tmp_path))
    expected = their_tokens(adapted, PROMPTS)
    base = references[rough_model.path]
    assert all(a != b for a, b in zip(expected, base, strict=True)), "the adapter must matter"
    pool = stack_variants([load_lora(tmp_path, rough_model)])
    packed = pack_prompts(PROMPTS, MAX_NEW, num_rows=8)
    once = repeat_for_slots(packed, first_slot=0, num_slots=2)
    ours = our_tokens(rough_model, once, pool)
    assert ours[::2] == [*base, [], []]
    assert ours[1::2] == [*expected, [], []]


def test_a_prefix_is_seen_at_every_step(rough_model):
    config, rng, length = rough_model.config, np.random.default_rng(5), 3
    shape = (config.num_hidden_layers, length, config.hidden_size)
    k, v = rng.standard_normal((2, *shape)).astype(np.float32)
    on = np.ones(config.num_hidden_layers, np.float32)
    pool = stack_variants([{"layers": {"self_attn": {"prefix": {"k": k, "v": v, "on": on}}}}])
    packed = pack_prompts(PROMPTS[:3], 8, slots=[1, 0, 1])
    ours = our_tokens(rough_model, packed, pool, max_new_tokens=8)
    theirs = their_model(rough_model)

    def their_next(tokens: list[int], with_prefix: bool) -> int:
        cache = transformers.DynamicCache()
        for layer in range(config.num_hidden_layers if with_prefix else 0):
            heads = (
                torch.tensor(x[layer]).reshape(1, length, config.num_attention_heads, -1)
                for x in (k, v)
            )
            cache.update(*(x.transpose(1, 2) for x in heads), layer)
        with torch.no_grad():
            logits = theirs(
                torch.tensor([tokens]),
                past_key_values=cache,
                position_ids=torch.arange(len(tokens))[None],
            ).logits
        return int(logits[0, -1].argmax())

    for prompt, slot, new in zip(PROMPTS, (1, 0, 1), ours, strict=False):
        tokens = prompt.tolist()
        for _ in range(8):
            tokens.append(their_next(tokens, slot == 1))
        assert new == tokens[len(prompt) :]


def test_a_sequence_may_be_as_long_as_the_model_has_positions(rough_model):
    positions = rough_model.config.max_position_embeddings
    prompts = random_prompts([positions - 8, 33])
    expected = their_tokens(their_model(rough_model), prompts, max_new_tokens=8)
    found = generate(rough_model, prompts, letters, max_new_tokens=8)
    assert [g.tokens for g in found] == expected


# --- Ends


def test_a_row_ends_at_its_stop_token_as_in_transformers(rough_models, references):
    model = rough_models["pre-LN"]
    stop = references[model.path][2][4]
    theirs = their_tokens(their_model(model), PROMPTS, eos_token_id=stop)
    assert len({len(row) for row in theirs}) > 1, "rows must end at different places"
    packed = pack_prompts(PROMPTS, MAX_NEW, num_rows=8)
    assert our_tokens(model, packed, stop_ids=(1, stop)) == [*theirs, [], []]
    for generation, tokens in zip(
        generate(model, PROMPTS, letters, max_new_tokens=MAX_NEW, stop_ids=(stop,)),
        theirs,
        strict=True,
    ):
        assert generation.tokens == tokens
        assert generation.text == letters(tokens)
        assert generation.finish_reason == ("stop" if tokens[-1] == stop else "length")


@pytest.mark.parametrize("chunk", [1, 7])
def test_texts_are_cut_at_the_first_stop_string(chunk, rough_models, references):
    model = rough_models["pre-LN"]
    whole = [letters(row) for row in references[model.path]]
    stops = [whole[0][5:7], whole[3][11:14]]
    seen: list[int] = []
    found = generate(
        model,
        PROMPTS,
        letters,
        max_new_tokens=MAX_NEW,
        stop_strings=stops,
        chunk=chunk,
        on_progress=seen.append,
    )
    for generation, text in zip(found, whole, strict=True):
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        end, cut = min(ends, default=(len(text), len(text)))
        assert generation.text == text[:cut]
        assert letters(generation.tokens) == text[:end]
        assert generation.finish_reason == ("stop" if ends else "length")
    assert {generation.finish_reason for generation in found} == {"stop", "length"}
    assert seen == sorted(seen)
    assert seen[-1] == len(PROMPTS)


@pytest.mark.parametrize("chunk", [1, 1_000_000])  # on the host, and on the device
def test_decoding_ends_where_all_rows_have_ended(chunk, rough_models, references):
    model = rough_models["pre-LN"]
    row = references[model.path][3]
    count = next(n for n in range(2, MAX_NEW) if row[n - 1] not in row[: n - 1])
    seen: list[int] = []
    found = generate(
        model,
        [PROMPTS[3]] * 5,
        letters,
        max_new_tokens=MAX_NEW,
        stop_ids=[row[count - 1]],
        chunk=chunk,
        on_progress=seen.append,
    )
    assert [generation.tokens for generation in found] == [row[:count]] * 5
    looks = count if chunk == 1 else 2  # the first is at the token that comes with the prompt
    assert seen == [0] * (looks - 1) + [5]


def test_rows_may_have_limits_of_their_own(rough_models, references):
    model = rough_models["pre-LN"]
    packed = pack_prompts(PROMPTS, MAX_NEW, num_rows=8)
    limits = np.array([3, 0, 20, 1, 50, 7, 0, 0], np.int32)
    ours = our_tokens(model, dataclasses.replace(packed, limit_p=limits))
    expected = [row[:n] for row, n in zip([*references[model.path], [], []], limits, strict=True)]
    assert ours == expected


# --- Samples


def test_a_row_draws_the_same_alone_as_in_any_batch(rough_models):
    model = rough_models["pre-LN"]
    options: dict[str, Any] = {"sampling": Sampling(1.0, 20, 0.9)}
    prompts = random_prompts([17, 20, 18, 23])  # padded to one length, and so to the same bits
    together = our_tokens(model, pack_prompts(prompts, MAX_NEW, **options))
    for i, prompt in enumerate(prompts):
        alone = pack_prompts([prompt], MAX_NEW, requests=[i], **options)
        assert our_tokens(model, alone) == [together[i]]
    [other] = our_tokens(model, pack_prompts(prompts[:1], MAX_NEW, requests=[9], **options))
    assert other != together[0], "another number must draw otherwise"


def test_samples_do_not_depend_on_the_batch_size_and_repeat_with_the_key(rough_models):
    model, prompts = rough_models["pre-LN"], random_prompts([17, 20, 18, 23])
    sampled = functools.partial(
        generate, model, prompts, letters, max_new_tokens=5, sampling=Sampling(0.8)
    )
    first = sampled(key=jax.random.key(1))
    assert sampled(key=jax.random.key(1), batch_size=2) == first
    assert sampled(key=jax.random.key(2)) != first


# --- What it costs, and what it refuses


def test_no_program_is_compiled_for_a_setting_or_a_limit_within_one_padded_length(rough_models):
    model = rough_models["as 350M"]
    prompts = random_prompts(np.random.default_rng(0).permutation(np.arange(1, 31)))
    generate(model, prompts, letters, max_new_tokens=9, batch_size=4, chunk=3)
    with CompilationCounter() as compilations:
        for limit, sampling, stop_ids in [
            (8, Sampling(0.7), ()),
            (18, Sampling(1.0, 5), (7,)),
            (4, Sampling(1.0, 0, 0.5), (7, 8)),
            (5, [Sampling(1.0, 3 * (i % 2)) for i in range(30)], ()),
        ]:
            options = {"max_new_tokens": limit, "sampling": sampling, "stop_ids": stop_ids}
            generate(model, prompts, letters, batch_size=4, **options)
    assert compilations.count == 0
    with CompilationCounter() as compilations:
        generate(model, prompts[:8], letters, max_new_tokens=9, batch_size=2)
    assert compilations.count > 0, "rows of another number need programs of their own"


def test_rows_that_have_ended_are_used_again_while_a_long_text_goes_on(rough_models, references):
    model = rough_models["pre-LN"]
    expected = references[model.path]
    batch = rows.Rows(model, {}, KEY, num_rows=2, length=28 + MAX_NEW)
    limits = (MAX_NEW, 3, 5, 2, 6, 1)
    waiting = [rows.Request(p, i, n) for i, (p, n) in enumerate(zip(PROMPTS, limits, strict=True))]
    waiting[1:] = sorted(waiting[1:], key=lambda request: -len(request.tokens))
    found, looks = {}, 0
    while waiting or any(batch.requests):
        if waiting and not batch.is_full:
            del waiting[: batch.insert(waiting)]
        else:
            batch.advance(1)
            looks += 1
        ended = [one for one in batch.progress() if one[3]]
        found |= {request.number: tokens for _, request, tokens, _ in ended}
        batch.remove([row for row, *_ in ended])
    assert found == {i: expected[i][:n] for i, n in enumerate(limits)}
    assert looks == MAX_NEW - 1, "the long text took a step for each token but its first"


@pytest.mark.parametrize(
    ("prompts", "options", "reason"),
    [
        ([[2], []], {}, "prompt 2: has no token"),
        ([[2] * 45], {}, "prompt 1: has 45 tokens and 4 new ones are wanted, but the model has 48"),
        ([[2]], {"sampling": Sampling(-1.0)}, "temperature=-1.0: "),
        ([[2]], {"sampling": Sampling(1.0, -3)}, "top_k=-3: "),
        ([[2]], {"sampling": Sampling(1.0, 0, 0.0)}, "top_p=0.0: "),
        ([[2]], {"sampling": Sampling(1.0, min_p=1.5)}, "min_p=1.5: "),
        ([[2]], {"max_new_tokens": 0}, "max_new_tokens=0: "),
        ([[2]], {"stop_strings": [""]}, "a stop string is empty"),
    ],
)
def test_what_cannot_be_generated_is_refused(prompts, options, reason, rough_models):
    prompts = [np.array(prompt, np.int32) for prompt in prompts]
    with pytest.raises(InputError) as caught:
        generate(rough_models["pre-LN"], prompts, letters, **{"max_new_tokens": 4, **options})
    assert str(caught.value).startswith(reason)


def test_nothing_is_generated_from_no_prompt(rough_models):
    assert generate(rough_models["pre-LN"], [], letters, max_new_tokens=4) == []
