"""Time the published implementation in PyTorch (:mod:`peers`) on the same device, in bfloat16."""

import gc
import statistics
import time
from collections.abc import Callable

import peers
import torch
from transformers import OPTConfig, OPTForCausalLM

from on_device.figures import Budget
from on_device.sizes import SMALLER, TINY
from zojax.models import opt
from zojax.models.registry import SHAPES
from zojax.planning.shapes import SST2_TOKENS, sample_items

SIZES = (*SMALLER, "opt-13b")
BATCH, RANK = 16, 2
_LEAST_SECONDS = 20


def measure(budget: Budget) -> None:
    """Measure a step of each size, on the same data as zojax: 16 examples of SST-2's lengths."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not budget.rehearsal:
        budget.leave_out("PyTorch full", "PyTorch has no accelerator here")
        return
    for size in SIZES[-1:] if budget.rehearsal else SIZES:
        config = TINY if budget.rehearsal else SHAPES[size]
        assert isinstance(config, opt.OPTConfig)

        def work(size: str = size, config: opt.OPTConfig = config) -> None:
            seconds = time_steps(config, device, count=2 if budget.rehearsal else 8)
            budget.tell(f"{size} full: a step in PyTorch", 1e3 * seconds, "ms")

        budget.attempt(f"{size} full: a step in PyTorch", _LEAST_SECONDS, work)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def time_steps(config: opt.OPTConfig, device: str, *, count: int) -> float:
    """The median seconds of LoZO's step as its authors run it, with random weights."""
    model = random_model(config, device)
    items = sample_items(SST2_TOKENS, BATCH, with_choice=True)
    batch = peers.pad(items, device)
    subspace = peers.draw_subspace(model, RANK, peers.seeded_draw(0, device))
    taken = []
    for number in range(count + 2):
        draw: Callable[[], peers.Draw] = lambda n=number: peers.seeded_draw(n, device)  # noqa: E731
        started = time.perf_counter()
        peers.lozo_step(model, batch, subspace, draw, epsilon=1e-3, learning_rate=1e-7)
        taken.append(time.perf_counter() - started)  # it waits for the losses, then for the update
    return statistics.median(taken[2:])  # the first two find kernels


def random_model(config: opt.OPTConfig, device: str) -> OPTForCausalLM:
    """Make Hugging Face's OPT in eager mode on the device, in bfloat16."""
    numbers = {k: v for k, v in opt.FAMILY.write_config(config).items() if k != "architectures"}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            own = OPTConfig(**numbers)
            own._attn_implementation = "eager"
            return OPTForCausalLM(own).eval()
    finally:
        torch.set_default_dtype(before)
