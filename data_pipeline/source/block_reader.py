"""Lines of a text file as columns, by Arrow's parser."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.csv as pa_csv

from data_pipeline.source.cells import LONGEST_MISSING, MISSING, USUAL_MISSING, NumberMarks
from data_pipeline.source.dialect import Dialect
from data_pipeline.source.wrong_rows import WrongRows

MOST_TRIES = 3
"""So many blocks may turn out to need reading as text before all others are read so at once."""
ANY_BLOCK_BYTES = 1 << 30


class BlockReader:
    """Reads blocks of lines. Cells of numbers are converted; if one is none, the block is read as text.

    Blocks are handed to Arrow one by one: a reader of Arrow's that is left in the middle of a stream of Python's still
    reads from it in a thread, which aborts a process that exits meanwhile.
    """

    def __init__(self, dialect: Dialect, marks: NumberMarks, types: dict[str, pa.DataType]) -> None:
        """`types` of the columns to read, which are called by their numbers."""
        self._separator, self._marks, self._types = dialect.separator, marks, types
        self._read = pa_csv.ReadOptions(
            use_threads=False,  # rows in order, and memory for one block
            block_size=ANY_BLOCK_BYTES,
            column_names=[str(index) for index in range(len(dialect.names))],
        )
        self._tries = MOST_TRIES
        self._typed = self._convert(types, _missing_in(dialect))
        self._text = self._convert(dict.fromkeys(types, pa.string()), MISSING)

    def read(self, block: pa.Buffer, wrong: WrongRows) -> pa.Table:
        """The columns of some lines. Rows with another number of fields are added to `wrong`."""
        table = self._parsed(block, self._typed, wrong) if self._tries else None
        if table is None:
            if self._tries == MOST_TRIES:
                self._typed = self._convert(self._types, MISSING)
            self._tries = max(0, self._tries - 1)
            table = self._parsed(block, self._text, wrong)
        assert table is not None  # every cell is text
        return table

    def _convert(self, types: dict[str, pa.DataType], missing: tuple[str, ...]) -> pa_csv.ConvertOptions:
        return pa_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=missing,
            strings_can_be_null=False,
            decimal_point=self._marks.decimal,
        )

    def _parsed(self, block: pa.Buffer, convert: pa_csv.ConvertOptions, wrong: WrongRows) -> pa.Table | None:
        """The columns of some lines; None if a cell is of another type."""
        rows = wrong.of_block()
        parse = pa_csv.ParseOptions(delimiter=self._separator, invalid_row_handler=rows.add)
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(block), read_options=self._read, parse_options=parse, convert_options=convert
            )
        except pa.ArrowInvalid as error:
            if "conversion error" in str(error):
                return None
            raise
        wrong.end_block(rows, table.num_rows)
        return table


def _missing_in(dialect: Dialect) -> tuple[str, ...]:
    """The usual spellings of a missing value and those in the first rows: each takes time in each block."""
    cells = {cell for row in dialect.rows for cell in row if len(cell) <= LONGEST_MISSING}
    return (*USUAL_MISSING, *sorted(cells.intersection(MISSING) - set(USUAL_MISSING)))
