"""Run blocks of a page as one Python session, with `await` at its top level.

Reads a JSON array of [place, code] from standard input.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
import types


async def main(blocks: list[tuple[str, str]]) -> None:
    """Run the blocks in one namespace, that of `__main__`."""
    session = types.ModuleType("__main__")
    sys.modules["__main__"] = session
    for place, code in blocks:
        compiled = compile(code, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        done = eval(compiled, session.__dict__)  # noqa: S307 - our own pages
        if inspect.iscoroutine(done):
            await done


if __name__ == "__main__":
    sys.path[0] = ""  # the modules of the page are in the current folder
    sys.ps1 = ">>> "  # as in a session, a handler that is defined again replaces itself
    asyncio.run(main(json.load(sys.stdin)))
