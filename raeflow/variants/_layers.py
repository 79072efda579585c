"""Parts that several variants share.

Shapes: B rows of a batch, Z codes; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raeflow.backbones import Backbone
from raeflow.errors import RaeflowError
from raeflow.variants._contract import Batch


def encoder(net: Backbone, codes: int) -> nn.Sequential:
    """(B, *shape) -> (B, codes), linear at its end; with codes = 0 the features themselves, (B, net.features)."""
    return nn.Sequential(*net.encoder(), *([nn.Linear(net.features, codes)] if codes else []))


def decoder(net: Backbone, codes: int) -> nn.Sequential:
    """(B, codes) -> (B, *shape), linear at its end; with codes = 0 from the features."""
    return nn.Sequential(*([nn.Linear(codes, net.features)] if codes else []), *net.decoder())


def squash(logits: Tensor, output: str) -> Tensor:
    """The last non-linearity of a decoder: `sigmoid`, `tanh` (brought from -1 to 1 to 0-1, as rows are) or `identity`."""
    if output == "tanh":
        return (torch.tanh(logits) + 1) / 2
    return torch.sigmoid(logits) if output == "sigmoid" else logits


def frozen(module: nn.Module) -> None:
    """Evaluation mode, but for LSTMs: gradients go on passing through, and cuDNN differentiates an LSTM in training mode alone.

    An LSTM without dropout gives the same in both modes.
    """
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part.train()


def row_mean(values: Tensor) -> Tensor:
    """(B, ...) -> (B,): mean over a row, in float32."""
    return values.float().flatten(1).mean(1)


def row_sum(values: Tensor) -> Tensor:
    """(B, ...) -> (B,): sum over a row, in float32."""
    return values.float().flatten(1).sum(1)


def square_error(x: Tensor, y: Tensor) -> Tensor:
    """(B,): mean squared error of each row."""
    return row_mean((x.float() - y.float()).square())


def adam(parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015) with one fused update for all parameters, where torch has a kernel for them."""
    owned = list(parameters)
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in owned)
    return torch.optim.Adam(owned, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)


def bounds(values: Tensor, world: int) -> tuple[float, float]:
    """Least and greatest of all workers' values: a refusal must be everybody's, or the others would wait for ever."""
    found = torch.stack([-values.min(), values.max()])
    if world > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return -float(found[0]), float(found[1])


def check_unit(batch: Batch, progress: float, what: str, instead: str) -> None:
    """Refuse rows outside 0-1 in the first step of a training, where the objective is defined on 0-1 alone."""
    if progress > 0:
        return
    low, high = bounds(batch.x, batch.world)
    if low < 0 or high > 1:
        raise RaeflowError(
            f"{what} needs rows scaled to 0-1, but the first batch spans {low:.4g} to {high:.4g}; choose {instead} or Data(scaling='unit')"
        )


def table_latent(features: int) -> int:
    """Code of a table of F features: 1 + sqrt(F) (Cao, Nicolau & McDermott 2019), always below F where F > 1."""
    return below_size(1 + math.isqrt(features), (features,))


def below_size(latent: int, shape: tuple[int, ...]) -> int:
    """`latent`, or one less than the values of a row where that is smaller; 1 at least."""
    return max(1, min(latent, math.prod(shape) - 1))


def prior(model: nn.Module, count: int, latent: int, generator: torch.Generator | None) -> Tensor:
    """(count, latent) standard normal codes on the model's device, drawn where the generator lives."""
    if count < 1:
        raise RaeflowError(f"sample({count}): at least one row is drawn")
    device = next(model.parameters()).device
    return torch.randn(count, latent, generator=generator, device=generator.device if generator else device).to(device)


def suggest_layers(
    trial: Any, shape: tuple[int, ...], latent: tuple[int, int] | None = None, overcomplete: bool = False, dense: bool = True
) -> dict[str, Any]:
    """The part of a search space that describes the network: latent for all, the rest as the backbone needs it.

    Args:
        trial: Optuna's, or anything with its `suggest_*`.
        shape: of a row.
        latent: bounds of the code; None takes 1 to F - 1 (at most 64) for tables, 2 to 64 otherwise.
        overcomplete: whether the code may be as large as the row, or larger.
        dense: whether dense layers are a choice for signals and images; tables have no other.
    """
    size = math.prod(shape)
    low, high = latent or ((1, 64) if len(shape) == 1 else (2, 64))
    high = high if overcomplete else max(1, min(high, size - 1))
    found: dict[str, Any] = {"latent": trial.suggest_int("latent", min(low, high), high, log=True)}
    kind = "mlp" if len(shape) == 1 else trial.suggest_categorical("backbone", ["conv", "mlp"]) if dense else "conv"
    if kind == "mlp":
        found["width"] = trial.suggest_int("width", 32, 512, log=True)
    else:
        found["channels"] = trial.suggest_int("channels", 8, 32, log=True)
    found["backbone"] = kind
    found["depth"] = trial.suggest_int("depth", 1, 3)
    return found
