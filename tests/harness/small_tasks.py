"""Four small tasks of lm-eval's, one for each kind of request and one with solved examples."""

import json
from pathlib import Path
from typing import Any

import yaml

NAMES = ("small_choice", "small_last_word", "small_texts", "small_answers")
"""Candidates, one of several tokens; a word, whose probability and rank matter; whole texts, some
with more tokens than the model has positions; and answers up to one of two stop strings."""

COUNT = 6

_TASKS: dict[str, dict[str, Any]] = {
    "small_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{sentence}} It was",
        "doc_to_choice": ["terrible", "great", "terribly slow"],
        "doc_to_target": "label",
        "num_fewshot": 1,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ],
    },
    "small_last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{sentence.split()[:-1] | join(' ')}}",
        "doc_to_target": "{{' ' ~ sentence.split()[-1]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "small_texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{sentence if label else ((sentence ~ ' ') * 8)}}",
        "metric_list": [
            {
                "metric": "word_perplexity",
                "aggregation": "weighted_perplexity",
                "higher_is_better": False,
            }
        ],
    },
    "small_answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{sentence}}",
        "doc_to_target": "great",
        "generation_kwargs": {"until": [".", " at a"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def write_tasks(directory: Path, reviews: Path) -> Path:
    """Writes the tasks into a directory.

    Args:
        directory: a new directory.
        reviews: a directory with ``train.jsonl`` and ``validation.jsonl`` of sentences and labels.
    """
    directory.mkdir()
    for split in ("train", "validation"):
        lines = (reviews / f"{split}.jsonl").read_text().splitlines()
        rows = sorted((json.loads(line) for line in lines), key=lambda row: row["sentence"])
        chosen = [row for label in (0, 1) for row in [r for r in rows if r["label"] == label][:3]]
        text = "".join(f"{json.dumps(row)}\n" for row in chosen)
        (directory / f"{split}.jsonl").write_text(text)
    for name, task in _TASKS.items():
        files = {split: str(directory / f"{split}.jsonl") for split in ("train", "validation")}
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(directory / "cache")},
            "training_split": "train",
            "validation_split": "validation",
            **task,
        }
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    return directory
