"""The ``README.md`` of an export: its origin, its figures, and how to use it."""

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from zojax.config import Config, ModelConfig, to_dict
from zojax.errors import InputError
from zojax.exports.snippet import hf_usage, peft_usage
from zojax.journal.file import SKIPPED, Journal, format_of
from zojax.journal.replay import changed_data
from zojax.models.precision import is_quantised
from zojax.runs.setup import load_data, run_data_hash
from zojax.tasks.dataset import get_sizes, get_task
from zojax.text import code, markdown, plain, standard

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
    dtype = exported.details.get("dtype", exported.config.model.dtype)
    return _model_card(
        exported, "transformers", hf_usage(exported.config, directory, dtype, _offsets(exported))
    )


def peft_card(exported: Exported, directory: Path) -> str:
    """The card of a LoRA directory for PEFT."""
    usage = _trained_beside(exported.config.model) + peft_usage(
        exported.config, directory, _offsets(exported)
    )
    return _model_card(exported, "peft", usage)


def _offsets(exported: Exported) -> Mapping[str, float] | None:
    """The offsets of the dev set, if they are those of this model."""
    is_best = exported.result.get("best_step") == exported.step
    return exported.result.get("offsets") if is_best else None


def _trained_beside(model: ModelConfig) -> str:
    """What a LoRA was trained beside, if that is not quite the base model that it names."""
    if not is_quantised(model.dtype):
        return ""
    groups = f" in groups of {model.group_size}" if model.dtype == "int4" else ""
    return (
        f"It was trained beside {code(model.path)} with its layers' matrices rounded to "
        f"{model.dtype}{groups}, and its figures are those of both together. "
        "`zojax export --format hf --step 0` of the run writes that rounded model.\n\n"
    )


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
    data = {
        "task": config.data.task,
        "from": config.data.path or "/".join(filter(None, get_task(config.data).hub or ())),
        **({"prompts": "chats, by the base model's own template"} if config.data.chat else {}),
        **_numbers(exported),
    }
    sections = [f"## Data\n\n{_table(data)}", f"## Results\n\n{_results(exported)}"]
    if exported.details:
        sections.append(f"## Export\n\n{_table(exported.details)}")
    return [
        *sections,
        f"## Settings\n\n```json\n{json.dumps(standard(settings), indent=2, allow_nan=False)}\n```",
        f"## Journal\n\n{_table(facts)}",
    ]


def _numbers(exported: Exported) -> dict[str, Any]:
    """The numbers of examples: as the run counted them, or else as the data are now."""
    names = {"train": "training", "dev": "dev", "eval": "held-out"}
    counted = {split: exported.result.get(f"{split}_examples") for split in names}
    if None in counted.values():
        counted = _count_now(exported) or counted
    if None in counted.values():
        sizes = dataclasses.asdict(get_sizes(exported.config.data, get_task(exported.config.data)))
        counted = {split: f"up to {size}" for split, size in sizes.items()}
    return {f"{name} examples": counted[split] for split, name in names.items()}


def _count_now(exported: Exported) -> dict[str, Any] | None:
    """Counts the examples of local data, if these are what the run was trained on."""
    config = exported.config
    if config.data.path is None:  # the hub would have to be asked
        return None
    try:
        data = load_data(config)
    except InputError:
        return None
    if changed_data(exported.journal, run_data_hash(config, data)):
        return None
    return {split: len(getattr(data, split)) for split in ("train", "dev", "eval")}


def _results(exported: Exported) -> str:
    if not exported.result:
        return "There are no figures for this model."
    best = exported.result.get("best_step")
    note = f"These are the figures of the run and of its best step, {markdown(best)}"
    if best is not None and best != exported.step:
        note += f"; this model is the one after step {exported.step}"
    figures = {name: value for name, value in exported.result.items() if name != "classes"}
    classes = exported.result.get("classes")
    by_label = "" if classes is None else f"\n\n{_by_label(classes['per_class'])}"
    return f"{note}.\n\n{_table(figures)}{by_label}"


def _by_label(classes: Sequence[Mapping[str, Any]]) -> str:
    """The figures of each label on the held-out examples."""
    names = ("label", "precision", "recall", "f1", "support")
    lines = [f"| {' | '.join(_cell(one[name]) for name in names)} |" for one in classes]
    return "\n".join([f"| {' | '.join(names)} |", "|---" * len(names) + "|", *lines])


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {markdown(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{markdown(name)}: {_cell(of)}" for name, of in value.items())
    if isinstance(value, list):
        return " to ".join(map(_cell, value))  # the bounds of an interval
    return f"{value:.6g}" if isinstance(value, float) else markdown(value)
