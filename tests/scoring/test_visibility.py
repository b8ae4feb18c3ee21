"""Who sees whom, as two ranges a token."""

import jax.numpy as jnp
import numpy as np
import pytest

from zojax.scoring import Item, pack, shape_needed
from zojax.scoring.visibility import causal_visibility, mask_of, tree_visibility


def random_pages(seed: int):
    """Pages of prompts with candidates, many of which compute no token."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(3, 90, rng.integers(low, high)).astype(np.int32)

    items = [Item(ids(1, 9), tuple(ids(1, 5) for _ in range(rng.integers(1, 5)))) for _ in range(9)]
    return pack(items, shape_needed(items, 2))


@pytest.mark.parametrize("seed", range(4))
def test_a_token_sees_its_prompt_and_its_own_candidate_up_to_itself(seed):
    pages = random_pages(seed)
    mask_pts = np.asarray(mask_of(tree_visibility(pages)))
    for p, t, s in np.ndindex(*mask_pts.shape):
        same_sequence = pages.segments_pt[p, t] == pages.segments_pt[p, s]
        branch, of_key = pages.branches_pt[p, t], pages.branches_pt[p, s]
        sees = same_sequence and s <= t and of_key in (0, branch)
        assert mask_pts[p, t, s] == sees, (p, t, s)


def test_a_lone_sequence_sees_all_that_precedes():
    mask_pts = mask_of(causal_visibility(2, 5))
    np.testing.assert_array_equal(mask_pts, np.tri(5, dtype=bool)[None].repeat(2, axis=0))
    assert mask_pts.dtype == jnp.bool_
