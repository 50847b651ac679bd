"""One call of a handler for a batch: call, check and encode.

In reading order: `caller.py` calls the function, `output_checks.py` checks what it returns, `outputs.py`
makes records of that, `handler_call.py` does all three, and `concurrency.py` calls for many single events at
once.
"""
