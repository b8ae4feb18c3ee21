"""From scored pages to the answers of the requests on them."""

from collections.abc import Sequence

import numpy as np

from zojax.engine.requests import Scores
from zojax.engine.score_items import by_candidate
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
