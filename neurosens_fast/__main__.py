"""``python -m neurosens_fast`` is the command ``neurosens-fast``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
