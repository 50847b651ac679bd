"""The web service: the predictors of a bus, asked over HTTP.

A request's events are deliveries, and its answers are completions: `desk.Desk` is a backend whose topics
are requests, and a worker of the very runtime that handles streams works over it. So batching, decoding,
checks, bisecting, timeouts and counters are a stream's, and so are the predictions, to the last byte.
"""
