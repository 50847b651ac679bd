"""The runtime: runs the handlers of a bus, from receiving events to completing them.

In reading order:

- `loaded_handlers.py` loads the handlers' models and enters their lifespans; `golden_rows.py` checks a model
  before it is used. `worker.py` runs all handlers of a bus. `model_updates.py` finds new versions of a model.
- `pipeline.py` runs one handler, in three stages: receive, process, complete. `intake.py` bounds
  what it holds.
- The steps from a batch to its completions: `dedupe.py`, `poison.py`, `staleness.py`, `concurrency.py` (calls
  for many single events at once), `retry.py` with `retry_queue.py`, `handler_call.py` with `calling.py`,
  `output_checks.py` and `outputs.py`.
- Only with a canary: `canary_call.py` calls both models, `canary_trial.py` decides by `sequential_test.py`,
  and `canary_control.py` agrees with the other workers.
- `circuit_breaker.py` stops a handler while most of its events fail; `failure_log.py` logs causes.
- `failures.py` classifies exceptions, `infrastructure.py` knows those of client libraries, `backoff.py` waits
  between attempts, `outages.py` logs what fails at the broker, `dead_letters.py` writes and reads
  dead letters, `replay.py` chooses and replays them.
- `replies.py` answers requests; `stats.py` counts, `predictions.py` what is predicted; `tracing.py` and
  `spans.py` record traces.

The runtime may import `handlers`, `codec`, `models`, `frames`, `backends.base`, `records` and `errors`.
"""

from eventml.runtime.backoff import BrokerRetry
from eventml.runtime.calling import Caller, Item
from eventml.runtime.canary_control import canary_message, canary_topic
from eventml.runtime.canary_trial import CanaryRecord, CanaryTrial
from eventml.runtime.dead_letters import (
    DLQ_PREFIX,
    MISPLACED,
    DeadLetterCompletion,
    DeadLetterDelivery,
    DeadLetterQueue,
    dead_letter_queues,
    dead_letter_topic,
    read_dead_letter,
)
from eventml.runtime.failures import (
    CallResults,
    Failed,
    describe,
    leaves,
    task_group,
)
from eventml.runtime.golden_rows import read_golden_rows
from eventml.runtime.handler_call import HandlerCall, call_without_stream
from eventml.runtime.loaded_handlers import LoadedHandler, load_canary, load_handlers, load_model
from eventml.runtime.outages import OutageLog
from eventml.runtime.output_checks import OutputChecks, Prediction
from eventml.runtime.outputs import (
    answer_is_list,
    answer_type,
    are_values,
    output_event_types,
    outputs_as_json,
    plain_outputs,
)
from eventml.runtime.predictions import Profile
from eventml.runtime.replay import DeadLetterAction, DeadLetterFilter, ReplayReport, browse, replay_or_drop
from eventml.runtime.replies import REPLY_RETENTION, predictor_of, read_reply, reply_topic, request_id
from eventml.runtime.retry import FailFast, Retry
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
