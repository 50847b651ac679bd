"""The doctor: measures what a predictor costs, and says how to run it.

In reading order: `measurements.py` calls the predictor with batches of all sizes, runs a worker with it in
memory, and measures; `advice.py` has the figures, decides from them which options suit the predictor, and
warns of known problems. It may import bus, runtime and what these import.
"""

from eventml.deploy.doctor.advice import Advice, BatchCost, Examination, advise
from eventml.deploy.doctor.measurements import examine

__all__ = ["Advice", "BatchCost", "Examination", "advise", "examine"]
