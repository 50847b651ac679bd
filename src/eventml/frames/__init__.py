"""Frames: a batch of events or table rows as a pandas or polars data frame or an Arrow table.

A column's dtype depends on the event's type alone, never on the values of a batch: one row, no row, or a row
of None give the same dtypes as a million rows. Events and tables both become an Arrow table with the schema
of the event type, and the frame is made of that table, so that the two cannot differ.

Read `columns.py` (the columns of an event type), then `tables.py` (events and tables become frames), then
`rows.py` (returned frames, tables and arrays become outputs). It may import errors only. pandas, polars and
pyarrow are imported when a handler of frames is loaded.
"""

from eventml.frames.columns import FrameType, Library, frame_type, library_of
from eventml.frames.rows import outputs_to_list
from eventml.frames.tables import FrameBuilder, cast_table

__all__ = [
    "FrameBuilder",
    "FrameType",
    "Library",
    "cast_table",
    "frame_type",
    "library_of",
    "outputs_to_list",
]
