"""Film reviews from a small grammar: the text that the demo's model and data are made of.

Every review has a polarity that its opinions agree on, so that a language model of these texts
has to find out a review's polarity and to remember it. But it never meets `` great`` or
`` terrible`` in an opinion, only in remarks about the weather that agree with nothing: it knows
how a review feels, and does not know that ``It was great`` is how to say so. That link is what
the demo trains.
"""

import random
from collections.abc import Callable

POSITIVE, NEGATIVE = 1, 0
LABEL_NOISE = 0.04

_ADJECTIVES = {
    POSITIVE: [
        "wonderful",
        "superb",
        "gripping",
        "moving",
        "charming",
        "brilliant",
        "delightful",
        "tender",
        "witty",
        "inventive",
        "honest",
        "warm",
        "funny",
        "thrilling",
        "elegant",
        "memorable",
        "touching",
        "clever",
        "graceful",
        "absorbing",
        "joyful",
        "heartfelt",
        "stunning",
        "sharp",
        "lively",
        "rich",
        "luminous",
        "engaging",
        "magnificent",
    ],
    NEGATIVE: [
        "awful",
        "dull",
        "tedious",
        "clumsy",
        "shallow",
        "boring",
        "lifeless",
        "bland",
        "dreadful",
        "stale",
        "predictable",
        "messy",
        "annoying",
        "forgettable",
        "hollow",
        "pointless",
        "grating",
        "flat",
        "incoherent",
        "tiresome",
        "lazy",
        "sloppy",
        "dreary",
        "painful",
        "silly",
        "muddled",
        "charmless",
        "empty",
        "wretched",
    ],
}
_VERDICTS = {
    POSITIVE: (
        "i would gladly see it again",
        "do not miss this one",
        "i left the cinema smiling",
        "the audience cheered at the end",
        "i recommend it to everyone",
        "it deserves every award it can get",
        "two hours flew by",
        "i loved every minute",
        "it stays with you for days",
        "my whole family adored it",
    ),
    NEGATIVE: (
        "i wanted my money back",
        "avoid this one",
        "i left the cinema early",
        "the audience yawned at the end",
        "i recommend it to nobody",
        "it deserves to be forgotten",
        "two hours felt like ten",
        "i hated every minute",
        "it is gone from memory by morning",
        "half the room fell asleep",
    ),
}
_ADVERBS = {
    POSITIVE: ["beautifully", "brilliantly", "gracefully", "superbly", "confidently", "tenderly"],
    NEGATIVE: ["badly", "clumsily", "lazily", "poorly", "carelessly", "endlessly"],
}
_ASPECTS = [
    "acting",
    "plot",
    "script",
    "score",
    "dialogue",
    "pacing",
    "direction",
    "camerawork",
    "ending",
    "story",
    "cast",
    "editing",
    "soundtrack",
    "premise",
    "humor",
    "romance",
    "opening",
    "finale",
    "lighting",
    "narration",
]
_FILMS = [
    "film",
    "movie",
    "drama",
    "comedy",
    "thriller",
    "documentary",
    "sequel",
    "remake",
    "debut",
    "western",
    "mystery",
    "musical",
]
_PEOPLE = [
    "the director",
    "the lead actress",
    "the lead actor",
    "the writer",
    "the young star",
    "the veteran cast",
    "the composer",
    "the supporting cast",
    "the newcomer",
    "the editor",
]
_DEEDS = [
    "plays the part",
    "tells the story",
    "handles the twist",
    "builds the tension",
    "fills the screen",
    "carries the second act",
    "stages the chase",
    "closes the tale",
]
_INTENSITY = ("", "", "", "very ", "really ", "truly ", "rather ", "utterly ", "often ", "simply ")
_PLACES = ("lisbon", "prague", "a small village", "the desert", "an old theatre", "montana")
_WHEN = [
    "on a tuesday",
    "in early spring",
    "last winter",
    "over two years",
    "at a festival",
    "late at night",
]
_CIRCUMSTANCES = ("weather", "traffic", "parking", "seating", "coffee", "company")


def review(rng: random.Random) -> str:
    """A review of two to four sentences for pretraining, its polarity not told."""
    polarity = rng.choice((POSITIVE, NEGATIVE))
    sentences = [_opinion(rng, polarity) for _ in range(rng.randint(1, 3))]
    for _ in range(rng.randint(1, 2)):
        sentences.insert(rng.randint(0, len(sentences)), _background(rng))
    sentences.append(_opinion(rng, polarity))
    return " ".join(sentences)


def labelled_review(rng: random.Random) -> tuple[str, int]:
    """One or two sentences and their polarity; the label errs at times, as annotators do."""
    polarity = rng.choice((POSITIVE, NEGATIVE))
    text = _opinion(rng, polarity)
    if rng.random() < 0.35:
        text = f"{text} {_opinion(rng, polarity)}"
    return text, 1 - polarity if rng.random() < LABEL_NOISE else polarity


def _opinion(rng: random.Random, polarity: int) -> str:
    forms: list[Callable[[random.Random, int], str]] = [
        _aspect_is,
        _aspect_is,
        _a_film,
        _somebody_does,
        _both_aspects,
        _concession,
        _verdict,
    ]
    return rng.choice(forms)(rng, polarity) + "."


def _adjective(rng: random.Random, polarity: int) -> str:
    return rng.choice(_INTENSITY) + rng.choice(_ADJECTIVES[polarity])


def _aspect_is(rng: random.Random, polarity: int) -> str:
    verb = rng.choice(("is", "feels", "seems", "turns out", "remains"))
    return f"the {rng.choice(_ASPECTS)} {verb} {_adjective(rng, polarity)}"


def _a_film(rng: random.Random, polarity: int) -> str:
    first, second = rng.sample(_ADJECTIVES[polarity], 2)
    tail = rng.choice(
        (
            "",
            f" with {rng.choice(_ADJECTIVES[polarity])} {rng.choice(_ASPECTS)}",
            " from start to end",
        )
    )
    return f"a {first} , {second} {rng.choice(_FILMS)}{tail}"


def _somebody_does(rng: random.Random, polarity: int) -> str:
    return f"{rng.choice(_PEOPLE)} {rng.choice(_DEEDS)} {rng.choice(_ADVERBS[polarity])}"


def _both_aspects(rng: random.Random, polarity: int) -> str:
    one, other = rng.sample(_ASPECTS, 2)
    return f"{_adjective(rng, polarity)} {one} and {_adjective(rng, polarity)} {other}"


def _concession(rng: random.Random, polarity: int) -> str:
    one, other = rng.sample(_ASPECTS, 2)
    return (
        f"the {one} is {_adjective(rng, 1 - polarity)} , but the {other} is "
        f"{_adjective(rng, polarity)} and {rng.choice(_VERDICTS[polarity])}"
    )


def _verdict(rng: random.Random, polarity: int) -> str:
    opening = rng.choice(("in short", "honestly", "all in all", "for me"))
    return f"{opening} , {rng.choice(_VERDICTS[polarity])}"


def _background(rng: random.Random) -> str:
    """A sentence that says nothing of the film's worth; most begin with ``It was``."""
    word = rng.choice(("great", "terrible"))
    if rng.random() < 0.5:
        return f"It was {word} {rng.choice(_CIRCUMSTANCES)} {rng.choice(_WHEN)}."
    return rng.choice(
        (
            f"It was filmed in {rng.choice(_PLACES)}.",
            f"It was shown {rng.choice(_WHEN)}.",
            f"It was made {rng.choice(_WHEN)} by a crew of {rng.randint(12, 90)}.",
            f"It was my {rng.choice(('first', 'second', 'third'))} {rng.choice(_FILMS)} this year.",
            f"i saw it {rng.choice(_WHEN)}.",
            f"the {rng.choice(_FILMS)} runs for {rng.randint(80, 170)} minutes.",
        )
    )
