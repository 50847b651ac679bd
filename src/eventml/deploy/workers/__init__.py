"""Workers as a service: many processes under a supervisor, with health checks, metrics and a log.

Read `service.py` first, then `supervisor.py` with `restarts.py`, `pool.py` and `worker_handle.py`; then
`worker_process.py`, the process that they start, and `ipc.py`, the messages between the two. `status.py`,
`health.py`, `operations.py` and `metrics.py` tell operators how the service is; `logs.py` and `exit.py` stand
alone. It may import bus, runtime, models and config; it does not know the web service or batch jobs.
"""

from eventml.deploy.workers.exit import force_exit_later
from eventml.deploy.workers.health import HealthLimits, InProcessHealth, serve_operations
from eventml.deploy.workers.ipc import WorkerSpec
from eventml.deploy.workers.logs import LogRateLimit, start_service_logging, utc_timestamp
from eventml.deploy.workers.operations import HostPort, OperationsEndpoints, parse_host_port
from eventml.deploy.workers.service import ServicePlan, run_service
from eventml.deploy.workers.status import RunningWorker, WorkerFactory

__all__ = [
    "HealthLimits",
    "HostPort",
    "InProcessHealth",
    "LogRateLimit",
    "OperationsEndpoints",
    "RunningWorker",
    "ServicePlan",
    "WorkerFactory",
    "WorkerSpec",
    "force_exit_later",
    "parse_host_port",
    "run_service",
    "serve_operations",
    "start_service_logging",
    "utc_timestamp",
]
