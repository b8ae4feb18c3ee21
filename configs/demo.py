"""The five-minute demo: a small OPT learns to say what it knows of film reviews, on a laptop.

    zojax train --config configs/demo.py

The same as ``zojax demo``; the configuration is in the package, beside its model and its data.
About a minute on 2 CPU cores. ``--set data.shuffle_labels=true --set run.dir=runs/control`` is
the control: the same run on labels that mean nothing, which must not learn.
"""

from zojax.demo import get_config

__all__ = ["get_config"]
