"""Stream deployment: workers under a supervisor, with health checks and metrics."""

from eventml.deploy.workers.alone import Alone, served
from eventml.deploy.workers.at_work import AtWork
from eventml.deploy.workers.leaving import last_call
from eventml.deploy.workers.liveness import Limits
from eventml.deploy.workers.logs import start_logging, utc
from eventml.deploy.workers.operations import Address, Operations, read_address
from eventml.deploy.workers.reports import Orders
from eventml.deploy.workers.service import Plan, run_service
from eventml.deploy.workers.sparing import Sparing

__all__ = [
    "Address",
    "Alone",
    "AtWork",
    "Limits",
    "Operations",
    "Orders",
    "Plan",
    "Sparing",
    "last_call",
    "read_address",
    "run_service",
    "served",
    "start_logging",
    "utc",
]
