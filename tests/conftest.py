"""What every test may count on: the repository root on the path, few threads, no Ray authentication, no luck."""

import os
import sys
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# The same examples in every run, however slow the machine: a test that fails here fails everywhere.
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")
