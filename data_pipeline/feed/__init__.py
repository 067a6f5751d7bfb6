"""FEEDS: the ways from the mapped series to batches on the device, all with the same batches.

Importable without torch: a feed's own module is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.feed.batches import Feed
    from data_pipeline.series.store import Series


def _device(series: Series, **options: Any) -> Feed:
    """The whole series in device memory; a batch is gathered there."""
    from data_pipeline.feed.device import DeviceFeed

    return DeviceFeed(series, **options)


def _arrow(series: Series, **options: Any) -> Feed:
    """Windows cut from the memory-mapped Arrow file by loader workers, copied to the device."""
    from data_pipeline.feed.arrow import ArrowFeed

    return ArrowFeed(series, **options)


def _tsfm(series: Series, **options: Any) -> Feed:
    """The data set of tsfm_public, item by item: the old way, kept as a baseline."""
    from data_pipeline.feed.tsfm import TsfmFeed

    return TsfmFeed(series, **options)


FEEDS: dict[str, Callable[..., Feed]] = {
    "device": _device,
    "arrow": _arrow,
    "tsfm": _tsfm,
}
"""name -> f(series, *, context_length, prediction_length, batch_size, device, seed, num_workers)"""
