"""After the predictions: what they look like, whether the world has drifted, and whom to tell.

Shared by the examples. `profiles` and `drift` compare with the training sample, `alarms` decides,
`report` shows, `window` does the same over a stream.
"""
