#!/usr/bin/env python3
"""Start Redis on loopback, durable, and keep it until Ctrl-C.

Users of users.acl are let in when their passwords are in the environment (REDIS_PRODUCER_PASSWORD,
REDIS_CONSUMER_PASSWORD, REDIS_OPERATOR_PASSWORD); with none of them set, anyone on this machine is.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.foreground import hold  # noqa: E402 - found only now that the root is on the path
from backends.redis.acl import passwords_in  # noqa: E402 - the same
from backends.redis.server import RedisServer  # noqa: E402 - the same


def main() -> None:
    options = _parser().parse_args()
    passwords = passwords_in(os.environ)
    server = RedisServer(
        port=options.port,
        directory=options.dir,
        unix=options.unix,
        appendfsync=options.appendfsync,
        passwords=passwords,
    )
    users = f" (users: {', '.join(passwords)})" if passwords else ""
    hold(server, lambda: f"{server.url}{users}", log=server.log)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=6379, help="0 for any free one (default: %(default)s)")
    parser.add_argument(
        "--dir", type=Path, default=ROOT / ".run" / "redis", help="where the data lives (default: .run/redis)"
    )
    parser.add_argument(
        "--appendfsync",
        choices=("always", "everysec"),
        default="everysec",
        help="always: no acknowledged write is lost in a power cut (default: %(default)s)",
    )
    parser.add_argument("--unix", action="store_true", help="a Unix socket in the folder instead of a port")
    return parser


if __name__ == "__main__":
    main()
