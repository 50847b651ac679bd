"""From an Arrow table of a known schema to the frame that a handler asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventml.errors import DecodeError
from eventml.frames.tables import cast_table, schema_of, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from eventml.frames.columns import FrameType


class Framer:
    """Makes a handler's frames, of events or of tables: the same frame of either.

    A frame is the caller's to change: nothing else sees it. A pandas frame has the index 0 to n-1.

    Args:
        frame: What the handler takes. Making a framer loads its library.
    """

    def __init__(self, frame: FrameType) -> None:
        self._columns = frame.columns
        self.schema: pa.Schema = schema_of(frame.columns)
        """Of a frame as an Arrow table, whatever the handler's own is."""
        self._make: Callable[[pa.Table], Any] = _MAKERS[frame.library]()

    def of_events(self, events: Sequence[Any]) -> Any:
        """A frame with a row for each event, in their order.

        Raises:
            DecodeError: a value has no place in its column; names the column.
        """
        return self._make(table_of(events, self._columns, self.schema))

    def of_table(self, table: pa.Table) -> Any:
        """A frame with a row for each row of a table, converted as `cast_table` says, and as it fails."""
        return self._make(cast_table(table, self._columns, self.schema))

    def of_cast(self, table: pa.Table) -> Any:
        """As `of_table`, of a table that `cast_table` has made, or some rows of one."""
        return self._make(table)


def _pandas() -> Callable[[pa.Table], Any]:
    import numpy as np  # noqa: PLC0415 - all three only where a handler takes such frames
    import pandas as pd  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    # What pandas itself makes of text, whatever Arrow would: `str` from pandas 3 on, objects before.
    text = pd.Series(["text"]).dtype
    texts = {} if text == np.dtype(object) else {pa.string(): text}

    def make(table: pa.Table) -> Any:
        truths = []
        for place, field in enumerate(table.schema):
            if field.nullable and pa.types.is_int64(field.type):
                table = table.set_column(place, pa.field(field.name, pa.float64()), _floats(pa, table, place))
            elif field.nullable and pa.types.is_boolean(field.type):
                truths.append(field.name)
        frame = table.to_pandas(types_mapper=texts.get, use_threads=False)
        for name in truths:  # objects also where none is missing: the type decides, not the batch
            frame[name] = pd.Series(table.column(name).to_pylist(), dtype=object)
        return frame

    return make


def _floats(pa: Any, table: pa.Table, place: int) -> Any:
    """The ints of a column that may be missing, as pandas has them: NaN is what is missing."""
    try:
        return table.column(place).cast(pa.float64())
    except pa.ArrowInvalid as exc:
        raise DecodeError(
            f"{table.schema.field(place).name}: an int that may be None is a float64 in pandas, which this "
            f"one does not fit: {exc}"
        ) from exc


def _polars() -> Callable[[pa.Table], Any]:
    import polars as pl  # noqa: PLC0415 - only where a handler takes such frames

    return pl.from_arrow


def _pyarrow() -> Callable[[pa.Table], Any]:
    return lambda table: table


_MAKERS = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}
