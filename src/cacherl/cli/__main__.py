"""`python -m cacherl.cli`."""

import sys

from cacherl.cli import main

if __name__ == "__main__":
    sys.exit(main())
