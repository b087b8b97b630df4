# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The index of a split: a Parquet file with a row an image."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import IO, Any

from vlm_perception.curation.final.shard import described, image_name, key
from vlm_perception.curation.recipe import CurationError
from vlm_perception.curation.tasks import Record

ROWS = 4096
"""Of a row group, which is held in memory."""
NUMBERS = ("id", "source", "stamp_ns")
SIDES = ("width", "height")
TEXTS = (
    *("key", "shard", "image", "sha256", "path", "recording", "place", "camera", "licence"),
    *("phash",),
)
SHARES = ("time_s", "sharpness", "brightness")
CAPTION = ("text", "language", "by")


def require_parquet() -> None:
    """See to it that Parquet can be written.

    Raises:
        CurationError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise CurationError(
            "04_final has indexes in Parquet, which need pyarrow: `pip install pyarrow`, or stop "
            "before it with --to"
        )


class Index:
    """An index that is being written; a context manager."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Begin it."""
        import pyarrow.parquet  # noqa: PLC0415 - only where it is used

        self._arrow = pyarrow
        self._schema = _schema(pyarrow)
        self._writer = pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []

    def __enter__(self) -> Index:
        """It is begun."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the rest."""
        self._write()
        self._writer.close()

    def add(self, record: Record) -> None:
        """Add the row of an image."""
        known = {name: record.get(name) for name in self._schema.names}
        self._rows.append(
            {
                **known,
                "key": key(record),
                "image": image_name(record),
                "captions": [
                    {name: caption.get(name) for name in CAPTION}
                    for caption in record.get("captions", ())
                ],
                "changed": record.get("changed", []),
                "record": described(record).decode().strip(),
            }
        )
        if len(self._rows) == ROWS:
            self._write()

    def _write(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
            self._rows = []


def _schema(arrow: Any) -> Any:
    """What is asked for most as columns of its own, and all that is known as JSON in `record`."""
    text = arrow.string()
    return arrow.schema(
        [
            *((name, arrow.int64()) for name in NUMBERS),
            *((name, arrow.int32()) for name in SIDES),
            *((name, text) for name in TEXTS),
            *((name, arrow.float64()) for name in SHARES),
            ("changed", arrow.list_(text)),
            ("objects", arrow.list_(text)),
            ("captions", arrow.list_(arrow.struct([(name, text) for name in CAPTION]))),
            ("record", text),
        ]
    )
