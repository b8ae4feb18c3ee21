"""Small runs, to disturb and to export."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from tests.runs.outcomes import outcome
from zojax import __version__
from zojax.config import (
    Config,
    DataConfig,
    EstimatorConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
    to_dict,
)
from zojax.files import write_json
from zojax.hub.saving import save_tensors
from zojax.hub.tensor_names import tensor_shapes
from zojax.journal.file import JournalWriter
from zojax.journal.replay import step_keys
from zojax.models import content_hash
from zojax.models.llama import LlamaConfig
from zojax.models.opt import OPTConfig
from zojax.models.rope import Rope
from zojax.runs import run_dir
from zojax.runs.setup import load_model
from zojax.runs.train import train
from zojax.training.method import make_method
from zojax.training.schedules import learning_rates

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
SHAPE = OPTConfig(
    vocab_size=1024,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=24,
    max_position_embeddings=32,
    word_embed_proj_dim=16,
)
STYLES = {
    "pre-LN": SHAPE,
    "as 350M": dataclasses.replace(SHAPE, word_embed_proj_dim=8, do_layer_norm_before=False),
    "Llama": LlamaConfig(1024, 16, 24, 2, 2, 1, 6, 32, Rope()),
}
FOLDS: dict[str, Any] = {"pre-LN": "stochastic", "as 350M": "none", "Llama": "none"}


@pytest.fixture(scope="session")
def short_config(config_file) -> Config:
    """Four steps, two intervals, and evaluations of three batches each: of the base, on dev after
    0, 2 and 4 steps, and at the end.
    """
    config = runpy.run_path(str(config_file))["get_config"]()
    return apply_overrides(config, ["train.learning_rate=1e-2", "estimator.interval=2"])


@pytest.fixture(scope="module")
def undisturbed(short_config, tmp_path_factory) -> dict[str, Any]:
    """The outcome of this run if nobody disturbs it."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    train(apply_overrides(short_config, [f"run.dir={directory}"]), Console(quiet=True))
    return outcome(directory)


class ExportRuns:
    """Runs of six steps and three intervals, of rank 2.

    Attributes:
        bases: random checkpoints of every style, with logits of the order of 1, and a tokenizer.
        reviews: sentences of one length, so that a run compiles for one bucket.
    """

    steps, rank, vocab_size = 6, 2, SHAPE.vocab_size

    def __init__(self, root: Path, directory: Path):
        rng, self._directory = np.random.default_rng(1), directory
        self.bases = {style: directory / f"base-{i}" for i, style in enumerate(STYLES)}
        for style, base in self.bases.items():
            shapes = tensor_shapes(STYLES[style])

            def noise(name: str, shapes=shapes) -> np.ndarray:
                return ("norm.weight" in name) + 0.2 * rng.standard_normal(shapes[name])

            save_tensors(STYLES[style], base, noise, dtype="float32")
            for name in TOKENIZER_FILES:
                shutil.copy(root / "zojax" / "demo" / "model" / name, base)
            (base / "generation_config.json").write_text('{"max_length": 31}')
        self._trained: dict[str, Path] = {}
        self.reviews = directory / "reviews"
        self.reviews.mkdir()
        words = ["good", "bad", "long", "great"]
        for split, count in (("train", 24), ("validation", 12)):
            sentences = [f"the {' '.join(rng.permutation(words))} film" for _ in range(count)]
            lines = [
                json.dumps({"sentence": sentence, "label": int(rng.integers(2))}) + "\n"
                for sentence in sentences
            ]
            (self.reviews / f"{split}.jsonl").write_text("".join(lines))

    def config(self, directory: Path, style: str, dtype: Any = "float32", **estimator) -> Config:
        """Of a run in ``directory``."""
        return Config(
            ModelConfig(str(self.bases[style]), dtype=dtype),
            RunConfig(str(directory)),
            data=DataConfig("sst2", str(self.reviews), num_train=16, num_dev=8, num_eval=8),
            train=TrainConfig(
                steps=self.steps, batch_size=4, learning_rate=3e-3, eval_every=self.steps, chunk=3
            ),
            estimator=EstimatorConfig(rank=self.rank, interval=2, **estimator),
        )

    def trained(self, style: str) -> Path:
        """A run that was really trained: one style is folded twice, and the others never."""
        if style not in self._trained:
            directory = self._directory / f"run-{style[:2]}"
            config = self.config(directory, style, fold=FOLDS[style])
            assert train(config, Console(quiet=True)) is not None  # None: it was interrupted
            self._trained[style] = directory
        return self._trained[style]

    def forge(
        self,
        directory: Path,
        style: str,
        scale: float = 3.0,
        steps: int | None = None,
        **settings: Any,
    ) -> Path:
        """A run whose projected gradients were drawn and not measured."""
        config = self.config(directory, style, **settings)
        config.train.eval_every = 2
        base = load_model(config)
        method, key = make_method(config, base), jax.random.key(config.train.seed)
        directory.mkdir(parents=True)
        header = {
            "zojax": __version__,
            "jax": jax.__version__,
            "config": to_dict(config),
            "base_hash": content_hash(base.weights),
            "key_impl": str(jax.random.key_impl(key)),
            "key_data": jax.random.key_data(key).tolist(),
            "num_queries": method.estimator.num_queries,
            "num_variants": method.estimator.num_variants,
        }
        journal = JournalWriter.create(directory / run_dir.JOURNAL, header)
        steps = self.steps if steps is None else steps
        journal.append(
            0,
            key_data=step_keys(key, self.steps)[:steps],
            learning_rates=learning_rates(config.train)[:steps],
            projected_grads=scale
            * np.random.default_rng(0).standard_normal((self.steps, 1))[:steps],
            losses=np.ones((steps, 2)),
            flags=np.zeros(steps, np.uint32),
        )
        journal.close()
        write_json(directory / run_dir.CONFIG, to_dict(config))
        return directory

    def transformers_model(self, directory: Path) -> Any:
        """A checkpoint as transformers loads it, in float32."""
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        return loaded.eval()

    def peft_model(self, style: str, directory: Path) -> Any:
        """A base with an adapter as PEFT loads it."""
        peft, base = pytest.importorskip("peft"), self.transformers_model(self.bases[style])
        return peft.PeftModel.from_pretrained(base, directory).eval()


@pytest.fixture(scope="session")
def export_runs(root, tmp_path_factory) -> ExportRuns:
    """Bases, data and runs for exports."""
    return ExportRuns(root, tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="session")
def folded_run(export_runs, tmp_path_factory) -> Path:
    """A folded run with made-up gradients."""
    return export_runs.forge(tmp_path_factory.mktemp("folded") / "run", "pre-LN")
