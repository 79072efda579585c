"""A decoder that reads its encoder's weights, shared by variants that tie the two.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def tie(encoder: nn.Module, decoder: nn.Module) -> None:
    """Put the transpose of each of the encoder's linear maps in the place of its mirror in the decoder."""
    maps = [m for m in encoder.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    mirrors = [(name, m) for name, m in decoder.named_modules() if isinstance(m, (nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d))]
    for source, (name, mirror) in zip(reversed(maps), mirrors, strict=True):
        decoder.set_submodule(name, Transposed(source, mirror))


class Transposed(nn.Module):
    """A decoder's layer with the weight of another layer, transposed, and a bias of its own that starts at zero."""

    def __init__(self, source: nn.Module, mirror: nn.Linear | nn.ConvTranspose1d | nn.ConvTranspose2d) -> None:
        super().__init__()
        # In a tuple torch does not see it: the weight is the encoder's, owned, counted and saved once. Copies of
        # the whole model keep the two together, and a device is changed in place.
        self.source = (source,)
        self.bias = nn.Parameter(torch.zeros_like(mirror.get_parameter("bias")))
        self.transposed: Callable[..., Tensor] | None = None
        if not isinstance(mirror, nn.Linear):
            self.transposed = functional.conv_transpose1d if isinstance(mirror, nn.ConvTranspose1d) else functional.conv_transpose2d
            self.geometry = (mirror.stride, mirror.padding, mirror.output_padding, mirror.groups, mirror.dilation)

    @property
    def weight(self) -> Tensor:
        """In the shape that a mirrored layer has: that of a convolution serves its transpose as it is."""
        # Not get_parameter: a normalised weight (backbone `tcn`) is made anew from its direction and length.
        weight = cast(Tensor, self.source[0].weight)
        return weight.t() if self.transposed is None else weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs of the source) -> (B, inputs of the source)."""
        if self.transposed is None:
            return functional.linear(x, self.weight, self.bias)
        return self.transposed(x, self.weight, self.bias, *self.geometry)
