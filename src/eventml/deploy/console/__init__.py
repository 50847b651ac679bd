"""The console: the pages of a service on its operations port, and the numbers that `eventml top` shows too.

- `numbers.py`: the numbers of a service, from two statuses; `collector.py` takes them once per interval, of
  this process or of another one, `history.py` keeps them.
- `records.py`, `dead_letters.py`, `bus_graph.py`: records, dead letters and the graph of a bus, for the pages
  and for the commands.
- `site.py` answers requests for pages: `live_pages.py`, `dead_letters.py`, `try_it.py`. `sessions.py`
  says who may see records, `broker.py` reads them. `templates.py` makes HTML.

`pages/` has the templates, `assets/` the script, the style and uPlot 1.6.32 as npm has it.

It may import bus, runtime, config and `deploy.workers`.
"""

from eventml.deploy.console.bus_graph import Node, layers, topology
from eventml.deploy.console.collector import fetch_status, remote_status
from eventml.deploy.console.dead_letters import read_dead_letters, replay_or_drop_all
from eventml.deploy.console.numbers import (
    Snapshot,
    format_age,
    format_bound,
    format_count,
    format_memory,
    format_seconds,
    handler_numbers,
    loaded_models,
    quantile,
    worker_numbers,
)
from eventml.deploy.console.records import dead_letter_parts, delivery_to_json, format_time, one_line
from eventml.deploy.console.site import open_console

__all__ = [
    "Node",
    "Snapshot",
    "dead_letter_parts",
    "delivery_to_json",
    "fetch_status",
    "format_age",
    "format_bound",
    "format_count",
    "format_memory",
    "format_seconds",
    "format_time",
    "handler_numbers",
    "layers",
    "loaded_models",
    "one_line",
    "open_console",
    "quantile",
    "read_dead_letters",
    "remote_status",
    "replay_or_drop_all",
    "topology",
    "worker_numbers",
]
