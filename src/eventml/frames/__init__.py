"""A batch as columns: pandas and polars data frames and Arrow tables, of events or of tables.

What a column is made of is decided by the event's type alone, never by what a batch holds: one row,
no row, or a row of None give the same dtypes as a million others. Events and tables both become an
Arrow table of that one schema, and the frame is made of it, so the two cannot differ.
"""

from eventml.frames.building import Framer
from eventml.frames.columns import Column, FrameType, Library, columns_of, frame_type, library_of
from eventml.frames.rows import listed
from eventml.frames.tables import cast_table, schema_of, table_of

__all__ = [
    "Column",
    "FrameType",
    "Framer",
    "Library",
    "cast_table",
    "columns_of",
    "frame_type",
    "library_of",
    "listed",
    "schema_of",
    "table_of",
]
