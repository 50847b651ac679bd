"""Where the log goes while a command runs: to standard error."""

from __future__ import annotations

import logging

from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from eventml.cli.reporting import standard_error
from eventml.deploy.workers import LogRateLimit


def start_logging() -> None:
    """Send the log to standard error, eventml's own from INFO on and everyone else's from WARNING on.

    An app that has set up logging by itself while it was imported (`logging.basicConfig`) is left alone.
    """
    if logging.root.handlers:
        return
    if standard_error().is_terminal:
        handler: logging.Handler = RichHandler(
            console=standard_error(), show_path=False, highlighter=NullHighlighter()
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(LogRateLimit())
    logging.root.addHandler(handler)
    logging.getLogger("eventml").setLevel(logging.INFO)
