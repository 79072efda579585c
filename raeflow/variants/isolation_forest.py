"""How few random cuts isolate a row from train rows, no network.

Liu, Ting & Zhou 2008, "Isolation Forest", ICDM; 2012, "Isolation-Based Anomaly Detection", ACM TKDD 6(1). scikit-learn grows
the trees; here they are tensors, walked for all trees at once, and give scikit-learn's scores.

Shapes: B rows, T trees, L levels; a tree is a binary heap: below node n are 2n + 1 and 2n + 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raeflow.variants._contract import Shape
from raeflow.variants._oneshot import Fitted, whole


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Hyperparameters of `isolation_forest`."""

    trees: int = 100
    """Trees whose path lengths are averaged; Liu et al. 2008 find 100 enough."""
    samples: int = 256
    """Train rows that each tree is grown from, 64 to 1024, or all where there are fewer; 256 in Liu et al. 2008."""

    def __post_init__(self) -> None:
        whole("isolation_forest", "trees", self.trees, 1)
        whole("isolation_forest", "samples", self.samples, 2)


def published(shape: Shape) -> Hyper:  # noqa: ARG001 - the contract's
    """Liu et al. 2008, section 5."""
    return Hyper()


def space(trial: Any, shape: Shape) -> Hyper:  # noqa: ARG001 - the contract's
    """Rows of a tree, a power of two: with more of them trees are deeper and see finer."""
    return Hyper(samples=trial.suggest_categorical("samples", (64, 128, 256, 512, 1024)))


class Model(Fitted):
    """Trees as heaps; score (B,) is 2 to minus the mean path length over what is usual, in 0-1: Liu et al.'s s(x, n)."""

    localises = False
    feature: Tensor
    """(T, 2^L - 1) int64: the value of the row that a node looks at."""
    threshold: Tensor
    """The same size: rows above it go right; infinite below a leaf, so that all go left."""
    path: Tensor
    """(T, 2^L): path length of each place below the last level, over trees and what is usual."""
    median: Tensor
    """(D,): of the train rows."""

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__("feature", "threshold", "path", "median")
        self.hyper, self.shape = hyper, shape

    def fit_rows(self, x: Tensor, seed: int) -> None:
        """Grow the trees."""
        from sklearn.ensemble import IsolationForest

        rows = x.flatten(1).float()
        samples = min(self.hyper.samples, len(rows))
        forest = IsolationForest(n_estimators=self.hyper.trees, max_samples=samples, random_state=seed % 2**32)
        forest.fit(rows.cpu().numpy())
        levels = max(int(tree.get_depth()) for tree in forest.estimators_)
        heaps = [_heap(tree.tree_, levels) for tree in forest.estimators_]
        feature, threshold, path = (torch.from_numpy(np.stack(part)).to(x.device) for part in zip(*heaps, strict=True))
        usual = float(average_path(np.asarray([samples]))[0]) * len(heaps)
        # One row alone, or rows that are all alike, are isolated by no cut: scikit-learn calls that one usual length.
        path = path / usual if usual else torch.full_like(path, 1 / len(heaps))
        self.learn(feature=feature, threshold=threshold, path=path.float(), median=rows.median(0).values)

    def score(self, x: Tensor) -> Tensor:
        """(B,)."""
        rows, path = x.flatten(1).float(), self.known(self.path)
        trees, places = path.shape
        # Looked up by one flat place each, which takes half the time of places by row and column.
        start = torch.arange(trees, device=x.device)
        own = torch.arange(rows.shape[0], device=x.device).unsqueeze(1) * rows.shape[1]
        feature, threshold, values = self.feature.flatten(), self.threshold.flatten(), rows.flatten()
        node = torch.zeros(rows.shape[0], trees, dtype=torch.int64, device=x.device)
        for _ in range(places.bit_length() - 1):
            at = (node + start * (places - 1)).flatten()
            seen = values.index_select(0, (feature.index_select(0, at).view(-1, trees) + own).flatten())
            node = 2 * node + 1 + (seen > threshold.index_select(0, at)).view(-1, trees)
        leaf = (node - (places - 1) + start * places).flatten()
        return torch.exp2(-path.flatten().index_select(0, leaf).view(-1, trees).sum(1))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The median train row, whatever the row: a forest expects nothing of one value given the others."""
        return self.known(self.median).view(1, *self.shape).expand_as(x).to(torch.float32)

    @property
    def width(self) -> int:
        """A node of each tree, with all that is made of it to find the next."""
        return 16 * len(self.path)

    @property
    def lookups(self) -> int:
        """One a tree and level."""
        return self.path.shape[0] * (self.path.shape[1].bit_length() - 1) if self.path.numel() else 0


def _heap(tree: Any, levels: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """A tree of scikit-learn as a heap of so many levels: features, thresholds, and the path length of each place below."""
    feature = np.zeros(2**levels - 1, np.int64)
    threshold = np.full(2**levels - 1, np.inf, np.float32)
    path = np.zeros(2**levels)
    bounds = float32_bounds(tree.threshold)
    lengths = average_path(tree.n_node_samples)
    open_ = [(0, 0, 0)]  # node, its place in its level, the level
    while open_:
        node, place, level = open_.pop()
        left, right = int(tree.children_left[node]), int(tree.children_right[node])
        if left < 0:  # a leaf: all below it leads to its leftmost place
            path[place << (levels - level)] = level + lengths[node]
            continue
        at = 2**level - 1 + place
        feature[at], threshold[at] = tree.feature[node], bounds[node]
        open_ += [(left, 2 * place, level + 1), (right, 2 * place + 1, level + 1)]
    return feature, threshold, path


def float32_bounds(bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest float32 not above each bound: a float32 is at most the one exactly where it is at most the other."""
    nearest = bounds.astype(np.float32)
    return np.where(nearest.astype(np.float64) > bounds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def average_path(count: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """c(n) of Liu et al. 2008: mean path length of an unsuccessful search among n rows; 0 of one, 1 of two."""
    n = np.maximum(count.astype(np.float64), 3)
    many = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(count <= 1, 0.0, np.where(count == 2, 1.0, many))
