"""From scored pages to the answers of the requests on them."""

from collections.abc import Sequence

import numpy as np

from zojax.engine.requests import Scores
from zojax.scoring import Item, Pages, Ranked


def scores_of(
    ranked: Ranked, pages: Pages, items: Sequence[Item], counts: Sequence[int]
) -> list[Scores]:
    """The answer to each request.

    Args:
        ranked: the scores, on the host.
        pages: the pages.
        items: the items on them, one for each request.
        counts: how many of the most probable tokens each wants.
    """
    found = by_candidate(ranked.logprob_pc, pages, items)
    if not any(counts):
        return [Scores(logprobs) for logprobs in found]
    read_pc1 = np.asarray(pages.read_pc)[:, :, None]
    ids, logprobs = (
        by_candidate(np.take_along_axis(of_reads, read_pc1, axis=1), pages, items)
        for of_reads in (ranked.top_pra, ranked.top_logprob_pra)
    )
    tops = [
        [_tops(a[:, :count], b[:, :count]) for a, b in zip(*pair, strict=True)] if count else []
        for count, *pair in zip(counts, ids, logprobs, strict=True)
    ]
    return [Scores(*answer) for answer in zip(found, tops, strict=True)]


def _tops(ids_ca: np.ndarray, logprob_ca: np.ndarray) -> list[tuple[tuple[int, float], ...]]:
    pairs = zip(ids_ca.tolist(), logprob_ca.tolist(), strict=True)
    return [tuple(zip(*pair, strict=True)) for pair in pairs]


def by_candidate(
    logprob_pc: np.ndarray, pages: Pages, members: Sequence[Item]
) -> list[list[np.ndarray]]:
    """Groups what is known of the pages' scored tokens by item and candidate, in order.

    Args:
        logprob_pc: the log-probabilities, or anything else with these two axes first.
        pages: the pages.
        members: the items on them.
    """
    used = np.asarray(pages.weight_pc) > 0
    example, candidate = np.asarray(pages.example_pc)[used], np.asarray(pages.candidate_pc)[used]
    logprobs = logprob_pc[used]
    return [
        [logprobs[(example == i) & (candidate == k)] for k in range(len(item.candidates))]
        for i, item in enumerate(members)
    ]
