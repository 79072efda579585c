"""What variants share that are no networks: fitted to train rows at once, without gradients (`_contract.OneShot`).

Not a variant: a subclass says in `fit_rows` what it keeps of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.optim import Optimizer

from raeflow.errors import RaeflowError
from raeflow.learned import Learned
from raeflow.variants._contract import Batch, Variant


class Fitted(Learned, Variant):
    """A variant of buffers alone, whose sizes the rows decide; nothing to step, nothing that copies a row by way of a code."""

    rebuilds = False
    overcomplete = True

    def optimizers(self) -> dict[str, Optimizer]:
        """No player: there is nothing to step."""
        return {}

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 - the contract's
        """No turn."""
        yield from ()

    def known(self, tensor: Tensor) -> Tensor:
        """A tensor that `fit_rows` learns; raises RaeflowError where it has not been called."""
        if not tensor.numel():
            raise RaeflowError(f"{type(self).__module__.rpartition('.')[2]}: the model was not fitted to any row")
        return tensor


def whole(owner: str, name: str, value: int, least: int) -> None:
    """Refuse a hyperparameter that is no whole number, or below `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RaeflowError(f"{owner}: {name}={value!r}: {name} must be a whole number, at least {least}")
