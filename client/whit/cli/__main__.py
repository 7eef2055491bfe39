"""``python -m whit.cli``: the ``whit`` command where no script is on the path."""

import sys

from whit.cli import main

sys.exit(main())
