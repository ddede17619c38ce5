"""`python -m composer`: the command line."""

import sys

from composer.cli.main import main

sys.exit(main())
