"""The runtime: a bus's handlers at work, from receiving events to completing them.

Read `worker.py` first, then `pipeline.py`. It may import handlers, codec, models, frames and backends.base.
"""

from eventml.runtime.answering import BatchProcessor
from eventml.runtime.calling import Caller
from eventml.runtime.checks import OutputChecks, all_finite
from eventml.runtime.deadletters import DLQ_PREFIX, dead_letter_topic
from eventml.runtime.equipment import LoadedHandler, enter_lifespans, load_handler
from eventml.runtime.failures import backoff_delay, describe
from eventml.runtime.histogram import SECONDS, SIZES, Histogram
from eventml.runtime.items import Deferred, Failed, Item
from eventml.runtime.letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterQueue,
    dead_letter_queues,
    read_dead_letter,
)
from eventml.runtime.outputs import Prediction
from eventml.runtime.recovery import Recovery
from eventml.runtime.replaying import DeadLetterAction, ReplayReport, browse, replay_or_drop
from eventml.runtime.replies import RETENTION, answers, predictor_of, read_reply, reply_topic
from eventml.runtime.stats import Stats
from eventml.runtime.support import check_capabilities
from eventml.runtime.tasks import task_group
from eventml.runtime.tracing import Tracing, find_tracing
from eventml.runtime.worker import Worker
from eventml.runtime.written import output_event_type

__all__ = [
    "DLQ_PREFIX",
    "RETENTION",
    "SECONDS",
    "SIZES",
    "BatchProcessor",
    "Caller",
    "DeadLetter",
    "DeadLetterAction",
    "DeadLetterFilter",
    "DeadLetterQueue",
    "Deferred",
    "Failed",
    "Histogram",
    "Item",
    "LoadedHandler",
    "OutputChecks",
    "Prediction",
    "Recovery",
    "ReplayReport",
    "Stats",
    "Tracing",
    "Worker",
    "all_finite",
    "answers",
    "backoff_delay",
    "browse",
    "check_capabilities",
    "dead_letter_queues",
    "dead_letter_topic",
    "describe",
    "enter_lifespans",
    "find_tracing",
    "load_handler",
    "output_event_type",
    "predictor_of",
    "read_dead_letter",
    "read_reply",
    "replay_or_drop",
    "reply_topic",
    "task_group",
]
