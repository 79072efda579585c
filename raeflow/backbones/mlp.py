"""Dense layers over the flattened row: any shape."""

from __future__ import annotations

import itertools
import math

from torch import nn

from raeflow.backbones._record import Backbone, Layers, activation


def backbone(shape: tuple[int, ...], layers: Layers) -> Backbone:
    """(B, *shape) -> n_1 -> ... -> (B, n_k) and back; without hidden layers the features are the flat row."""
    row = math.prod(shape)
    # Halving stops at the code, so that no hidden layer is a tighter bottleneck than the code itself.
    derived = tuple(max(layers.width >> i, layers.latent) for i in range(layers.depth))
    sizes = (row, *(layers.layers or derived))

    def encoder() -> nn.Sequential:
        parts: list[nn.Module] = [] if len(shape) == 1 else [nn.Flatten()]
        for index, (inner, outer) in enumerate(itertools.pairwise(sizes), start=1):
            parts.append(nn.Linear(inner, outer))
            if index < len(sizes) - 1 or layers.feature_activation:
                parts.append(activation(layers.activation))
        return nn.Sequential(*parts)

    def decoder() -> nn.Sequential:
        parts: list[nn.Module] = []
        for index in range(len(sizes) - 1, 0, -1):
            # A code that is the last hidden layer itself (latent=0) brings its activation along.
            if index < len(sizes) - 1 or (layers.feature_activation and layers.latent):
                parts.append(activation(layers.activation))
            parts.append(nn.Linear(sizes[index], sizes[index - 1]))
        return nn.Sequential(*parts) if len(shape) == 1 else nn.Sequential(*parts, nn.Unflatten(1, shape))

    return Backbone(sizes[-1], encoder, decoder)
