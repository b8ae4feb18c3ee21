"""The code in a card that uses the exported model as the run did, with transformers alone."""

from collections.abc import Mapping
from pathlib import Path

from zojax.config import Config
from zojax.errors import InputError
from zojax.hub.gguf_file import is_gguf
from zojax.models.precision import precision_of
from zojax.tasks import Task
from zojax.tasks.calibrate import OF_DEV_SET
from zojax.tasks.custom import parse_template
from zojax.tasks.dataset import get_task
from zojax.text import plain

Offsets = Mapping[str, float]
"""What is subtracted from each candidate's score before they are compared."""


def hf_usage(config: Config, directory: Path, dtype: str, offsets: Offsets | None = None) -> str:
    """Code for a directory of transformers.

    Args:
        config: the run's configuration.
        directory: the directory.
        dtype: the dtype of its weights.
        offsets: those of the dev set, if they are known.
    """
    load = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({str(directory)!r}, dtype=torch.{_dtype(dtype)})
model.eval()
tokenizer = AutoTokenizer.from_pretrained({str(directory)!r})"""
    return _usage(config, load, offsets)


def peft_usage(config: Config, directory: Path, offsets: Offsets | None = None) -> str:
    """Code for a directory of PEFT, on the run's base model."""
    place, dtype = _place(config.model.path), _dtype(config.model.dtype)
    load = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({place}, dtype=torch.{dtype})
model = PeftModel.from_pretrained(base, {str(directory)!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({place})"""
    return _usage(config, load, offsets)


def _place(base: str) -> str:
    """The arguments with which transformers finds a model."""
    path = Path(base)
    return f"{str(path.parent)!r}, gguf_file={path.name!r}" if is_gguf(path) else repr(base)


def _dtype(name: str) -> str:
    """The dtype that PyTorch computes in; an int8 model's products are in bfloat16."""
    return precision_of(name).dtype.name


def _usage(config: Config, load: str, offsets: Offsets | None) -> str:
    """Code that loads the model and uses it as the task does: to generate or to rank."""
    task, start = get_task(config.data), _start(config)
    how = _generating(task) if task.has_free_answers else _ranking(config, task, offsets)
    return f"""## Use

```python
import torch
{load}
max_length = min({config.data.max_length}, model.config.max_position_embeddings)


def ids(text):
    return tokenizer(text, add_special_tokens=False).input_ids


def fitted(prompt, room):
    \"\"\"A prompt's tokens, with room for others behind them.\"\"\"
    start = {start}
    excess = len(start) + len(prompt) + room - max_length
{_fitting(config)}
    return start + prompt[max(0, excess) :]


{how.format(prompt=_prompt(config, task))}
```"""


def _start(config: Config) -> str:
    """Code for the tokens before a prompt: BOS, if the run's prompts start with one."""
    if config.data.chat:
        return "[]  # the chat template writes BOS, if there is one"
    bos = config.model.bos_token_id
    return "tokenizer('').input_ids[:1]  # BOS, if it has one" if bos is None else f"[{bos}]"


def _fitting(config: Config) -> str:
    """What the run does with a text that is too long."""
    if config.data.truncate == "left" and not config.data.chat:  # a template must stay whole
        return "    # The run drops the first tokens of a longer text (data.truncate=left)."
    return """    if excess > 0:
        raise ValueError(f"{excess} tokens too long for this model")"""


_RANKING = """def mean_logprobs(prompt, candidates):
    before, after = ids(prompt), []
    for candidate in candidates:  # tokenised with the prompt, unless a token crosses the border
        whole, size = ids(prompt + candidate), len(before)
        after.append(whole[size:] if whole[:size] == before else ids(candidate))
    before, logprobs = fitted(before, max(map(len, after))), {{}}
    for candidate, tokens in zip(candidates, after):
        with torch.no_grad():
            logits = model(torch.tensor([before + tokens])).logits[0, len(before) - 1 : -1]
        each = logits.float().log_softmax(-1)[range(len(tokens)), tokens]
        logprobs[candidate] = each.mean().item()
    return logprobs


{prompt}
"""

_USUAL_NEW = "50"

_GENERATING = """def answer(prompt):
    before = torch.tensor([fitted(ids(prompt), NEW)])
    mask = torch.ones_like(before)
    new = model.generate(
        input_ids=before, attention_mask=mask, max_new_tokens=NEW, do_sample=False
    )[0, before.shape[1] :]
    text = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return UP_TO_ITS_END


{prompt}
print(answer(prompt))"""


def _ranking(config: Config, task: Task, offsets: Offsets | None) -> str:
    """Code that scores as in training: the mean log-probability of a candidate's tokens."""
    candidates = list(task.candidates) or [" one", " another"]
    if config.data.chat:
        candidates = [text.strip() for text in candidates]
    scores = f"mean_logprobs(prompt, {candidates!r})"
    if config.data.calibration not in OF_DEV_SET:
        lines = [f"print({scores})"]
    elif offsets is None or list(offsets) != list(task.candidates):
        lines = [
            f"print({scores})",
            f"# data.calibration={config.data.calibration} subtracts offsets, which are not known.",
        ]
    else:
        named = dict(zip(candidates, offsets.values(), strict=True))
        lines = [
            f"scores = {scores}",
            f"offsets = {named!r}  # of the dev set: data.calibration={config.data.calibration}",
            "print({text: score - offsets[text] for text, score in scores.items()})",
        ]
    return _RANKING + _literal("\n".join(lines))


def _generating(task: Task) -> str:
    """Code that decodes greedily: up to the task's stop string, as in an evaluation, if any is."""
    if task.kind == "completion":
        return _GENERATING.replace("NEW", _USUAL_NEW).replace("UP_TO_ITS_END", "text")
    end = f"text.split({_literal(repr(task.stop))})[0].strip()"
    return _GENERATING.replace("NEW", str(task.max_new_tokens)).replace("UP_TO_ITS_END", end)


def _literal(text: str) -> str:
    """A text that ``str.format`` leaves as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def _prompt(config: Config, task: Task) -> str:
    """Code that writes a prompt, and makes a chat of it if those of the run are."""
    text = _prompt_text(config, task)
    if not config.data.chat:
        return text
    system = config.data.system
    first = "" if system is None else f"{{'role': 'system', 'content': {system!r}}}, "
    return f"""{text}
turns = [{first}{{"role": "user", "content": prompt}}]
prompt = tokenizer.apply_chat_template(  # as in the run: without thoughts, on the same day
    turns,
    tokenize=False,
    add_generation_prompt=True,
    enable_thinking=False,
    date_string="26 Jul 2024",
)"""


def _prompt_text(config: Config, task: Task) -> str:
    """Code that writes a prompt's text: by the template, if it is one of the user's own."""
    if config.data.prompt is not None:
        try:
            fields = parse_template(config.data.prompt).fields
        except InputError:
            fields = ()
        if fields and not any(set(name) & set(".[]:!") or name.isdecimal() for name in fields):
            row = dict.fromkeys(fields, "...")
            return f"row = {row!r}\nprompt = {config.data.prompt!r}.format_map(row).lstrip()"
    return f'prompt = "..."  # as the task {plain(task.name)} writes it'
