"""CSV files as text: 60 hourly rows with a timestamp and two columns, unless the test asks for others."""

from __future__ import annotations

import numpy as np


def rows(count=60, step="h", start="2020-01-01T00", value="{at},{at}.5"):
    times = np.datetime64(start) + np.arange(count) * np.timedelta64(1, step)
    return [f"{str(time).replace('T', ' ')}:00:00,{value.format(at=at % 7)}" for at, time in enumerate(times)]


def text(lines=None, header="date,a,b"):
    return "\n".join([header, *(rows() if lines is None else lines)]) + "\n"


def replaced(row, line):
    lines = rows()
    lines[row] = line
    return text(lines)


GOOD = text().encode()
