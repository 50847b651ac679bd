"""The web service: a worker over a backend whose topics are requests."""

from eventml.deploy.web.application import Application
from eventml.deploy.web.inherited import inherited_worker, run_web_service
from eventml.deploy.web.jobs import predictors
from eventml.deploy.web.mounting import application
from eventml.deploy.web.serving import (
    WebWorker,
    address_of,
    listen,
    listen_together,
    loop_options,
    web_worker,
)
from eventml.deploy.web.tokens import Guard, check_address, token_of_environment

__all__ = [
    "Application",
    "Guard",
    "WebWorker",
    "address_of",
    "application",
    "check_address",
    "inherited_worker",
    "listen",
    "listen_together",
    "loop_options",
    "predictors",
    "run_web_service",
    "token_of_environment",
    "web_worker",
]
