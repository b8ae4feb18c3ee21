"""Notes on texts that a model reads otherwise than their author may expect."""

import re
from collections.abc import Sequence

from zojax.errors import first_few
from zojax.hub.tokenizer import Tokenizer
from zojax.tasks.example import Example

BLANKS = (" ", "\t")


def odd_texts(
    tokenizer: Tokenizer, examples: Sequence[Example], *, own_prompt: bool
) -> tuple[str, ...]:
    """Notes on special tokens within texts, and on blanks at the end of prompts.

    Args:
        tokenizer: the model's tokenizer.
        examples: all examples.
        own_prompt: whether the prompt's template is the user's, who may change it.
    """
    notes = _special(tokenizer.special, examples)
    if own_prompt and (count := sum(map(_ends_in_blank, examples))):
        end = "ends" if count == 1 else "end"
        notes += (
            f"{count:,} of {len(examples):,} prompts {end} in a blank, which most models expect at "
            "the beginning of the next word: move it to the candidates",
        )
    return notes


def truncated(
    num_examples: int, num_truncated: int, *, max_length: int, max_positions: int
) -> tuple[str, ...]:
    """The note on examples that are longer than a model may read, or than the settings allow.

    >>> truncated(90, 0, max_length=64, max_positions=128)
    ()
    >>> [note] = truncated(90, 7, max_length=64, max_positions=128)
    >>> note
    '7 of 90 examples have more than 64 tokens (data.max_length), and lose the first ones'
    """
    if not num_truncated:
        return ()
    whose = "data.max_length" if max_length < max_positions else "the model's positions"
    have, lose = ("has", "loses") if num_truncated == 1 else ("have", "lose")
    return (
        f"{num_truncated:,} of {num_examples:,} examples {have} more than "
        f"{min(max_length, max_positions):,} tokens ({whose}), and {lose} the first ones",
    )


def _special(tokens: Sequence[str], examples: Sequence[Example]) -> tuple[str, ...]:
    if not tokens:
        return ()
    search = re.compile("|".join(map(re.escape, tokens))).search
    found = [match for match in (search("\n".join(_texts(e))) for e in examples) if match]
    if not found:
        return ()
    which = first_few(dict.fromkeys(repr(match[0]) for match in found), 3)
    contain = "contains" if len(found) == 1 else "contain"
    return (
        f"{len(found):,} of {len(examples):,} examples {contain} "
        f"the model's special tokens ({which}), which it reads as such and not as letters",
    )


def _texts(example: Example) -> tuple[str, ...]:
    """The prompt and the right candidate; the others are mostly the same in all examples."""
    return (example.prompt, *example.candidates[example.label : example.label + 1])


def _ends_in_blank(example: Example) -> bool:
    follows = example.candidates[example.label : example.label + 1]
    return example.prompt.endswith(BLANKS) and not any(text[:1].isspace() for text in follows)
