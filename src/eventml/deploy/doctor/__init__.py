"""The doctor: measures what a predictor costs, and says how to run it.

In reading order: `measurements.py` calls the predictor with batches of all sizes and measures; `advice.py`
decides, from the figures alone, which options suit it, and warns of known problems. It may import bus,
runtime and what these import.
"""

from eventml.deploy.doctor.advice import Advice, advise
from eventml.deploy.doctor.measurements import BatchCost, Examination, examine

__all__ = ["Advice", "BatchCost", "Examination", "advise", "examine"]
