"""The record of one cell: what is written, how a cell is named, and how records are read back.

A *cell* is one resolved configuration (norm, batch size, placement, model, data, seed ...). It writes one
`result.json`, once. Training writes these files, the report reads them, and neither knows of the other. Only the
standard library is used, so that a record can be read where nothing else of the package is wanted.
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
