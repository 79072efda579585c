"""Encoder and decoder pairs, chosen by the shape of a row.

    net = backbones.backbone(shape, layers)
    net.encoder()    # (B, *shape) -> (B, net.features)
    net.decoder()    # (B, net.features) -> (B, *shape), linear at its end

Adding a backbone is adding a file with `backbone(shape, layers) -> Backbone` and its name to `KINDS`.
"""

from __future__ import annotations

from raeflow.backbones import conv, mlp, recurrent, tcn
from raeflow.backbones._record import ACTIVATIONS, Backbone, Layers, activation
from raeflow.errors import RaeflowError

__all__ = ["ACTIVATIONS", "KINDS", "Backbone", "Layers", "activation", "backbone"]

KINDS = {"mlp": mlp.backbone, "conv": conv.backbone, "recurrent": recurrent.backbone, "tcn": tcn.backbone}


def backbone(shape: tuple[int, ...], layers: Layers) -> Backbone:
    """The backbone that `layers` asks for; `auto` takes mlp for tables and conv for signals and images."""
    kind = layers.backbone
    if kind == "auto":
        kind = "mlp" if len(shape) == 1 else "conv"
    if kind == "conv" and len(shape) not in (2, 3):
        raise RaeflowError(f"backbone='conv' needs rows of shape (C, L) or (C, H, W), these rows are {shape}; choose 'mlp'")
    if kind == "tcn" and len(shape) != 2:
        raise RaeflowError(f"backbone='tcn' needs rows of shape (C, L), these rows are {shape}; choose 'mlp'")
    return KINDS[kind](shape, layers)
