"""``python scripts/train.py --config configs/opt13b_lozo.py``: the same as ``zojax train``."""

import sys

from zojax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
