"""Scoring a table or a file with a predictor of a bus, in chunks.

    source ─► read chunk N+1 │ decode and call chunk N │ write chunk N-1 with the checkpoint ─► target

Three stages overlap, each at most one chunk ahead of the next, so memory is flat. What the target holds
and the checkpoint change in one step: a run that is killed at any moment goes on where it was, and every
row is in the target once, by the key (id, predictor, model version).
"""
