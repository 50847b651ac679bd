"""Files of predictions: written, joined and read again, by format. Tables here are pyarrow's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from eventml.deploy.batch.columns import as_list, json_texts, texts
from eventml.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from eventml.deploy.batch.chunks import Answered, Run
    from eventml.deploy.batch.places import FileFormat
    from eventml.deploy.batch.schema import Schema

ROW_GROUP: Final = 1 << 16
"""Rows in one group of a Parquet file: what is held in memory before it is written."""


class Writer(Protocol):
    """One file that is being written."""

    def write(self, table: Any) -> None: ...

    def close(self) -> None: ...


def arrow_schema(schema: Schema, *, integer_ids: bool) -> Any:
    """The columns of the file."""
    import pyarrow as pa  # noqa: PLC0415 - it comes with an extra

    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    fields = [(field.name, kinds.get(field.kind, pa.string())) for field in schema.fields]
    ours = [(name, pa.string()) for name in ("prediction_id", "predictor", "model", "model_version")]
    return pa.schema([("id", pa.int64() if integer_ids else pa.string()), *fields, *ours])


def table_of(answered: Answered, run: Run, schema: Any) -> Any:
    """A chunk's predictions as a table of that schema."""
    import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
    import pyarrow.compute as pc  # noqa: PLC0415 - it comes with an extra

    rows = len(answered.ids)
    ids = _array(answered.ids, schema.field("id").type)
    names = ids if ids.type == pa.string() else pc.cast(ids, pa.string())
    fields = answered.schema.fields if answered.schema else ()
    columns = [
        _array(json_texts(as_list(column)) if field.kind == "json" else column, schema.field(field.name).type)
        for field, column in zip(fields, answered.columns, strict=True)
    ]
    prediction_ids = pc.binary_join_element_wise(names, pa.scalar(run.suffix), "/")
    ours = [pa.repeat(pa.scalar(text), rows) for text in (run.predictor, run.model, run.model_version)]
    return pa.Table.from_arrays([ids, *columns, prediction_ids, *ours], schema=schema)


def _array(column: Any, kind: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - it comes with an extra

    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column.cast(kind)
    if kind == pa.string() and isinstance(column, list) and any(type(one) is int for one in column):
        column = texts(column)
    return pa.array(column, kind)


def writer(path: Path, form: FileFormat, schema: Any) -> Writer:
    """Begin a file; what is there is overwritten."""
    kinds: dict[FileFormat, Callable[[Path, Any], Writer]] = {
        "parquet": _ParquetWriter,
        "csv": _CsvWriter,
        "jsonl": _JsonLinesWriter,
    }
    return kinds[form](path, schema)


class _ParquetWriter:
    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - it comes with an extra

        self._writer = pq.ParquetWriter(path, schema, compression="snappy")
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, table: Any) -> None:
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - it comes with an extra

        if self._waiting:
            waiting, self._waiting, self._rows = self._waiting, [], 0
            self._writer.write_table(pa.concat_tables(waiting))

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


class _CsvWriter:
    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.csv as pc  # noqa: PLC0415 - it comes with an extra

        self._writer = pc.CSVWriter(path, schema)

    def write(self, table: Any) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _JsonLinesWriter:
    def __init__(self, path: Path, _schema: Any) -> None:
        self._stream = path.open("wb")
        self._encode = msgspec.json.Encoder().encode_lines

    def write(self, table: Any) -> None:
        self._stream.write(self._encode(table.to_pylist()))

    def close(self) -> None:
        self._stream.close()


def join(sources: Iterable[Path], target: Path, form: FileFormat, schema: Any) -> None:
    """Write one file of several, in their order."""
    if form == "parquet":
        joined = _ParquetWriter(target, schema)
        try:
            for source in sources:
                for table in read(source, form, schema):
                    joined.write(table)
        finally:
            joined.close()
        return
    with target.open("wb") as stream:
        for number, source in enumerate(sources):
            with source.open("rb") as part:
                if form == "csv" and number:
                    part.readline()
                shutil.copyfileobj(part, stream, 1 << 20)


def read(path: Path, form: FileFormat, schema: Any, columns: list[str] | None = None) -> Iterator[Any]:
    """A file of predictions, a table at a time."""
    import pyarrow as pa  # noqa: PLC0415 - it comes with an extra

    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    for batch in _batches(path, form, wanted):
        yield pa.Table.from_batches([batch]).select(wanted.names).cast(wanted)


def _batches(path: Path, form: FileFormat, schema: Any) -> Iterator[Any]:
    import pyarrow.csv as pc  # noqa: PLC0415 - it comes with an extra
    import pyarrow.json as pj  # noqa: PLC0415 - it comes with an extra
    import pyarrow.parquet as pq  # noqa: PLC0415 - it comes with an extra

    if form == "parquet":
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield from file.iter_batches(ROW_GROUP, columns=schema.names)
    elif form == "csv":
        kept = pc.ConvertOptions(include_columns=schema.names, column_types=schema, strings_can_be_null=False)
        with pc.open_csv(path, convert_options=kept) as reader:
            yield from reader
    else:
        with pj.open_json(
            path, parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        ) as reader:
            yield from reader


def check_existing(path: Path, form: FileFormat, schema: Any) -> None:
    """Pass if the file holds predictions with these columns.

    Raises:
        TargetError: it has others, or cannot be read.
    """
    names = _names(path, form)
    if set(names) != set(schema.names):
        raise TargetError(
            f"{path}: the file is there, with the columns {', '.join(names) or '(none)'}, and predictions "
            f"have {', '.join(schema.names)}: name another file, or remove this one"
        )


def schema_of(path: Path, form: FileFormat) -> Any:
    """The columns of a part; of text, which is joined as it is, nothing need be known."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - it comes with an extra

    return pq.read_schema(path) if form == "parquet" else None


def _names(path: Path, form: FileFormat) -> list[str]:
    import csv  # noqa: PLC0415

    import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
    import pyarrow.parquet as pq  # noqa: PLC0415 - it comes with an extra

    try:
        if form == "parquet":
            return list(pq.read_schema(path).names)
        with path.open(encoding="utf-8", newline="") as stream:
            if form == "csv":
                return next(csv.reader(stream), [])
            return list(msgspec.json.decode(stream.readline() or "{}", type=dict[str, msgspec.Raw]))
    except (pa.ArrowException, OSError, ValueError, msgspec.DecodeError, csv.Error) as exc:
        raise TargetError(
            f"{path}: the file is there, and holds no predictions that can be read: {exc}"
        ) from exc
