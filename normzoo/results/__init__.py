"""The record of one cell: its schema, the name of a cell, and reading and writing records.

A *cell* is one resolved configuration (norm, batch size, placement, model, data, seed ...). It writes one
`result.json`, once. Training writes these files and the report reads them, independently of each other. This package
needs only the standard library, so that records can be read without the rest of normzoo's dependencies.
"""

from normzoo.results.identity import cell_id, decisive
from normzoo.results.read import NO_RECORD, NewerSchemaError, read_file, read_result, read_results, stamp
from normzoo.results.record import FILE_NAME, FINISHED, SCHEMA, STATUSES, CellResult
from normzoo.results.write import check_no_newer, write_atomic, write_result

__all__ = [
    "FILE_NAME",
    "FINISHED",
    "NO_RECORD",
    "SCHEMA",
    "STATUSES",
    "CellResult",
    "NewerSchemaError",
    "cell_id",
    "check_no_newer",
    "decisive",
    "read_file",
    "read_result",
    "read_results",
    "stamp",
    "write_atomic",
    "write_result",
]
