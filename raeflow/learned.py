"""Modules whose tensors are learnt from rows at once, without gradients, in sizes that the rows alone decide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Learned(nn.Module):
    """A module that names its tensors before it knows their sizes; loading a state takes the sizes that it has."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.empty(0))

    def learn(self, **tensors: Tensor) -> None:
        """Keep tensors under names that were given when the module was built."""
        for name, tensor in tensors.items():
            if name not in self._buffers:
                raise KeyError(name)
            self._buffers[name] = tensor.detach().clone().contiguous()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name, own in self._buffers.items():
            given = state_dict.get(prefix + name)
            if isinstance(given, Tensor) and own is not None and given.shape != own.shape:
                self._buffers[name] = torch.empty(given.shape, dtype=given.dtype, device=own.device)
        super()._load_from_state_dict(state_dict, prefix, *others)
