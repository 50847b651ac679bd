"""Workers as a service: many processes under a supervisor, with health checks, metrics and a log.

Read `service.py` first, then `supervisor.py` with `restarts.py`, its decisions, and `worker_handle.py`; then
`worker_process.py`, the process that they start, and `reports.py`, what it is told and what it reports.
`readiness.py`, `metrics.py` and `operations.py` tell operators how the service is, over `http_server.py`;
`logs.py` stands alone. It may import bus, runtime, models and config; it does not know the web service or
batch jobs.
"""

from eventml.deploy.workers.http_server import HostPort, Pages, Request, Response, parse_host_port
from eventml.deploy.workers.logs import make_errors_printable, start_service_logging, utc_timestamp
from eventml.deploy.workers.operations import (
    OpenPages,
    answer_operations,
    serve_operations,
    serve_status,
    watch_health,
)
from eventml.deploy.workers.readiness import group_lags, unready_reasons
from eventml.deploy.workers.reports import (
    BREAKER_OPEN,
    HandlerReport,
    RunningWorker,
    ServiceStatus,
    Totals,
    WorkerSpec,
    WorkerStatus,
    add_totals,
    handler_totals,
)
from eventml.deploy.workers.restarts import HealthLimits
from eventml.deploy.workers.service import ServicePlan, run_service
from eventml.deploy.workers.supervisor import Supervisor
from eventml.deploy.workers.worker_process import force_exit_later

__all__ = [
    "BREAKER_OPEN",
    "HandlerReport",
    "HealthLimits",
    "HostPort",
    "OpenPages",
    "Pages",
    "Request",
    "Response",
    "RunningWorker",
    "ServicePlan",
    "ServiceStatus",
    "Supervisor",
    "Totals",
    "WorkerSpec",
    "WorkerStatus",
    "add_totals",
    "answer_operations",
    "force_exit_later",
    "group_lags",
    "handler_totals",
    "make_errors_printable",
    "parse_host_port",
    "run_service",
    "serve_operations",
    "serve_status",
    "start_service_logging",
    "unready_reasons",
    "utc_timestamp",
    "watch_health",
]
