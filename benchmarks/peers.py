"""The published implementation in plain PyTorch: LoZO (2410.07698) as its authors run it.

A step perturbs the parameters in place, by +ε, −2ε and +ε, and runs Hugging Face's model twice
with eager attention, every candidate as a separate sequence, padded on the left to the longest (and
to a multiple of 8), and logits of the whole vocabulary at every token. Directions are drawn again
from the step's seed in every pass. It is written from the paper's formulas, to be compared with
zojax.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from zojax.scoring import Item

PAD_TOKEN, PAD_MULTIPLE = 1, 8

Draw = Callable[[str, tuple[int, ...]], torch.Tensor]
"""``(parameter's name, shape) -> entries`` of a standard normal direction."""


@dataclasses.dataclass(frozen=True)
class PaddedBatch:
    """Every candidate after its prompt, in a separate row padded on the left.

    Attributes:
        tokens_st: token ids ``(sequences, longest)``.
        mask_st: 1 where a token is real.
        scored_s: the number of tokens in each row's candidate.
        labels_b: the index of each example's right candidate.
    """

    tokens_st: torch.Tensor
    mask_st: torch.Tensor
    scored_s: list[int]
    labels_b: torch.Tensor


def load_model(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a checkpoint, or a GGUF file, in eager mode; everything is trainable."""
    directory, file = (path.parent, path.name) if path.suffix == ".gguf" else (path, None)
    model = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=file, dtype=dtype, attn_implementation="eager"
    )
    return model.eval()


class LoRALinear(nn.Module):
    """``y = x Wᵀ + b + (alpha / r) (x Aᵀ) Bᵀ``; only A and B are trainable."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        m, n = base.weight.shape
        self.lora_A = nn.Parameter(torch.empty(rank, n).uniform_(-1 / math.sqrt(n), n**-0.5))
        self.lora_B = nn.Parameter(torch.zeros(m, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scale


def put_lora(model: PreTrainedModel, *, rank: int = 8, alpha: float = 16.0) -> None:
    """Put a LoRA on q_proj and v_proj of every layer and freeze everything else."""
    model.requires_grad_(False)
    for layer in model.model.decoder.layers:
        for name in ("q_proj", "v_proj"):
            base = getattr(layer.self_attn, name)
            setattr(layer.self_attn, name, LoRALinear(base, rank, alpha))


def pad(items: Sequence[Item], device: str = "cpu") -> PaddedBatch:
    """Lay out examples with their candidates as the authors' collator does, on a device."""
    rows = [(*item.prompt.tolist(), *c.tolist()) for item in items for c in item.candidates]
    longest = PAD_MULTIPLE * -(-max(map(len, rows)) // PAD_MULTIPLE)
    padding = [longest - len(row) for row in rows]
    return PaddedBatch(
        torch.tensor(
            [[PAD_TOKEN] * p + list(row) for p, row in zip(padding, rows, strict=True)],
            device=device,
        ),
        torch.tensor(
            [[0] * p + [1] * len(row) for p, row in zip(padding, rows, strict=True)], device=device
        ),
        [len(c) for item in items for c in item.candidates],
        torch.tensor([item.label for item in items], device=device),
    )


@torch.inference_mode()
def logits(model: PreTrainedModel, batch: PaddedBatch) -> torch.Tensor:
    """Logits of the whole vocabulary at every token, in the model's dtype."""
    return model(input_ids=batch.tokens_st, attention_mask=batch.mask_st).logits


@torch.inference_mode()
def loss_of(logits_stv: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """Cross-entropy over the candidates' mean token log-probabilities (train_as_classification)."""
    logprob_stv = torch.log_softmax(logits_stv[:, :-1], dim=-1)
    targets_st = batch.tokens_st[:, 1:]
    logprob_st = logprob_stv.gather(-1, targets_st[..., None])[..., 0]
    scores_s = torch.stack(
        [row[-count:].mean() for row, count in zip(logprob_st, batch.scored_s, strict=True)]
    )
    scores_bk = scores_s.view(len(batch.labels_b), -1)
    return nn.functional.cross_entropy(scores_bk, batch.labels_b)


def loss(model: PreTrainedModel, batch: PaddedBatch) -> torch.Tensor:
    """The loss of one pass."""
    return loss_of(logits(model, batch), batch)


def seeded_draw(seed: int, device: str = "cpu") -> Draw:
    """Draw directions from torch's generator of a device, in the order of the parameters."""
    generator = torch.Generator(device).manual_seed(seed)
    return lambda name, shape: torch.randn(shape, generator=generator, device=device)


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a step moves."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def draw_subspace(model: nn.Module, rank: int, draw: Draw) -> dict[str, torch.Tensor]:
    """Draw V ``(n, rank)`` for every matrix."""
    return {name: draw(name, (p.shape[1], rank)) for name, p in trainable(model) if p.ndim >= 2}


@torch.inference_mode()
def move(model: nn.Module, subspace: dict[str, torch.Tensor], draw: Draw, length: float) -> None:
    """``θ ← θ + length · z`` in place, with ``z = U Vᵀ`` at matrices and dense at vectors."""
    for name, p in trainable(model):
        if p.ndim >= 2:
            v = subspace[name].to(p.dtype)
            u = draw(name, (p.shape[0], v.shape[1])).to(p.dtype)
            p.data = p.data + length * (u @ v.T)
        else:
            p.data = p.data + length * draw(name, tuple(p.shape)).to(p.dtype)


def lozo_step(
    model: PreTrainedModel,
    batch: PaddedBatch,
    subspace: dict[str, torch.Tensor],
    redraw: Callable[[], Draw],
    *,
    epsilon: float,
    learning_rate: float,
) -> tuple[float, float]:
    """Do one step of LoZO in place.

    Args:
        model: the model, whose trainable parameters are moved.
        batch: the batch to probe on.
        subspace: V of every matrix.
        redraw: returns the same directions every time it is called.
        epsilon: the probe's length.
        learning_rate: η.

    Returns:
        The losses at +ε and −ε.
    """
    move(model, subspace, redraw(), epsilon)
    above = loss(model, batch)
    move(model, subspace, redraw(), -2 * epsilon)
    below = loss(model, batch)
    move(model, subspace, redraw(), epsilon)
    projected_grad = ((above - below) / (2 * epsilon)).item()
    move(model, subspace, redraw(), -learning_rate * projected_grad)
    return above.item(), below.item()
