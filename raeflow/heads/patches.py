"""The strangest place of a signal or an image: each piece of a row beside the pieces of train rows; it tells where, too.

A piece is a window of the row, or of its residual, or what the model's encoder makes of a place (`Mapped`). Three ways to
say what is usual:

- `bank`: the distance to the nearest of a sample of train pieces, from anywhere in the rows: PatchCore (Roth, Pemula,
  Zepeda, Scholkopf, Brox & Gehler 2022, "Towards Total Recall in Industrial Anomaly Detection", arXiv:2106.08265), with
  features of the model's own encoder in place of a network trained on ImageNet, and without the re-weighting of its eq. 7;
- `place`: Mahalanobis' distance under a Gaussian for each place: PaDiM (Defard, Setkov, Loesch & Audigier 2020, "PaDiM: a
  Patch Distribution Modeling Framework for Anomaly Detection and Localization", arXiv:2011.08785), for rows whose places
  mean the same in all of them, as digits' and heartbeats' do;
- `shared`: the same with one covariance for all places, each with its own mean and scale: what is left of a window when
  all that its neighbours tell is taken out shows edges that a pasted patch has and a row has not.

The score is the mean of the worst `share` of the places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raeflow import neighbours
from raeflow.errors import RaeflowError
from raeflow.heads import _windows
from raeflow.heads._contract import Head as Base
from raeflow.heads._contract import Outputs

PARTS = ("row", "residual", "maps")
WAYS = ("bank", "place", "shared")
CHOICES = ("random", "k_center")
FIT = 1 << 24
"""Values of pieces that are learnt from at a time."""
FEWEST = 64
"""Train rows that are learnt from at least."""
WIDEST = 64
"""Values of a piece under a Gaussian of its own, at most; of more as many are drawn (PaDiM, section III-A)."""
RIDGE = {"place": 1e-2, "shared": 1e-4}
"""Added to the covariance, times its mean variance; 0.01 in PaDiM, whose covariances are estimated place by place."""
POOL = 16
"""Pieces for each one of the bank among which `k_center` chooses."""


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Settings of `patches`."""

    of: str = "maps"
    """What pieces are cut from: `maps` (of the encoder), `row` or `residual`."""
    by: str = "bank"
    """What they are compared with: `bank`, `place` or `shared`."""
    share: float = 0.01
    """The worst share of all places whose mean is the score, 0 to 1; 0 takes the single worst place, as in both papers."""
    bank: int = 1024
    """Pieces that a bank keeps."""
    choice: str = "random"
    """How they are chosen: random, or k_center, as in PatchCore, for train rows that are known to be clean."""

    def __post_init__(self) -> None:
        for name, allowed in (("of", PARTS), ("by", WAYS), ("choice", CHOICES)):
            if getattr(self, name) not in allowed:
                raise RaeflowError(f"patches: {name}={getattr(self, name)!r} is none of {', '.join(allowed)}")
        if not 0 <= self.share <= 1:
            raise RaeflowError(f"patches: share={self.share!r} is a share of the places, 0 to 1")
        if self.bank < 1:
            raise RaeflowError(f"patches: bank={self.bank!r}: a bank keeps one piece at least")


def candidates(shape: tuple[int, ...]) -> list[Hyper]:
    """Windows of row and residual, and the encoder's maps; tables have no places."""
    if len(shape) == 1:
        return []
    windows = [Hyper(of=of, by="shared", share=0.03) for of in ("row", "residual")]
    return [*windows, Hyper(of="maps", by="place"), Hyper(of="maps", by="bank")]


class Head(Base):
    """Distances (B, P) of pieces from what is usual, and the mean of the worst."""

    mean: Tensor
    """(P, D) under a Gaussian, (D,) of a bank."""
    scale: Tensor
    """(P,) under a shared covariance, (D,) of a bank."""
    kept: Tensor
    """(D,) int64: values of a piece that are looked at."""
    whiten: Tensor
    """(D, D), or (P, D, D)."""
    bank: Tensor
    lengths: Tensor
    places: Tensor
    """() int64: P."""

    def __init__(self, hyper: Hyper) -> None:
        super().__init__(hyper, "mean", "scale", "kept", "whiten", "bank", "lengths", "places")

    @property
    def needs(self) -> frozenset[str]:
        """As `of` says."""
        return frozenset({"row": (), "residual": ("rebuilt",), "maps": ("maps",)}[self.hyper.of])

    def fit(self, seen: Outputs) -> None:
        """Learn from as many train rows as memory allows; they come in an order of chance."""
        if seen.x.dim() == 2:
            raise RaeflowError(f"patches: rows of shape {tuple(seen.x.shape[1:])} are a table's, which has no places")
        first = self._pieces(seen, slice(0, 1))
        pieces = self._pieces(seen, slice(0, max(FEWEST, FIT // first[0].numel())))
        generator = torch.Generator().manual_seed(0)
        width = pieces.shape[2]
        kept = torch.arange(width)
        if self.hyper.by == "place" and width > WIDEST:
            kept = torch.randperm(width, generator=generator)[:WIDEST].sort().values
        self.learn(kept=kept.to(pieces.device), places=torch.tensor(pieces.shape[1], device=pieces.device))
        pieces = pieces[:, :, self.kept]
        if self.hyper.by == "bank":
            self._fit_bank(pieces.flatten(0, 1), generator)
        else:
            self._fit_gaussian(pieces)

    def _fit_bank(self, pieces: Tensor, generator: torch.Generator) -> None:
        mean, deviation = pieces.mean(0), pieces.std(0, correction=0)
        self.learn(mean=mean, scale=deviation.clamp_min(1e-2 * float(deviation.square().mean().sqrt()) + 1e-6))
        count = self.hyper.bank * (POOL if self.hyper.choice == "k_center" else 1)
        drawn = torch.randperm(len(pieces), generator=generator)[:count].to(pieces.device)
        chosen = (pieces[drawn] - self.mean) / self.scale
        if self.hyper.choice == "k_center":
            chosen = chosen[neighbours.spread_out(chosen, self.hyper.bank)]
        bank, lengths = neighbours.kept(chosen, 1)
        self.learn(bank=bank, lengths=lengths)

    def _fit_gaussian(self, pieces: Tensor) -> None:
        """Mean of each place, and the covariance of each or of all."""
        mean = pieces.mean(0)
        apart = pieces - mean
        if self.hyper.by == "place":
            covariance = torch.einsum("npd,npe->pde", apart, apart) / len(apart)
        else:
            covariance = torch.einsum("npd,npe->de", apart, apart) / (apart.shape[0] * apart.shape[1])
        self.learn(mean=mean, whiten=whitening(covariance, RIDGE[self.hyper.by]), scale=torch.ones(1, device=mean.device))
        if self.hyper.by == "shared":  # a place where little happens is strange by little
            usual = torch.stack([self._distances(part).square().mean(0) for part in torch.split(pieces, FEWEST)]).mean(0)
            self.learn(scale=(0.9 * usual + 0.1 * usual.mean()).sqrt().clamp_min(1e-6))

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        apart = self._distances(self._pieces(seen)[:, :, self.kept])
        return apart.topk(max(1, round(self.hyper.share * apart.shape[1])), sorted=False).values.mean(1)

    def attribute(self, seen: Outputs) -> Tensor:
        """(B, *shape): the places' distances, enlarged to the row, the same for all channels."""
        apart = self._distances(self._pieces(seen)[:, :, self.kept])
        shape = tuple(seen.x.shape[1:])
        places = _windows.grid(shape) if self.hyper.of != "maps" or seen.maps is None else tuple(seen.maps.shape[2:])
        mode = "linear" if len(places) == 1 else "bilinear"
        return functional.interpolate(apart.view(-1, 1, *places), shape[1:], mode=mode).expand_as(seen.x)

    def _pieces(self, seen: Outputs, rows: slice = slice(None)) -> Tensor:
        """(B, P, D)."""
        if self.hyper.of == "maps":
            assert seen.maps is not None  # noqa: S101 - asked for in `needs`
            return seen.maps[rows].flatten(2).transpose(1, 2)
        values = seen.x[rows] if self.hyper.of == "row" else seen.x[rows] - seen.rebuilt[rows]  # type: ignore[index]
        return _windows.pieces(values)

    def _distances(self, pieces: Tensor) -> Tensor:
        """(B, P, D) -> (B, P)."""
        if self.hyper.by == "bank":
            return self._to_bank((pieces - self.mean) / self.scale)
        apart = pieces - self.mean
        white = torch.einsum("npd,pde->npe", apart, self.whiten) if self.whiten.dim() == 3 else apart @ self.whiten
        return white.square().mean(2).sqrt() / self.scale

    def _to_bank(self, pieces: Tensor) -> Tensor:
        flat = pieces.flatten(0, 1)
        place = neighbours.nearest(flat, self.bank, self.lengths, 1).squeeze(1)
        return (flat - self.bank[place]).square().mean(1).sqrt().view(-1, pieces.shape[1])

    @property
    def width(self) -> int:
        """Values of the pieces of a row, or distances of all of them to the bank."""
        return int(self.places) * (len(self.bank) or self.whiten.shape[-1]) if self.places.numel() else 0


def whitening(covariance: Tensor, ridge: float) -> Tensor:
    """(..., D, D): distances after it are Mahalanobis' under a covariance (..., D, D) with this share of its mean variance added."""
    exact = covariance.double()
    mean = exact.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)[..., None, None]
    variances, axes = torch.linalg.eigh(exact + ridge * mean * torch.eye(exact.shape[-1], dtype=exact.dtype, device=exact.device))
    found: Tensor = (axes / variances.clamp_min(1e-30).sqrt().unsqueeze(-2)).float()
    return found
