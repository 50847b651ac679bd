"""Deployments of a bus: `workers` (streams), `web` (requests) and `batch` (tables and files).

Read `workers` first; `web` runs in its worker processes. They may import bus and all that is below it.
"""
