"""``python scripts/train.py --config configs/opt13b_lozo.py``: the same as ``zojax train``."""

import sys

from zojax.cli import run

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    run()
