"""Run cells as Jupyter does: in IPython, each in a task of its own, in one event loop.

Reads a JSON array of cells from standard input, and writes one of their results, by `repr`. The result of a
cell that raises is the exception.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from IPython.core.interactiveshell import InteractiveShell


async def main(cells: list[str]) -> list[str]:
    """Run the cells, and return the results."""
    shell: Any = InteractiveShell.instance()
    shell.autoawait = True
    results = []
    for cell in cells:
        transformed = shell.transform_cell(cell)
        done = await asyncio.create_task(
            shell.run_cell_async(cell, store_history=True, transformed_cell=transformed)
        )
        results.append(repr(done.error_before_exec or done.error_in_exec or done.result))
    return results


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        found = asyncio.run(main(json.load(sys.stdin)))
    sys.stdout.write(json.dumps(found))
