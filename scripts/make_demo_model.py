"""Makes the data of ``zojax/demo/``: a small OPT, its tokenizer, and labelled reviews for it.

    python scripts/make_demo_model.py --out zojax/demo

Writes films reviews with the grammar of ``demo_corpus.py``, trains a byte-level BPE on them,
pretrains the model by next-token prediction (backpropagation, once, here), and writes it all in
the Hugging Face layout. Takes about six minutes on two CPU cores. The same seed gives the same
text; the weights agree up to the rounding of the machine's own matmuls.
"""

import argparse
import hashlib
import json
import random
from importlib.metadata import version
from pathlib import Path

import demo_corpus
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.progress import track
from tokenizers import ByteLevelBPETokenizer

from zojax.hub import save
from zojax.models import Model, decoder, random_model
from zojax.models.forward import Forward
from zojax.models.registry import parse_config

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
PAD, BOS = 1, 2
ROW_LENGTH = 64
CONFIG = parse_config(
    {
        "model_type": "opt",
        "vocab_size": 1024,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "ffn_dim": 512,
        "max_position_embeddings": ROW_LENGTH,
    }
)


def make_tokenizer(texts: list[str], directory: Path) -> ByteLevelBPETokenizer:
    """Trains a BPE as OPT's and saves it beside the model."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, CONFIG.vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.save_model(str(directory))
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    (directory / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return tokenizer


def make_rows(tokenizer: ByteLevelBPETokenizer, texts: list[str]) -> np.ndarray:
    """One review a row, from BOS, padded: ``(reviews, ROW_LENGTH + 1)`` int32."""
    rows = np.full((len(texts), ROW_LENGTH + 1), PAD, np.int32)
    for row, encoding in zip(rows, tokenizer.encode_batch(texts), strict=True):
        ids = [BOS, *encoding.ids][: len(row)]
        row[: len(ids)] = ids
    return rows


def next_token_loss(weights, rows_pt, *, graphdef) -> jax.Array:
    """Mean cross-entropy of every token but padding, in nats."""
    inputs_pt, targets_pt = rows_pt[:, :-1], rows_pt[:, 1:]
    model = nnx.merge(graphdef, weights)
    positions_pt = jnp.broadcast_to(jnp.arange(inputs_pt.shape[1]), inputs_pt.shape)
    slot_p = jnp.zeros(len(inputs_pt), jnp.int32)

    def attend(_, heads, __):
        q, k, v = heads.q_prhd, heads.k_ptgd, heads.v_ptgd
        return jax.nn.dot_product_attention(q, k, v, is_causal=True), None

    forward = Forward(positions_pt, slot_p, attend)
    hidden_ptn, _ = decoder.run(model, inputs_pt, forward)
    logits_ptv = decoder.logits(model, hidden_ptn, forward)
    loss_pt = optax.softmax_cross_entropy_with_integer_labels(logits_ptv, targets_pt)
    return loss_pt.mean(where=targets_pt != PAD)


def pretrain(rows: np.ndarray, *, steps: int, batch_size: int, seed: int) -> tuple[Model, float]:
    """Trains a model of :data:`CONFIG` and returns it with the mean loss of its last steps."""
    model = random_model(CONFIG, seed=seed)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 20, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    @jax.jit
    def step(weights, opt_state, rows_pt):
        loss, gradient = jax.value_and_grad(next_token_loss)(
            weights, rows_pt, graphdef=model.graphdef
        )
        updates, opt_state = optimizer.update(gradient, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, loss

    weights, opt_state = model.weights, optimizer.init(model.weights)
    rng = np.random.default_rng(seed)
    losses = []
    for _ in track(range(steps), description="pretraining"):
        batch = rows[rng.integers(len(rows), size=batch_size)]
        weights, opt_state, loss = step(weights, opt_state, batch)
        losses.append(loss)
    final = float(jnp.stack(losses[-50:]).mean())
    return Model(model.config, model.graphdef, weights), final


def write_reviews(path: Path, rng: random.Random, count: int, seen: set[str]) -> None:
    """Writes ``count`` labelled reviews, none of them in ``seen``, which they join."""
    lines = []
    while len(lines) < count:
        text, label = demo_corpus.labelled_review(rng)
        if text not in seen:
            seen.add(text)
            lines.append(json.dumps({"sentence": text, "label": label, "idx": len(lines)}))
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path("zojax/demo")
    parser.add_argument("--out", type=Path, default=default, help=f"directory (default: {default})")
    parser.add_argument("--reviews", type=int, default=30_000, help="to pretrain on")
    parser.add_argument("--steps", type=int, default=1_500, help="of pretraining")
    parser.add_argument("--batch-size", type=int, default=64, help="reviews a step")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    (args.out / "model").mkdir(parents=True, exist_ok=True)
    (args.out / "reviews").mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    texts = [demo_corpus.review(rng) for _ in range(args.reviews)]
    seen = set(texts)
    write_reviews(args.out / "reviews" / "train.jsonl", rng, 1_600, seen)
    write_reviews(args.out / "reviews" / "validation.jsonl", rng, 600, seen)

    tokenizer = make_tokenizer(texts, args.out / "model")
    rows = make_rows(tokenizer, texts)
    model, loss = pretrain(rows, steps=args.steps, batch_size=args.batch_size, seed=args.seed)
    made_by = {
        "made_by": "scripts/make_demo_model.py",
        "seed": str(args.seed),
        "reviews": str(args.reviews),
        "corpus_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "steps": str(args.steps),
        "batch_size": str(args.batch_size),
        "final_loss_nats": f"{loss:.4f}",
        "jax": version("jax"),
        "optax": version("optax"),
    }
    save(model, args.out / "model", dtype=jnp.float16, metadata=made_by)
    print(f"{args.out}: loss {loss:.3f} nats a token")


if __name__ == "__main__":
    main()
