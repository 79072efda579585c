"""How strange a game's own critic finds a row: minus the number that it gives to rows that look real.

The discriminator as a detector, as in Schlegl et al. 2017, "Unsupervised Anomaly Detection with Generative Adversarial
Networks to Guide Marker Discovery", arXiv:1703.05921, where it is a baseline (section 3, P_D). It knows what generated rows
looked like when the game ended, so it is worth something on some rows and nothing on others: the judge of a search says where.
"""

from __future__ import annotations

from dataclasses import dataclass

from raeflow.heads import error


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """`critic` has nothing to set."""


def candidates(shape: tuple[int, ...]) -> list[Hyper]:  # noqa: ARG001 - the contract's
    """The one there is."""
    return [Hyper()]


class Head(error.Head):
    """Hands on what the critic says."""

    said = "critic"
