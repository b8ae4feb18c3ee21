"""Check what the device computes: scores, c and its sign, texts, training, replay.

The demo's model, which is small and trained, is compared with transformers in float64 on the CPU.
"""

import functools
import tempfile
from pathlib import Path

import fidelity
import fidelity_methods
import fidelity_probes
import float64
import jax
import numpy as np
import torch
from rich.console import Console
from setting import demo_of_all_matrices

from on_device import kernels
from on_device.figures import Budget
from zojax.adapters import stack_variants
from zojax.config import Config, apply_overrides
from zojax.generation.texts import generate
from zojax.journal.file import JOURNAL, read_journal
from zojax.journal.replay import merge
from zojax.journal.segments import header_key
from zojax.models import content_hash
from zojax.runs.rebuild import load_base, rebuild, saved_by
from zojax.runs.setup import Run, prepare
from zojax.runs.train import train
from zojax.training.interval import OwnedWeights

_QUIET = Console(quiet=True)

_GRADIENT_ERRORS = {"float32": 2e-2, "bfloat16": 1e-1}
"""The allowed relative error of c on the demo: about 10 times a CPU's (docs/performance.md)."""


def measure(budget: Budget) -> None:
    """Measure everything, the most important first."""
    steps = 4 if budget.rehearsal else 40
    config = demo_config(steps)
    run = functools.cache(lambda: prepare(config, _QUIET))
    budget.attempt("scores and c", 10, lambda: _gradients(run(), budget))
    budget.attempt("texts", 10, lambda: _texts(run(), budget))
    kernels.compare(budget)
    budget.attempt("training", 20, lambda: _training(config, budget))


def demo_config(steps: int, *settings: str) -> Config:
    """The demo's configuration with fewer steps."""
    sizes = [f"train.steps={steps}", "train.batch_size=16", f"estimator.interval={steps // 2}"]
    sizes += [
        "data.num_train=64",
        "data.num_dev=32",
        "data.num_eval=32",
        f"train.eval_every={steps}",
    ]
    return apply_overrides(demo_of_all_matrices(), [*sizes, *settings])


def _gradients(run: Run, budget: Budget) -> None:
    """Compare the scores of a batch, and every step's projected gradient and its sign."""
    probes = list(fidelity_probes.draw_probes(run, run.config.train.steps))
    _scores(run, probes[0], budget)
    for dtype, largest in _GRADIENT_ERRORS.items():
        method = fidelity_methods.zojax_method(dtype)
        weights = fidelity_probes.BASES[dtype](run.model.weights)
        right = fidelity_methods.by_float64(run, weights, probes)
        [c] = method.measure(run, weights, probes).values()
        error = fidelity.relative_error(c, right)
        budget.tell(f"c, {dtype}: relative error", error, expected=0.0, ok=error < largest)
        signs = fidelity.sign_agreement(c, right)
        least = 1 - largest  # an error in c as large turns fewer
        budget.tell(f"c, {dtype}: signs right", signs, expected=1.0, ok=signs >= least)


def _scores(run: Run, probe: fidelity_probes.Probe, budget: Budget) -> None:
    """The candidates' scores under the base model, against float64's."""
    space, params = run.method.estimator.space, fidelity_probes.start_of(run)
    base = stack_variants([space.adapter(params, probe.v)])  # U is 0 at the start
    scorer = run.scorer._replace(normalize=True)
    scores_vbk = jax.jit(lambda *given: scorer(*given))(run.model.weights, base, probe.batch)
    scores_bk = np.asarray(scores_vbk[0], np.float64)
    right_bk = float64.scores(float64.load_model(Path(run.model.path)), probe.items).numpy()
    error = float(np.abs(scores_bk - right_bk).max())
    budget.tell("log-probabilities, float32: largest error", error, expected=0.0, ok=error < 1e-3)


def _texts(run: Run, budget: Budget) -> None:
    """Compare greedy continuations, token by token."""
    new, count = 12, 1 if budget.rehearsal else 16
    prompts = [item.prompt for item in run.data.eval[:count]]
    found = generate(run.model, prompts, lambda ids: "", max_new_tokens=new)
    model = float64.load_model(Path(run.model.path))
    agreed = 0
    for prompt, one in zip(prompts, found, strict=True):
        right = _greedy(model, prompt.tolist(), new)
        same = (ours == theirs for ours, theirs in zip(one.tokens, right, strict=True))
        agreed += next((i for i, equal in enumerate(same) if not equal), new)
    total = new * len(prompts)
    # Two tokens may be equally probable in float32, after which the texts differ.
    told = f"of {total} tokens that float64 writes, the first so many of each text are the same"
    budget.tell("tokens written as in float64", agreed, expected=total, ok=agreed > total / 2)
    budget.tell("share of them", agreed / total, note=told)


@torch.inference_mode()
def _greedy(model: torch.nn.Module, tokens: list[int], count: int) -> list[int]:
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[-count:]


def _training(config: Config, budget: Budget) -> None:
    """Do a whole run: the loss is finite, and journal and checkpoint give the same bits."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        config = apply_overrides(config, [f"run.dir={path}", "run.checkpoint_every=2"])
        train(config, _QUIET)
        journal = read_journal(path / JOURNAL)
        losses = journal.records["losses"]
        told = f"of {losses.size} losses in {len(losses)} steps"
        finite = int(np.isfinite(losses).sum())
        budget.tell(
            "finite losses", finite, expected=losses.size, ok=finite == losses.size, note=told
        )
        hashes = []
        for saved in (saved_by(journal, config, _QUIET), None):
            base, method = load_base(journal, config, _QUIET, None)
            owned, state, _ = rebuild(journal, method, OwnedWeights(base.weights), saved)
            hashes.append(content_hash(merge(owned, state, method, header_key(journal))))
        same = len(set(hashes)) == 1
        budget.tell("bits of checkpoint and replay the same", float(same), expected=1.0, ok=same)
    jax.clear_caches()
