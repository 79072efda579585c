"""A detector's own encoder and decoder, in numpy, as the pictures of codes take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raeflow.devices import device_of
from raeflow.errors import RaeflowError
from raeflow.graph import Encoding
from raeflow.variants._contract import Latent, Variant

if TYPE_CHECKING:
    from raeflow.detector import Detector

Values = npt.NDArray[Any]

BATCH = 256


class Codec:
    """Between rows (N, *shape) and codes (N, Z), and back; nothing is drawn at random.

    Args:
        model: a trained variant with a code (`Latent`).
        encoding: of the data it was trained on.

    Raises RaeflowError for a variant without a code.
    """

    def __init__(self, model: Variant, encoding: Encoding) -> None:
        if not isinstance(model, Latent):
            raise RaeflowError(f"{type(model).__module__.rsplit('.', 1)[-1]} has no code to draw: it cannot encode and decode")
        self.model, self.encoding = model.eval(), encoding
        self.device = device_of(model)

    @classmethod
    def of(cls, detector: Detector) -> Codec:
        """That of a detector's first (best) member."""
        (first, *_), encoding = detector.graph.members, detector.graph.encoding
        return cls(first, encoding)  # type: ignore[arg-type]

    def scaled(self, rows: Values | torch.Tensor) -> Values:
        """Rows (N, *shape) in the data's units to what the model sees, float32."""
        return self._each(lambda x: x, rows, scale=True)

    def encode(self, rows: Values | torch.Tensor, *, scaled: bool = False) -> Values:
        """Rows (N, *shape) in the data's units, or scaled already, to codes (N, Z), float32."""
        return self._each(self.model.encode, rows, scale=not scaled)

    def decode(self, codes: Values | torch.Tensor) -> Values:
        """Codes (N, Z) to scaled rows (N, *shape), float32."""
        return self._each(self.model.decode, codes, scale=False)

    def rebuild(self, rows: Values | torch.Tensor, *, scaled: bool = False) -> Values:
        """Rows (N, *shape) in the data's units, or scaled already, to scaled reconstructions (N, *shape), float32."""
        return self._each(self.model.reconstruct, rows, scale=not scaled)

    def natural(self, scaled: Values) -> Values:
        """Scaled rows (N, *shape) in the data's units, float32.

        Raises RaeflowError where each row was scaled by itself, since nothing then tells its units.
        """
        if self.encoding.mode == "signal":
            raise RaeflowError("signals that are each scaled by their own mean and std cannot be put back into the data's units")
        return self._each(self.encoding.inverse, scaled, scale=False)

    @torch.no_grad()
    def _each(self, call: Callable[[torch.Tensor], torch.Tensor], values: Values | torch.Tensor, *, scale: bool) -> Values:
        whole = torch.as_tensor(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values)
        parts = []
        for start in range(0, len(whole), BATCH):
            x = whole[start : start + BATCH].to(self.device)
            parts.append(call(self.encoding(x) if scale else x.float()).float().cpu().numpy())
        return np.concatenate(parts)
