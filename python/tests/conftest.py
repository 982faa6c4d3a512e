"""The tests run against the package of this checkout, or the installed one if there is no native module here."""

import sys
from pathlib import Path

try:
    import forebay  # noqa: F401
except ImportError:
    sys.path.insert(0, str(Path(__file__).parents[1]))
