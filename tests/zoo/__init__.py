"""Pairs of networks, one per convention met in the wild, each with the truth about it."""

from zoo import conditional, images, loaders, outputs, series, surveyed, translation, vectors
from zoo.entry import Entry

GROUPS = {
    "images": images.ENTRIES,
    "series": series.ENTRIES,
    "vectors": vectors.ENTRIES,
    "conditional": conditional.ENTRIES,
    "translation": translation.ENTRIES,
    "outputs": outputs.ENTRIES,
    "loaders": loaders.ENTRIES,
    "surveyed": surveyed.ENTRIES,
}
ZOO = [(group, entry) for group, entries in GROUPS.items() for entry in entries]

__all__ = ["ZOO", "Entry"]
