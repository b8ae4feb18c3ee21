"""The ``README.md`` of an export: its origin, its figures, and how to use it."""

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from zojax.config import Config, to_dict
from zojax.journal.file import SKIPPED, Journal, format_of
from zojax.tasks import Task
from zojax.tasks.dataset import get_sizes, get_task
from zojax.text import code, markdown, plain

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What a card describes.

    Attributes:
        config: the run's configuration.
        journal: the run's journal.
        step: the number of steps after which the model is exported.
        result: the run's known figures; they belong to the step in ``best_step``.
        details: facts about the export itself, by name.
    """

    config: Config
    journal: Journal
    step: int
    result: Mapping[str, Any]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def hf_card(exported: Exported, directory: Path) -> str:
    """The card of a directory for transformers."""
    load = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({str(directory)!r})
tokenizer = AutoTokenizer.from_pretrained({str(directory)!r})"""
    return _model_card(exported, "transformers", _usage(exported.config, load))


def peft_card(exported: Exported, directory: Path) -> str:
    """The card of a LoRA directory for PEFT."""
    base = exported.config.model.path
    load = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, {str(directory)!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({base!r})"""
    return _model_card(exported, "peft", _usage(exported.config, load))


def journal_card(exported: Exported, directory: Path) -> str:
    """The card of a journal, which together with the base model is the trained model."""
    base, best = exported.config.model.path, exported.result.get("best_step")
    steps = "" if best is None else f" --steps {plain(best)}"
    which = "" if best is None else f" after step {markdown(best)}, the best on the dev set,"
    named = shlex.quote(plain(directory))
    usage = f"""`journal.zj` and the base model {code(base)} are the trained model. This checks the
file and makes the model{which} without data and without a forward pass:

```
zojax journal verify {named}
zojax journal replay {named}{steps} --output MODEL
```

If the base model is in another place, name it with `--model DIR`; only exactly the same weights are
accepted. With the data, {code(f"zojax eval {named}")} evaluates the model again."""
    return "\n\n".join([f"# {_title(exported.config)}", usage, *_sections(exported)]) + "\n"


def _model_card(exported: Exported, library: str, usage: str) -> str:
    config = exported.config
    introduction = (
        f"{code(config.model.path)}, fine-tuned on {code(config.data.task)} for {exported.step} "
        f"steps with {markdown(config.estimator.name)}, a zeroth-order method that needs "
        "only inference (zojax)."
    )
    parts = [_front_matter(config, library), f"# {_title(config)}", introduction, usage]
    return "\n\n".join([*parts, *_sections(exported)]) + "\n"


def _title(config: Config) -> str:
    name = Path(config.model.path).name
    return markdown(f"{name}, {config.data.task}, {config.estimator.name}")


def _front_matter(config: Config, library: str) -> str:
    """YAML for the hub, which accepts only names of its own and no local directory."""
    base, data = config.model.path, get_task(config.data).hub
    fields = ModelCardData(
        library_name=library,
        pipeline_tag="text-generation",
        tags=["zojax", "zeroth-order", config.estimator.name],
        base_model=base if _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        datasets=[data[0]] if config.data.path is None and data is not None else None,
    )
    return f"---\n{fields.to_yaml()}\n---"


def _usage(config: Config, load: str) -> str:
    """Code that loads the model and uses it as the task does: to generate or to rank."""
    bos, task = config.model.bos_token_id, get_task(config.data)
    first = "tokenizer.bos_token_id" if bos is None else str(bos)
    how = _generating(task, first) if task.kind == "generation" else _ranking(task, first)
    return f"""## Use

```python
import torch
{load}


def ids(text):
    return tokenizer(text, add_special_tokens=False).input_ids


{how}
```"""


def _ranking(task: Task, first: str) -> str:
    """Code that scores as in training: the mean log-probability of a candidate's tokens."""
    candidates = list(task.candidates) or [" one", " another"]
    return f"""def mean_logprob(prompt, candidate):
    before, after = [{first}, *ids(prompt)], ids(candidate)
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1)[range(len(after)), after].mean().item()


prompt = "..."  # as the task {plain(task.name)} writes it
print({{c: mean_logprob(prompt, c) for c in {candidates!r}}})"""


def _generating(task: Task, first: str) -> str:
    """Code that decodes greedily up to the task's stop string, as in an evaluation."""
    return f"""def answer(prompt):
    before = torch.tensor([[{first}, *ids(prompt)]])
    mask = torch.ones_like(before)
    new = model.generate(
        input_ids=before, attention_mask=mask, max_new_tokens={task.max_new_tokens}, do_sample=False
    )[0, before.shape[1] :]
    text = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.split({task.stop!r})[0].strip()


prompt = "..."  # as the task {plain(task.name)} writes it
print(answer(prompt))"""


def _sections(exported: Exported) -> list[str]:
    config, journal = exported.config, exported.journal
    settings = {name: value for name, value in to_dict(config).items() if name != "run"}
    skipped = int((journal.records["flags"] & SKIPPED != 0).sum())
    header = journal.header
    facts = {
        "steps": f"{len(journal.records)} of {config.train.steps}, {skipped} skipped",
        "steps of this model": exported.step,
        "format": format_of(header),
        "base model's content hash": header.base_hash,
        "key": f"{header.key_impl} {' '.join(map(str, header.key_data))}",
        **{f"steps up to {one.steps} are of": one.run for one in header.segments},
        "made by": f"zojax {header.zojax or '?'}, jax {header.jax or '?'}",
    }
    task = get_task(config.data)
    sizes = get_sizes(config.data, task)
    data = {
        "task": config.data.task,
        "from": config.data.path or "/".join(filter(None, task.hub or ())),
        "training examples": f"up to {sizes.train}",
        "dev examples": sizes.dev,
        "held-out examples": f"up to {sizes.eval}",
    }
    sections = [f"## Data\n\n{_table(data)}", f"## Results\n\n{_results(exported)}"]
    if exported.details:
        sections.append(f"## Export\n\n{_table(exported.details)}")
    return [
        *sections,
        f"## Settings\n\n```json\n{json.dumps(settings, indent=2)}\n```",
        f"## Journal\n\n{_table(facts)}",
    ]


def _results(exported: Exported) -> str:
    if not exported.result:
        return "There are no figures for this model."
    best = exported.result.get("best_step")
    note = f"These are the figures of the run and of its best step, {markdown(best)}"
    if best is not None and best != exported.step:
        note += f"; this model is the one after step {exported.step}"
    return f"{note}.\n\n{_table(exported.result)}"


def _table(rows: Mapping[str, Any]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{markdown(name)}: {cell(of)}" for name, of in value.items())
        return f"{value:.6g}" if isinstance(value, float) else markdown(value)

    lines = [f"| {markdown(name)} | {cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
