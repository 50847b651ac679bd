"""What happens when a handler or the broker fails: retries, dead letters and their replay.

- `exceptions.py` describes exceptions, and `classification.py` tells failures of the infrastructure from
  those of an event. `outages.py` has the backoff between attempts, repeats a step that fails at the broker,
  and logs outages.
- The steps around the call: `retry.py` with `retry_queue.py`, `poison.py` for events that kill their worker,
  `staleness.py` for those older than `max_age`, and `circuit_breaker.py` for a handler of which most events
  fail.
- `dead_letters.py` writes and reads dead letters, `failure_log.py` logs them by cause, and `replay.py`
  replays them.
"""
