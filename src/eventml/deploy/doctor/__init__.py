"""The doctor: measures what a predictor costs, and says how to run it.

In reading order: `measurements.py` calls the predictor with batches of all sizes and measures;
`worker_rate.py` runs a worker with it in memory; `examination.py` holds the figures; `advice.py` decides from
these which options suit it, and warns of known problems. It may import bus, runtime and what these import.
"""

from eventml.deploy.doctor.advice import Advice, advise
from eventml.deploy.doctor.examination import BatchCost, Examination
from eventml.deploy.doctor.measurements import examine

__all__ = ["Advice", "BatchCost", "Examination", "advise", "examine"]
