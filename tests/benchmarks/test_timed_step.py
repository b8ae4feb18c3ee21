"""What a step needs is counted by hand."""

import numpy as np
from timed_step import needed_flops

from zojax.models.opt import OPTConfig
from zojax.scoring import Item


def test_needed_operations_of_one_example_are_those_counted_by_hand():
    config = OPTConfig(50, 4, 2, 2, 8, 16, 4)  # 2 layers, width 4, MLP 8
    item = Item(np.arange(3), (np.array([7]), np.array([8, 9])))
    # 4 tokens are computed (3 of the prompt, the first of "8 9"), 2 are read, 3 are scored.
    keys_and_values = 2 * 4 * (2 * 4 * 4)
    first_layer, last_layer = 4 * (2 * 16 + 2 * 32), 2 * (2 * 16 + 2 * 32)
    pairs = (1 + 2 + 3) + (3 + 1)
    attention = pairs * 2 * 4  # queries with keys, weights with values; of the first layer
    head = 3 * 4
    multiplications = keys_and_values + first_layer + last_layer + attention + head
    assert needed_flops(config, [item], num_variants=2) == 2 * 2 * multiplications
