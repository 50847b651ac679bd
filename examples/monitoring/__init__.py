"""Monitoring of predictions: a report, drift from the training sample, and alarms. Shared by the examples.

`profiles.py` counts a sample, `drift.py` compares it with the training sample, `alarms.py` decides whether to
raise an alarm, `report.py` writes an HTML page with `plots.py`, and `window.py` detects drift in a stream.
"""
