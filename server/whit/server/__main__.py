"""``python -m whit.server``: the daemon alone, told everything by ``WHIT_*`` variables. ``whit serve`` has flags too."""

from __future__ import annotations

import os
import sys

from whit.contract.manifest import PackageError
from whit.server.config import ConfigError, build_config
from whit.server.errors import ServiceError
from whit.server.index import DataDirectoryLocked


def main() -> int:
    """Serves until a signal; returns the exit status: 0, 1 if a worker died or it could not start, 2 for a bad setting."""
    from whit.server.app import ListenError, serve

    try:
        return serve(build_config({}, os.environ))
    except ConfigError as error:
        print(f"whit.server: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (PackageError, DataDirectoryLocked, ListenError, ServiceError) as error:
        print(f"whit.server: {error}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
