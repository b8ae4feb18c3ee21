"""A run that is killed again and again ends as one that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns import LONG
from tests.kept_programs import QUICK_FLAGS

KILLS = 300 if LONG else 4
CAMPAIGN = Path(__file__).with_name("crash_campaign.py")


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing():
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--kills", str(KILLS)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{KILLS} kills; ")
