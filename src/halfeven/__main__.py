"""`python -m halfeven`."""

import sys

from halfeven.cli import main

sys.exit(main())
