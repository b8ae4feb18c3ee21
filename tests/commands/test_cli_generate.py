"""``zojax generate``: what transformers generates, on the screen, as JSON and in a file."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zojax.commands.prompts import read_prompts
from zojax.demo import MODEL
from zojax.errors import InputError

PROMPTS = ("a gripping film", "the plot is", "")
MAX_NEW = 12


@pytest.fixture
def generate(run):
    def generate(*options: object, prompts=PROMPTS):
        chosen = [part for prompt in prompts for part in ("--prompt", prompt)]
        return run("generate", "--model", MODEL, *chosen, *options)

    return generate


def rows(outcome) -> list[dict]:
    code, out, err = outcome
    assert (code, err) == (0, "")
    return json.loads(out)["generations"]


@pytest.fixture(scope="session")
def reference() -> list[list[int]]:
    """Greedy tokens of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(
            input_ids=ids, do_sample=False, max_new_tokens=MAX_NEW, eos_token_id=2, pad_token_id=1
        )
        found.append(new[0, ids.shape[1] :].tolist())
    return found


def test_texts_are_those_of_transformers_whatever_the_batch(generate, reference):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for batch_size in (16, 1):
        options = ("--json", "--max-new-tokens", MAX_NEW, "--batch-size", batch_size)
        found = rows(generate(*options))
        assert [row["prompt"] for row in found] == list(PROMPTS)
        assert [row["tokens"] for row in found] == reference
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in reference]
        assert [row["text"] for row in found] == texts
        reasons = ["stop" if tokens[-1] == 2 else "length" for tokens in reference]
        assert [row["finish_reason"] for row in found] == reasons


def test_prompts_start_with_the_token_that_is_wanted(generate, refusal):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    found = rows(generate("--bos-token-id", 0, "--max-new-tokens", MAX_NEW, "--json"))
    for row in found:
        ids = [0, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]
        new = model.generate(
            input_ids=torch.tensor([ids]),
            do_sample=False,
            max_new_tokens=MAX_NEW,
            eos_token_id=2,
            pad_token_id=1,
        )
        assert row["tokens"] == new[0, len(ids) :].tolist()
    assert found != rows(generate("--max-new-tokens", MAX_NEW, "--json"))
    line = refusal(generate("--bos-token-id", 9999))
    assert line.endswith("--set model.bos_token_id=ID (of generate: --bos-token-id ID)")


def test_a_run_goes_on_from_prompts_as_it_did_at_a_step(run, trained, tiny_model, refusal):
    options = ("--prompt", PROMPTS[0], "--max-new-tokens", MAX_NEW, "--json")
    base = rows(run("generate", "--model", tiny_model, *options))
    assert rows(run("generate", trained, "--step", 0, *options)) == base
    line = refusal(run("generate", trained, "--step", 5, *options))
    assert line == f"{trained}/journal.zj: holds 4 steps, not 5"


def test_the_screen_shows_each_text_behind_its_prompt_and_how_it_ended(generate, reference):
    options = ("--max-new-tokens", MAX_NEW, "--stop", "film")
    found = rows(generate(*options, "--json"))
    code, out, err = generate(*options)
    assert (code, err) == (0, "")
    for row in found:
        assert "film" not in row["text"]
        assert row["prompt"] + row["text"] + "\n" in out
        assert f", {row['finish_reason']}\n" in out
    assert out.splitlines()[-1].startswith(f"{len(PROMPTS)} texts, ")


def test_samples_differ_among_themselves_and_repeat_with_their_seed(generate):
    options = ("--temperature", 1, "--num-samples", 3, "--max-new-tokens", MAX_NEW, "--json")
    first = rows(generate(*options, prompts=PROMPTS[:1]))
    assert [row["sample"] for row in first] == [0, 1, 2]
    assert len({row["text"] for row in first}) == 3
    assert rows(generate(*options, prompts=PROMPTS[:1])) == first
    assert rows(generate(*options, "--seed", 1, prompts=PROMPTS[:1])) != first


def test_prompts_come_from_files_and_texts_go_to_one(generate, tmp_path):
    lines, records, output = (tmp_path / name for name in ("a.txt", "a.jsonl", "out.jsonl"))
    lines.write_text(f"{PROMPTS[0]}\n\n{PROMPTS[1]}\n")
    records.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS[:2]))
    size = ("--max-new-tokens", MAX_NEW)
    expected = rows(generate(*size, "--json", prompts=PROMPTS[:2]))
    for file in (lines, records):
        code, out, _ = generate(*size, "--prompts", file, "--output", output, prompts=())
        assert code == 0
        assert out.startswith(f"{output}: 2 texts, ")
        assert [json.loads(line) for line in output.read_text().splitlines()] == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "generate: give RUN, or --model M"),
        (["run", "--model", "m", "--prompt", "x"], "generate: give RUN, or --model M"),
        (["run", "--adapter", "a"], "generate: --adapter, --dtype and --bos-token-id go with"),
        (["run", "--bos-token-id", "0"], "generate: --adapter, --dtype and --bos-token-id go with"),
        (["--model", "m", "--step", "2"], "generate: --step goes with RUN"),
        (["--model", "m"], "no prompt; give --prompt TEXT or --prompts FILE"),
        (["--model", "m", "--prompts", "none.txt"], "none.txt: cannot be read (No such file"),
        (["--model", "m", "--prompts", "p.json"], "p.json: unknown format; give a .txt with"),
        (["--model", "m", "--output", "none/out"], "--output none/out: there is no directory none"),
    ],
)
def test_generate_says_which_arguments_go_together(options, reason, run, refusal):
    assert refusal(run("generate", *options)).startswith(reason)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--num-samples", "2"], "--num-samples 2: all samples would be the same text; give"),
        (["--num-samples", "0"], "--num-samples 0: give 1 or more"),
        (["--num-samples", "9" * 30, "--temperature", "1"], "--num-samples 999999999999999999"),
        (["--seed", "9" * 30], "--seed 999999999999999999999999999999: give 0 or more"),
        (["--top-k", "9" * 30], "top_k=999999999999999999999999999999: give 0"),
        (["--temperature", "nan"], "temperature=nan: give 0"),
        (["--temperature", "inf"], "temperature=inf: give 0"),
        (["--top-p", "nan"], "top_p=nan: give more than 0"),
        (["--top-p", "1.5"], "top_p=1.5: give more than 0"),
        (["--max-new-tokens", "64"], "--prompt 1: has "),
    ],
)
def test_generate_refuses_what_cannot_be(options, reason, generate, refusal):
    assert refusal(generate(*options)).startswith(reason)


def test_a_prompt_that_is_no_text_is_named_by_its_line(generate, tmp_path, refusal):
    file = tmp_path / "prompts.txt"
    for line, reason in ((b"x" * 2_000_000, "is longer than"), (b"caf\xe9", "is not UTF-8")):
        file.write_bytes(b"a film\n" + line)
        assert refusal(generate("--prompts", file, prompts=())).startswith(f"{file}:2: {reason}")


def test_prompts_come_through_a_pipe(tmp_path):
    os.mkfifo(fifo := tmp_path / "prompts.txt")
    readable, writable = os.pipe()
    for file, write in ((fifo, fifo.write_text), (Path(f"/dev/fd/{readable}"), None)):
        if write is None:
            os.write(writable, b"a film\n\nanother")
            os.close(writable)
        else:
            threading.Thread(target=write, args=["a film\n\nanother"], daemon=True).start()
        assert read_prompts([], file) == [(f"{file}:1", "a film"), (f"{file}:3", "another")]
    os.close(readable)


def test_prompts_come_from_standard_input(tmp_path):
    code = "from zojax.commands.prompts import *; print(read_prompts([], Path('/dev/stdin')))"
    file = tmp_path / "any"
    file.write_text("a film")
    with file.open() as opened:
        for given in ({"input": "a film"}, {"stdin": opened}):
            command = [sys.executable, "-c", code]
            told = subprocess.run(command, capture_output=True, text=True, check=True, **given)
            assert told.stdout == "[('/dev/stdin:1', 'a film')]\n"


def test_a_pipe_that_does_not_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("zojax.commands.prompts._MOST_PIPED", 100)
    os.mkfifo(fifo := tmp_path / "prompts")
    threading.Thread(target=fifo.write_text, args=["a film\n" * 20], daemon=True).start()
    with pytest.raises(InputError, match="prompts: has more than 100 bytes"):
        read_prompts([], fifo)
    (endless := tmp_path / "endless.txt").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is not a regular file"):
        read_prompts([], endless)


def test_a_record_without_a_prompt_is_named(generate, tmp_path, refusal):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    line = refusal(generate("--prompts", file, prompts=()))
    assert line == f"{file}:2: has no text in a field 'prompt'"
