"""Where a published file is, as a browser takes it. Planning-safe."""

from __future__ import annotations

HUB = "hf://datasets/"


def browser_link(url: str) -> str:
    """A URL of `DatasetSpec.urls` as a browser takes it."""
    if not url.startswith(HUB):
        return url
    owner, name, file = url.removeprefix(HUB).split("/", 2)
    return f"https://huggingface.co/datasets/{owner}/{name}/resolve/main/{file}"
