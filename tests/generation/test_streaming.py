"""Text that comes bit by bit is the text as a whole, cut at the first stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

import zojax
from zojax.generation.streaming import Detokenizer, StopStrings
from zojax.hub import load_tokenizer

TOKENIZER = load_tokenizer(str(zojax.demo.MODEL), None)


def by_bits(ids, before=()):
    detokenizer = Detokenizer(TOKENIZER.text, before)
    return [*(detokenizer.push(one) for one in ids), detokenizer.end()]


@given(st.lists(st.integers(0, 1023), max_size=40), st.integers(0, 40))
def test_bits_of_any_tokens_are_the_text_of_all(ids, split):
    assert "".join(by_bits(ids)) == TOKENIZER.text(ids)
    before, after = ids[:split], ids[split:]
    text, bits = TOKENIZER.text(ids), "".join(by_bits(after, before))
    assert text.endswith(bits)
    least, most = TOKENIZER.text(before).rstrip("\N{REPLACEMENT CHARACTER}"), TOKENIZER.text(before)
    assert len(least) <= len(text) - len(bits) <= len(most)  # what was before is not told again


@given(st.text(max_size=30))
def test_no_bit_of_a_text_has_a_part_of_a_character(text):
    bits = by_bits(TOKENIZER.ids(text))
    assert "".join(bits) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(bits)


def by_fallback(ids):
    """Decodes bytes as tokenizers with byte fallback do: of a broken run, each byte is broken."""
    try:
        return bytes(ids).decode()
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" * len(ids)


CHARACTERS = st.characters(
    min_codepoint=0x80, max_codepoint=0x1FFFF, exclude_characters="\N{REPLACEMENT CHARACTER}"
)


@given(st.text(CHARACTERS, max_size=12))
def test_bytes_of_a_tokenizer_with_byte_fallback_become_whole_characters(text):
    try:
        ids = list(text.encode())
    except UnicodeEncodeError:  # half a pair
        return
    detokenizer = Detokenizer(by_fallback)
    bits = [detokenizer.push(one) for one in ids]
    assert "".join(bits) == text
    assert [bit for bit in bits if bit] == list(text)


FALLBACK = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])


def by_byte_tokens(ids):
    return FALLBACK.decode([f"<0x{id_:02X}>" if id_ < 256 else "x" for id_ in ids])


@given(
    st.text(st.sampled_from("é€👍"), max_size=8),
    st.text(st.sampled_from("é€👍"), max_size=4),
    st.integers(0, 3),
)
def test_a_prompt_of_byte_tokens_does_not_leak_into_what_follows(before, after, part):
    ids = [*(before + after).encode(), 256]
    split = len(before.encode()) + min(part, max(0, len(after[:1].encode()) - 1))
    detokenizer = Detokenizer(by_byte_tokens, ids[:split])
    assert "".join(detokenizer.push(id_) for id_ in ids[split:]) == f"{after}x"


@given(
    st.text("abc", max_size=20),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.booleans(),
    st.data(),
)
def test_a_text_is_cut_where_its_first_stop_string_is_complete(text, stops, shows, data):
    ends = {at + len(s): at for s in stops for at in range(len(text)) if text.startswith(s, at)}
    first = min(ends, default=None)  # of all that end there, the longest begins first
    begins = [
        at
        for s in stops
        for at in range(len(text))
        if text.startswith(s, at) and at + len(s) == first
    ]
    expected = text if first is None else text[: first if shows else min(begins)]
    finder, found, is_end = StopStrings(stops, shows=shows), "", False
    for character in text:
        part = finder.push(character)
        found += part.text
        assert expected.startswith(found)
        if part.is_end:
            is_end = True
            break
    found += "" if is_end else finder.end()
    assert (found, is_end) == (expected, first is not None)


def test_text_is_held_back_only_while_it_may_be_a_stop_string():
    finder = StopStrings(["\n\nQ:"])
    parts = [finder.push(text).text for text in ("one", "\n", "\n", "two", "\n\nQ", ":")]
    assert parts == ["one", "", "", "\n\ntwo", "", ""]


@pytest.mark.parametrize("stop", ["é", "👍"])
def test_a_stop_string_may_be_a_character_of_several_tokens(stop):
    finder, ids = StopStrings([stop]), TOKENIZER.ids(f"yes{stop}no")
    found = [finder.push(bit) for bit in by_bits(ids)]
    at = next(i for i, part in enumerate(found) if part.is_end)
    assert "".join(part.text for part in found[: at + 1]) == "yes"
