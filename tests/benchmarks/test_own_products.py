"""The share of a step is that of its own model's products, and the goal is the first model's."""

import pytest
from own_products import Share, table

FIRST = Share("a", seconds=[1.0, 2.0, 4.0], products=[0.8, 1.5, 3.2])


@pytest.mark.parametrize(("products", "word"), [(0.77, "yes"), (0.75, "no")])
def test_the_table_says_whether_the_second_models_share_is_the_firsts(products, word):
    lines = table([FIRST, Share("b", [2.0], [2 * products])], "a machine").splitlines()
    assert "| a | 2000 ms | 1500 ms | 80 % | 1.00 |" in lines
    assert f"| b | 2000 ms | {2000 * products:.0f} ms | {100 * products:.0f} % " in "\n".join(lines)
    assert lines[-1] == f"Within 5 % of the first: {word}."
