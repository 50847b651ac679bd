"""Versions of a handler's model: checked before use, replaced while the handler runs, or tried as a canary.

In reading order: `golden_rows.py` checks a version, `model_updates.py` finds a new one and has it used,
`canary.py` calls two versions and agrees with the other workers, and `canary_trial.py` decides which is
worse.
"""
