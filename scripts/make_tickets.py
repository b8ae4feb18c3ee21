"""Writes tickets.csv: 400 messages to a cinema, as a help desk's program exports them.

python scripts/make_tickets.py [--output tickets.csv] [--unlabelled more.csv]

The table of the tutorial. It has what such tables have: commas, quotes and line breaks within
cells, emoji, a number for each ticket, and a queue that somebody sorted each one into. With
``--unlabelled``, 40 other messages without a queue are written too. The texts are short and made
of words that the demo's model has seen, so that it can learn to sort them on a laptop.
"""

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

_WORDS = {
    "praise": ["wonderful", "superb", "charming", "brilliant", "delightful", "witty", "stunning"],
    "complaint": ["awful", "dull", "tedious", "clumsy", "boring", "dreadful", "sloppy", "annoying"],
}
_ENDINGS = {
    "praise": ["I loved every minute", "do not miss this one", "we all cheered 🎉", "10/10 😀"],
    "complaint": [
        "I wanted my money back",
        "avoid this one",
        "I left early 😡",
        "half fell asleep",
    ],
}
_ABOUT = ["the acting", "the plot", "the seating", "the coffee", "the ending", "the soundtrack"]
_QUESTIONS = [
    "when does {film} begin?",
    "is there parking for {film}?",
    "where can I see {film}?",
    "how long is {film}?",
    'what does "late show" mean for {film}?',
]
_FILMS = ["the western", "the new comedy", "the musical", "the festival", "the documentary"]
_WHEN = ["on a Tuesday", "last winter", "at the festival", "late at night", "this spring"]


def ticket(rng: random.Random, queue: str) -> tuple[str, str]:
    """The subject and the body of a message that belongs into a queue."""
    film, when = rng.choice(_FILMS), rng.choice(_WHEN)
    if queue == "question":
        asked = rng.sample(_QUESTIONS, 2)
        body = "\n".join(question.format(film=film) for question in asked)
        return rng.choice([f"{film}, {when}", "tickets", "a question"]), body
    one, other = rng.sample(_WORDS[queue], 2)
    about, also = rng.sample(_ABOUT, 2)
    said = f'{about} was {one}, {also} "really {other}"'
    body = f"{said}.\n{rng.choice(_ENDINGS[queue])}"
    return rng.choice([f"{film}, {when}", "my visit", f"{about} of {film}"]), body


def rows(rng: random.Random, count: int, first: int = 1) -> list[tuple[int, str, str, str]]:
    """Tickets as rows: a number, a subject, a body, and the queue; every thirtieth is misplaced."""
    queues = ["question", "praise", "complaint"]
    made = []
    for number in range(first, first + count):
        queue = rng.choices(queues, weights=(4, 3, 3))[0]
        told = rng.choice(queues) if number % 30 == 0 else queue
        made.append((number, *ticket(rng, queue), told))
    return made


def write(path: Path, header: Sequence[str], table: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes tickets.csv.")
    parser.add_argument("--output", type=Path, default=Path("tickets.csv"))
    parser.add_argument("--unlabelled", type=Path)
    args = parser.parse_args()
    rng = random.Random(7)
    header = ("number", "subject", "body", "queue")
    write(args.output, header, rows(rng, 400))
    if args.unlabelled is not None:
        more = [row[:-1] for row in rows(rng, 40, first=401)]
        write(args.unlabelled, header[:-1], more)


if __name__ == "__main__":
    main()
