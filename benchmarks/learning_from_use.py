"""Does the demo model learn from the rewards of what it serves?

    python benchmarks/learning_from_use.py --write-docs

Every request is a review with " It was" behind it, which is continued by one token at temperature
1. There are two rewards that a program can check:

- "praise": 1 if the token is " great", whatever the review says, and else 0;
- "label": 1 if it is the right label's word, " great" or " terrible", and else 0.

The same requests, in the same order, are answered

- without learning;
- with learning: after every batch of rewards some steps on the advantage-weighted log-likelihood
  of what was served, by the learner of a job of kind ``feedback``;
- under probes: half of a batch's requests is answered under either end of a probe, and the step is
  made of the difference of their rewards. It takes no pass of the model beside those that answer.

Of answering under probes the table also tells how much of the variance of a step's scalar is
chance: the difference of the rewards that came, against that of their expectations, which the
scores of the right words are.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from command import run, tell
from setting import ROOT

import zojax
from zojax.adapters import stack_variants
from zojax.files import write_atomically
from zojax.generation import Sampling, generate
from zojax.scoring import Item
from zojax.training.rewarded import Baseline, Learner, Recipe, advantages

DOCS = ROOT / "docs" / "training-in-the-server.md"
IMAGE = ROOT / "docs" / "images" / "learning-from-use.png"
JSON = ROOT / "benchmarks" / "results" / "learning-from-use.json"
LONGEST = 16
"""The most tokens of a prompt, so that few shapes are compiled."""
MARKERS = (
    "<!-- table: made by learning_from_use.py -->",
    "<!-- end of learning_from_use.py's table -->",
)

WORDS = " terrible", " great"
BATCH, STEPS_PER_BATCH, WINDOWS = 16, 2, 10
RECIPE = Recipe(
    rank=2,
    epsilon=2e-2,
    num_queries=8,
    learning_rate=1e-1,
    max_distance=4.0,
    seed=0,
)
PROBES = (0.03, 1e-2), (0.1, 1e-2), (0.1, 1e-1), (0.3, 1e-1)
"""Lengths of the probes under which requests are answered, each with a learning rate."""

Tree = Any


class Traffic(NamedTuple):
    """Requests, all alike but for their prompts.

    Attributes:
        prompts: the prompts' tokens.
        rights: the token of each that is rewarded.
    """

    prompts: list[np.ndarray]
    rights: list[int]

    def batches(self, count: int, seed: int) -> Iterator[list[int]]:
        """The indices of the prompts of so many requests, in batches."""
        rng = np.random.default_rng(seed)
        for _ in range(count // BATCH):
            yield rng.integers(len(self.prompts), size=BATCH).tolist()


@dataclasses.dataclass(frozen=True)
class Served:
    """The rewards of a run, and what is known of its steps.

    Attributes:
        rewards: the reward of every request.
        chance: of every step, the difference of the rewards that came and of the expected ones.
        distance: how far the adapter is from its start in the end, of the most that it may be.
        right: the mean probability of the right word on held-out reviews, at the end.
    """

    rewards: list[float]
    chance: list[tuple[float, float]]
    distance: float
    right: float


def read_traffic(engine: zojax.Engine, split: str, reward: str) -> Traffic:
    """The reviews of a split as requests, for whose answers there is one of the two rewards."""
    lines = (zojax.demo.REVIEWS / f"{split}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    tokenizer = engine.tokenizer
    ids = [tokenizer.prompt(tokenizer.ids(f"{row['sentence']} It was")) for row in rows]
    words = [tokenizer.ids(word)[0] for word in WORDS]
    kept = [
        (np.array(prompt, np.int32), words[1 if reward == "praise" else row["label"]])
        for prompt, row in zip(ids, rows, strict=True)
        if len(prompt) <= LONGEST
    ]
    return Traffic([prompt for prompt, _ in kept], [right for _, right in kept])


def answer(
    engine: zojax.Engine, pool: Tree, slots: Sequence[int], prompts: Sequence[np.ndarray], key: Any
) -> list[int]:
    """One token after each prompt, sampled under the adapter in its slot."""
    found = generate(
        engine.model,
        prompts,
        engine.tokenizer.text,
        max_new_tokens=1,
        sampling=Sampling(temperature=1.0),
        key=key,
        pool=pool,
        slots=slots,
        batch_size=BATCH,
    )
    return [one.tokens[0] for one in found]


def probabilities(
    engine: zojax.Engine, pool: Tree, prompts: Sequence[np.ndarray], rights: Sequence[int]
) -> np.ndarray:
    """The probability of the right word after each prompt, under the adapter in slot 1."""
    under = dataclasses.replace(engine, pool=pool)
    items = [
        Item(prompt, (np.array([right], np.int32),))
        for prompt, right in zip(prompts, rights, strict=True)
    ]
    return np.exp([one[0][0] for one in under.score_items(items, 64)])


def serve(
    engine: zojax.Engine, traffic: Traffic, held_out: Traffic, count: int, seed: int, way: str,
    recipe: Recipe,
) -> Served:  # fmt: skip
    """Answers so many requests in one of the three ways."""
    learner, baseline = Learner(engine.model, dataclasses.replace(recipe, seed=seed)), Baseline()
    rewards, chance = list[float](), list[tuple[float, float]]()
    key = jax.random.key(seed)
    for number, indices in enumerate(traffic.batches(count, seed)):
        prompts = [traffic.prompts[i] for i in indices]
        rights = [traffic.rights[i] for i in indices]
        of_batch = jax.random.fold_in(key, number)
        if way == "probes":
            pool = jax.tree.map(lambda leaf: leaf[0], learner.variants())
            slots = [1 + i % 2 for i in range(BATCH)]
        else:
            pool, slots = stack_variants([learner.adapter]), [1] * BATCH
        tokens = answer(engine, pool, slots, prompts, of_batch)
        came = [float(t == right) for t, right in zip(tokens, rights, strict=True)]
        rewards += came
        if way == "learning":
            baseline = baseline.after(came)
            advantage_b = advantages(came, baseline)
            items = [
                Item(prompt, (np.array([token], np.int32),))
                for prompt, token in zip(prompts, tokens, strict=True)
            ]
            for _ in range(STEPS_PER_BATCH if advantage_b.any() else 0):
                learner.move(learner.probe(items, advantage_b))
        if way == "probes":
            losses_v = -np.array([np.mean(came[0::2]), np.mean(came[1::2])], np.float32)
            if number % 8 == 0:  # all of the batch under both ends: what more answers would tell
                plus, minus = (
                    probabilities(engine, _alone(pool, slot), prompts, rights).mean()
                    for slot in (1, 2)
                )
                chance.append((float(losses_v[1] - losses_v[0]), float(plus - minus)))
            learner.move(learner.scalars(losses_v))
    pool = stack_variants([learner.adapter])
    right = probabilities(engine, pool, held_out.prompts, held_out.rights)
    return Served(rewards, chance, learner.distance, float(right.mean()))


def _alone(pool: Tree, slot: int) -> Tree:
    """A pool with the base model and the adapter of one slot."""
    return jax.tree.map(lambda leaf: leaf[np.array([0, slot])], pool)


def in_windows(rewards: Sequence[float]) -> list[float]:
    """The mean rewards of successive requests, in equally many windows whatever their number."""
    return [float(part.mean()) for part in np.array_split(np.array(rewards), WINDOWS)]


def measure(
    counts: Mapping[str, int], seeds: Sequence[int], on_found: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All figures.

    Args:
        counts: the number of requests, by the reward.
        seeds: the seeds of traffic and learners.
        on_found: called with the figures so far.
    """
    engine = zojax.load(zojax.demo.MODEL)
    figures = {"seeds": list(seeds), "recipe": dataclasses.asdict(RECIPE), "rewards": {}}
    for reward, count in counts.items():
        traffic, held_out = (
            read_traffic(engine, split, reward) for split in ("train", "validation")
        )
        ways = {"without learning": ("none", RECIPE), "learning": ("learning", RECIPE)}
        if reward == "praise":  # what does not show here would show nowhere
            for length, rate in PROBES:
                of_length = dataclasses.replace(
                    RECIPE, epsilon=length, num_queries=1, learning_rate=rate
                )
                ways[f"under probes, ε = {length:g}, η = {rate:g}"] = "probes", of_length
        found = figures["rewards"][reward] = {"requests": count, "ways": {}}
        for name, (way, recipe) in ways.items():
            runs = [serve(engine, traffic, held_out, count, seed, way, recipe) for seed in seeds]
            found["ways"][name] = {
                "rewards": [in_windows(one.rewards) for one in runs],
                "distance": [one.distance for one in runs],
                "right": [one.right for one in runs],
                "chance": [one.chance for one in runs],
            }
            last = [round(in_windows(one.rewards)[-1], 2) for one in runs]
            print(reward, name, last, file=sys.stderr, flush=True)
            on_found(figures)
    return figures


def as_table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{len(figures['seeds'])} seeds: the mean, and in brackets the least and the most. The "
        "first and the last tenth of the requests are compared.",
        "",
        "| reward | answered | requests | first | last | expected, held out, at the end | "
        "distance | variance of a difference of rewards: all, and what is not chance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    tenth = WINDOWS // 10
    for reward, of_reward in figures["rewards"].items():
        for name, way in of_reward["ways"].items():
            rewards_sw = np.array(way["rewards"])
            cells = [
                reward,
                name,
                f"{of_reward['requests']:,}",
                _spread(rewards_sw[:, :tenth].mean(1)),
                _spread(rewards_sw[:, -tenth:].mean(1)),
                _spread(np.array(way["right"])),
                f"{100 * np.mean(way['distance']):.0f} %",
                _chance(way["chance"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def _chance(of_runs: Sequence[Sequence[Sequence[float]]]) -> str:
    """The mean square of the differences of rewards that came, and of those to be expected."""
    pairs_n2 = np.array([pair for of_run in of_runs for pair in of_run])
    if not len(pairs_n2):
        return ""
    came, expected = (pairs_n2**2).mean(0)
    return f"{came:.4f}, {expected:.4f}"


def draw(figures: dict[str, Any], path: Path) -> None:
    """The rewards against the requests that were served."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    both = figure.subplots(1, len(figures["rewards"]), sharey=True, squeeze=False)[0]
    colours = ("#666666", "#1f5fbf", "#c77700", "#a8327d", "#2a8a4a", "#7a6a00")
    for axes, (reward, of_reward) in zip(both, figures["rewards"].items(), strict=True):
        ends = of_reward["requests"] * (np.arange(WINDOWS) + 1) / WINDOWS
        for (name, way), colour in zip(of_reward["ways"].items(), colours, strict=False):
            rewards_sw = np.array(way["rewards"])
            axes.plot(ends, rewards_sw.mean(0), color=colour, label=name, linewidth=1.8)
            axes.fill_between(ends, rewards_sw.min(0), rewards_sw.max(0), color=colour, alpha=0.12)
        axes.set(xlabel="requests served", ylim=(0, 1), xlim=(0, ends[-1]), title=reward)
        axes.legend(frameon=False, loc="upper left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    both[0].set_ylabel("mean reward")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> None:
    """Measures, and writes what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--praise", type=int, default=960, help="requests (default: 960)")
    parser.add_argument("--label", type=int, default=1600, help="requests (default: 1600)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=JSON, help="where the figures go, too")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{DOCS.name}")
    args = parser.parse_args()
    counts = {"praise": args.praise, "label": args.label}
    figures = measure(
        {reward: count for reward, count in counts.items() if count},
        range(args.seeds),
        lambda found: write_atomically(args.json, f"{json.dumps(found, indent=1)}\n".encode()),
    )
    tell(args, as_table(figures), figures, DOCS, MARKERS)
    if args.write_docs:
        draw(figures, IMAGE)


if __name__ == "__main__":
    run(main)
