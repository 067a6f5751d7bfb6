"""The samples on the pages about data are read as the pages say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.pems.importing import ImportOptions, import_folder
from data_pipeline.series.store import open_series

PAGES = Path(__file__).resolve().parents[2] / "docs" / "data"


def sample(page: str, begins: str) -> list[str]:
    """The indented lines of a page from the first that begins so, up to a blank one."""
    lines = (PAGES / page).read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("    " + begins))
    end = next((at for at in range(first, len(lines)) if not lines[at].startswith("    ")), len(lines))
    return [line.strip() for line in lines[first:end]]


def test_the_sample_of_station_data_is_imported(tmp_path):
    lines = sample("pems.md", "06/04/2019")
    (tmp_path / "d03_text_station_5min_2019_06_04.txt").write_text("\n".join(lines) + "\n")
    report = import_folder(tmp_path, tmp_path / "flow.parquet", ImportOptions())
    assert (len(lines), report.stations, report.rows, report.empty_rows) == (8, 4, 288, 286)


def test_the_sample_of_a_matrix_is_read_by_its_path(tmp_path):
    lines = sample("sets.md", "0.1,0.2,0.3")
    path = tmp_path / "matrix.txt"
    path.write_text("\n".join(lines * 5) + "\n")
    series = open_series(str(path), None, tmp_path / "cache")
    assert len(lines) == 8 and series.columns == ("0", "1", "2")
    np.testing.assert_array_equal(series.values[:8], np.array([line.split(",") for line in lines], np.float32))
