"""Nearest neighbours among features, with exact distances."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

SAME = 1e-4
"""Two images are the same if their features are closer than this part of their norm, which is rounding."""
NEIGHBOURS = 4
"""How many neighbours are looked at to find one that is another image."""
SPARE = 8
"""How many more neighbours than asked for are found by rounded distances, and sorted by exact ones."""


def nearest_neighbours(queries: Tensor, references: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the nearest references of each query.

    Candidates are found by matrix products, whose rounding hides small distances; their distances are then computed
    from differences.

    Args:
        queries: Features ``[N, D]``.
        references: Features ``[M, D]``, M >= `count`.
        count: Neighbours per query.

    Returns:
        Distances and indices into `references`, both ``[N, count]``, the nearest first.
    """
    found = []
    for part in queries.split(256):
        candidates = torch.cdist(part, references).topk(min(count + SPARE, len(references)), 1, largest=False).indices
        distances = (part[:, None] - references[candidates]).norm(dim=2)
        nearest, order = distances.sort(dim=1, stable=True)
        found.append((nearest[:, :count], candidates.gather(1, order)[:, :count]))
    distances, indices = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(indices)


def distances_between_distinct(features: Tensor) -> Tensor:
    """Return the distance from each distinct image to the nearest other distinct image.

    Images are the same if their features are (see `SAME`); the first of them stands for all.

    Args:
        features: Features ``[N, D]``.

    Returns:
        Distances ``[M]``, M <= N; none if all images are the same.
    """
    bounds = SAME * features.norm(dim=1)
    distances = torch.full((len(features),), torch.nan)
    distinct = rows = torch.arange(len(features))
    while len(rows) and len(distinct) > 1:
        found, indices = nearest_neighbours(features[rows], features[distinct], min(NEIGHBOURS, len(distinct)))
        is_same = found <= bounds[rows, None]
        distances[rows] = found.where(~is_same, torch.nan).nan_to_num(torch.inf).amin(1)
        same = rows[:, None].expand_as(indices)[is_same], distinct[indices[is_same]]
        distinct = _first_of_each(distinct, *same)
        rows = distinct[distances[distinct].isinf()]  # all neighbours that were found are the same image
    return distances[distinct][distances[distinct].isfinite()]


def _first_of_each(items: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the lowest of the items in each group, where left[i] and right[i] are in one group; sorted."""
    size = int(items[-1]) + 1
    ends = left.int().numpy(), right.int().numpy()  # SciPy's graphs take 32-bit indices
    edges = coo_array((np.ones(len(left)), ends), shape=(size, size))
    _, groups = connected_components(edges, directed=False)
    _, first = np.unique(groups[items.numpy()], return_index=True)
    return items[torch.from_numpy(np.sort(first))]
