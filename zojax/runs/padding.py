"""Pages whose shape does not depend on the data: one for each example, with room for any."""

from collections.abc import Iterable

from zojax.config import Config
from zojax.errors import InputError
from zojax.scoring import Item, PageShape
from zojax.scoring.buckets import of_whole_vectors


def padded_shape(
    config: Config, max_positions: int, num_pages: int, *, multiple_of: int = 1
) -> PageShape | None:
    """The shape of a batch of which every example has a page of its own.

    The candidates of an example share its prompt, which is at most so long that the longest of them
    still fits behind it; of the others, only all but their last tokens are computed.

    Args:
        config: the run's configuration.
        max_positions: the number of positions that the model has.
        num_pages: the most examples of a batch.
        multiple_of: a number that must divide them (the size of the mesh's data axis).

    Returns:
        The shape; None if the configuration's pages are packed.

    Raises:
        InputError: the devices cannot share the pages evenly.
    """
    candidates, longest = config.train.padded_candidates, config.train.padded_candidate_tokens
    if candidates is None:
        return None
    if num_pages % multiple_of:
        raise InputError(
            f"train.padded_candidates={candidates}: {num_pages} examples that are scored together "
            f"have as many pages, which mesh.data={multiple_of} does not divide"
        )
    length = min(config.data.max_length, max_positions)
    tokens = length - 1 + (candidates - 1) * (longest - 1)
    reads, scored = 1 + candidates * (longest - 1), candidates * longest
    return of_whole_vectors(PageShape(num_pages, tokens, reads, scored))


def check_padded(config: Config, items: Iterable[Item]) -> None:
    """Raises ``InputError`` if pages are padded, and an item has no room on one."""
    candidates, longest = config.train.padded_candidates, config.train.padded_candidate_tokens
    if candidates is None:
        return
    for item in items:
        most = max(map(len, item.candidates))
        if len(item.candidates) > candidates:
            raise InputError(
                f"{item.name}: has {len(item.candidates)} candidates, but train.padded_candidates "
                f"is {candidates}: raise it, or leave it out"
            )
        if most > longest:
            raise InputError(
                f"{item.name}: has a candidate of {most} tokens, but "
                f"train.padded_candidate_tokens is {longest}: raise it, or shorten the candidate"
            )
