"""The runtime: runs the handlers of a bus, from receiving events to completing them.

In reading order:

- `loaded_handlers.py` loads the handlers' models and enters their lifespans; `worker.py` runs all handlers.
- `pipeline.py` runs one handler, in three stages: receive, process, complete. `intake.py` bounds what it
  holds, `dedupe.py` completes duplicates without a call, and `replies.py` answers requests.
- `calls/` calls the function, checks and encodes; `failures/` retries and writes dead letters;
  `model_versions/` checks and replaces models, and tries canaries.
- `stats.py` counts, `predictions.py` what is predicted; `tracing.py` and `spans.py` record traces.

Other packages import from here; the three folders have no face of their own. The runtime may import
`handlers`, `codec`, `models`, `frames`, `backends.base`, `records` and `errors`.
"""

from eventml.runtime.calls.caller import Caller, Item
from eventml.runtime.calls.handler_call import HandlerCall, call_without_stream
from eventml.runtime.calls.output_checks import OutputChecks, Prediction
from eventml.runtime.calls.outputs import (
    answer_is_list,
    answer_type,
    are_values,
    output_event_types,
    outputs_as_json,
    plain_outputs,
)
from eventml.runtime.failures.classification import CallResults, Failed
from eventml.runtime.failures.dead_letters import (
    DLQ_PREFIX,
    MISPLACED,
    DeadLetterCompletion,
    DeadLetterDelivery,
    DeadLetterQueue,
    dead_letter_queues,
    dead_letter_topic,
    read_dead_letter,
)
from eventml.runtime.failures.exceptions import describe, leaves, task_group
from eventml.runtime.failures.outages import BrokerRetry, OutageLog
from eventml.runtime.failures.replay import (
    DeadLetterAction,
    DeadLetterFilter,
    ReplayReport,
    browse,
    replay_or_drop,
)
from eventml.runtime.failures.retry import FailFast, Retry
from eventml.runtime.loaded_handlers import LoadedHandler, load_canary, load_handlers, load_model
from eventml.runtime.model_versions.canary import canary_message, canary_topic
from eventml.runtime.model_versions.canary_trial import CanaryRecord, CanaryTrial
from eventml.runtime.model_versions.golden_rows import read_golden_rows
from eventml.runtime.predictions import Profile
from eventml.runtime.replies import REPLY_RETENTION, predictor_of, read_reply, reply_topic, request_id
from eventml.runtime.stats import SECONDS_BUCKETS, SIZE_BUCKETS, Histogram, Stats
from eventml.runtime.tracing import Tracing, find_tracing
from eventml.runtime.worker import Worker, check_capabilities, check_topics

__all__ = [
    "DLQ_PREFIX",
    "MISPLACED",
    "REPLY_RETENTION",
    "SECONDS_BUCKETS",
    "SIZE_BUCKETS",
    "BrokerRetry",
    "CallResults",
    "Caller",
    "CanaryRecord",
    "CanaryTrial",
    "DeadLetterAction",
    "DeadLetterCompletion",
    "DeadLetterDelivery",
    "DeadLetterFilter",
    "DeadLetterQueue",
    "FailFast",
    "Failed",
    "HandlerCall",
    "Histogram",
    "Item",
    "LoadedHandler",
    "OutageLog",
    "OutputChecks",
    "Prediction",
    "Profile",
    "ReplayReport",
    "Retry",
    "Stats",
    "Tracing",
    "Worker",
    "answer_is_list",
    "answer_type",
    "are_values",
    "browse",
    "call_without_stream",
    "canary_message",
    "canary_topic",
    "check_capabilities",
    "check_topics",
    "dead_letter_queues",
    "dead_letter_topic",
    "describe",
    "find_tracing",
    "leaves",
    "load_canary",
    "load_handlers",
    "load_model",
    "output_event_types",
    "outputs_as_json",
    "plain_outputs",
    "predictor_of",
    "read_dead_letter",
    "read_golden_rows",
    "read_reply",
    "replay_or_drop",
    "reply_topic",
    "request_id",
    "task_group",
]
