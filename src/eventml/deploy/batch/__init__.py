"""The batch job: scoring tables and files; sources, targets and the pipeline between them."""

from eventml.deploy.batch.job import CHECKPOINT, CHUNK, Plan, Summary, score
from eventml.deploy.batch.places import parse
from eventml.deploy.batch.schedule import Cron, Every

__all__ = ["CHECKPOINT", "CHUNK", "Cron", "Every", "Plan", "Summary", "parse", "score"]
