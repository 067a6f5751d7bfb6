"""FEEDS: the ways from the mapped series to batches on the device. Every feed hands out the same batches.

Importable without torch: `open_feed` imports the module of the feed that it opens.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.feed.batches import Feed
    from data_pipeline.series.store import Series


@dataclass(frozen=True)
class FeedEntry:
    """Where a feed is defined, and what it is."""

    location: str
    """MODULE:CLASS; the class is a `data_pipeline.feed.batches.Feed`."""
    description: str
    takes_workers: bool = False
    """Whether `num_workers` may be above 0."""


FEEDS: dict[str, FeedEntry] = {
    "device": FeedEntry(
        "data_pipeline.feed.device:DeviceFeed",
        "The whole series in device memory; a batch is gathered there.",
    ),
    "pinned": FeedEntry(
        "data_pipeline.feed.pinned:PinnedFeed",
        "The whole series in page-locked host memory; the device gathers a batch from there while it computes another.",
    ),
    "mapped": FeedEntry(
        "data_pipeline.feed.mapped:MappedFeed",
        "The series stays in its file; threads gather batches from the page cache, and they are copied to the device.",
    ),
    "arrow": FeedEntry(
        "data_pipeline.feed.arrow:ArrowFeed",
        "Windows cut from the memory-mapped Arrow file by loader workers, copied to the device.",
        takes_workers=True,
    ),
    "tsfm": FeedEntry(
        "data_pipeline.feed.tsfm:TsfmFeed",
        "The data set of tsfm_public, item by item: the old way, kept as a baseline.",
        takes_workers=True,
    ),
}


def open_feed(name: str, series: Series, **options: Any) -> Feed:
    """Open the feed called `name` in FEEDS. The options, and the errors raised, are those of `Feed`."""
    module, _, class_name = FEEDS[name].location.partition(":")
    feed: Feed = getattr(importlib.import_module(module), class_name)(series, **options)
    return feed
