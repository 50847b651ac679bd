"""What travels between the stages, and what they ask of a source and of a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventml.deploy.batch.schema import Schema

Column: TypeAlias = Any
"""The values of one field, a row each: a list, or a pyarrow Array or ChunkedArray."""

Position: TypeAlias = Any
"""How far a source has been read: anything JSON can hold. Opaque to all but the source it came from."""


class Rejected(msgspec.Struct, frozen=True):
    """A row that has no prediction, and why.

    Attributes:
        id: The row's id; where it has none that can be read, its place in the source, such as `line 17`.
        exception: The class of what was raised.
        message: What it said, cut to size.
        row: The row as JSON, as far as it could be read.
        attempts: How often it was tried.
    """

    id: str
    exception: str
    message: str
    row: str
    attempts: int = 1


class Chunk(msgspec.Struct):
    """Some rows as they were read.

    Attributes:
        after: The position behind them.
        ids: Their ids, None in the place of one that is missing. Empty for `lines`.
        columns: Their values by column, without the id unless the event has it as a field.
        lines: JSON lines in place of columns, and where each stands in the source.
        rejected: Rows that could not be read at all; they are in neither of the others.
        done: How much of the source lies behind them, in the unit of `Source.total`.
        places: Where a row stands in the source, in words, by its number in the chunk.
    """

    after: Position
    ids: Column = ()
    columns: Mapping[str, Column] = {}
    lines: Sequence[bytes] | None = None
    rejected: Sequence[Rejected] = ()
    done: int = 0
    places: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.ids if self.lines is None else self.lines) + len(self.rejected)


class Source(Protocol):
    """Where rows are read from. Blocking; used from one thread at a time."""

    @property
    def columns(self) -> Sequence[str] | None:
        """The names of its columns; None where each row has its own."""

    def fingerprint(self) -> str:
        """What is another where an old position means nothing any more."""

    def total(self) -> int | None:
        """How much there is to read, in the unit of `Chunk.done`; None is unknown."""

    def chunks(self, wanted: Sequence[str], *, rows: int, after: Position | None) -> Iterator[Chunk]:
        """The rows behind a position, in the same order every time.

        Args:
            wanted: The columns to read beside the id.
            rows: How many rows a chunk has at most.
            after: Where to begin; None is the beginning.

        Raises:
            SourceError: it cannot be read.
        """

    def close(self) -> None: ...


class Counts(msgspec.Struct):
    """What has become of the rows, those of the runs that this one goes on from included.

    Attributes:
        read: Rows read. Each is counted once below.
        written: Predictions that are new in the target.
        repeated: Rows whose prediction, by the same predictor and model version, was there already.
        silent: Rows for which the predictor returned None.
        rejected: Rows set aside with the reason.
    """

    read: int = 0
    written: int = 0
    repeated: int = 0
    silent: int = 0
    rejected: int = 0


class Run(msgspec.Struct, frozen=True):
    """Which work a checkpoint belongs to: another is begun anew.

    Attributes:
        predictor: The handler's name.
        model: The model's name; empty without one.
        model_version: The model's version; empty without one.
        source: The source as it can be shown.
        fingerprint: The source's own.
        id_column: Where the ids come from.
    """

    predictor: str
    model: str
    model_version: str
    source: str
    fingerprint: str
    id_column: str

    @property
    def suffix(self) -> str:
        """What stands behind the row's id in a prediction's."""
        return f"{self.predictor}@{self.model_version}" if self.model else self.predictor


class Checkpoint(msgspec.Struct):
    """How far a run has come, kept with what it has written.

    Attributes:
        position: Behind the last row that is finished; None at the beginning.
        counts: Up to there.
    """

    position: Position | None = None
    counts: Counts = msgspec.field(default_factory=Counts)


class Answered(msgspec.Struct):
    """The predictions of a chunk, as columns, and what goes beside them.

    Attributes:
        after: The position behind the chunk.
        ids: The ids of the rows that have one.
        columns: The outputs' values in the order of the schema's fields.
        schema: What they are.
        rejected: The rows that have none.
        read: The rows of the chunk.
        repeated: Of these, those that were not called for, because the target has them.
        silent: And those for which the predictor returned None.
        done: See `Chunk.done`.
    """

    after: Position
    ids: Column
    columns: Sequence[Column]
    schema: Schema | None
    rejected: Sequence[Rejected]
    read: int
    repeated: int
    silent: int
    done: int


class Target(Protocol):
    """Where predictions are written to. Blocking; used from one thread at a time."""

    def begin(self, run: Run, schema: Schema | None) -> Checkpoint:
        """Make ready, and say where the run goes on: at its checkpoint if it was cut short, else anew.

        Raises:
            TargetError: it cannot be written, or has other columns.
        """

    def known(self, ids: Column) -> set[Any]:
        """Those of the ids that have a prediction there already: they need not be called for.

        It need not know all; `write` writes none twice whatever this says.
        """

    def write(self, answered: Answered) -> Counts:
        """Write a chunk's predictions and rejects, and the checkpoint with them.

        Returns:
            The counts so far.

        Raises:
            TargetError: nothing of it was written.
        """

    def pause(self) -> None:
        """Keep all that was written: the run stops here for now."""

    def finish(self) -> None:
        """All has been read: complete the target."""

    def close(self) -> None: ...
