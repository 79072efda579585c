"""Pictures of what a model knows: reconstructions in lines, maps of its codes, and rows decoded along paths and over grids.

`decode` takes codes (n, Z) to images (n, C, H, W), as `Codec.decode` does for a trained detector.

N rows, Z codes, n codes of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import MOST_POINTS, styled
from raeflow.report.canvas import panels as figure_of
from raeflow.report.rowplots import grey, intensity, scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = npt.NDArray[Any]
Decode = Callable[[Values], Values]

WIDTH, LARGEST = 7.4, 1.1
"""Inches of a whole picture, and of one image at the most."""


@styled
def reconstructions(lines: Mapping[str, Values], titles: Sequence[str] = ()) -> Figure:
    """Images under images, all on one grey or colour scale.

    Args:
        lines: name to images (N, C, H, W), all of one shape, such as noisy, cleaned and clean; a line each, in this order.
        titles: one above each of the N columns; none without it.

    Raises RaeflowError on other shapes, or on none.
    """
    shapes = {name: np.shape(images) for name, images in lines.items()}
    first = next(iter(shapes.values()), ())
    if len(set(shapes.values())) != 1 or len(first) != 4 or first[0] == 0:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise RaeflowError(f"reconstructions: lines of images of one shape (N, C, H, W) with N > 0 are needed, got {told}")
    if titles and len(titles) != first[0]:
        raise RaeflowError(f"reconstructions: {len(titles)} titles for {first[0]} columns")
    return _sheet(np.stack([np.asarray(images) for images in lines.values()]), list(lines), list(titles))


@styled
def latent_map(codes: Values, groups: Values | None = None, names: Sequence[str] = (), most: int = MOST_POINTS, seed: int = 0) -> Figure:
    """t-SNE of codes (N, Z), coloured by group (N,); `names` of the groups 0, 1, ... stand beside their clusters.

    At most `most` rows are drawn, evenly from first to last, since t-SNE's time grows faster than their number.
    """
    groups = None if groups is None else np.asarray(groups)
    if groups is not None and groups.shape != (len(codes),):
        raise RaeflowError(f"latent_map: groups of shape {groups.shape} for {len(codes)} codes")
    plane, keep = tsne(codes, most, seed)
    return scatter(plane, None if groups is None else groups[keep], ("t-SNE 1", "t-SNE 2"), names, ticks=False)


def tsne(codes: Values, most: int = MOST_POINTS, seed: int = 0) -> tuple[Values, Values]:
    """Plane (n, 2) and the indices (n,) of the rows it shows, n <= most: t-SNE (van der Maaten & Hinton 2008) from PCA."""
    from sklearn.manifold import TSNE

    codes = np.asarray(codes, np.float64)
    if codes.ndim != 2 or codes.shape[1] < 2 or len(codes) < 4:
        raise RaeflowError(f"latent_map: codes of shape (N, Z) with N > 3 and Z > 1 are needed, got {codes.shape}")
    keep = np.unique(np.linspace(0, len(codes) - 1, min(most, len(codes))).astype(int))
    if not np.isfinite(codes[keep]).all() or np.ptp(codes[keep], axis=0).max() == 0:
        raise RaeflowError("latent_map: the codes are all the same, or not all finite: there is nothing to map")
    perplexity = min(30.0, (len(keep) - 1) / 3)
    plane: Values = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(codes[keep])
    return plane, keep


def path_codes(start: Values, end: Values, steps: int = 10, *, spherical: bool = False) -> Values:
    """Codes (steps, Z) from `start` (Z,) to `end` (Z,), both included, on a straight line or on an arc.

    The arc turns at an even rate from one direction to the other (Shoemake 1985, "Animating rotation with quaternion
    curves"; White 2016, arXiv:1609.04468), so that its codes keep the length that codes of a normal prior have.

    Raises RaeflowError on other shapes, fewer than two steps, or an arc between opposite directions.
    """
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    if a.ndim != 1 or a.shape != b.shape or steps < 2:
        raise RaeflowError(f"path: two codes of one shape (Z,) and at least 2 steps are needed, got {a.shape}, {b.shape}, {steps} steps")
    t = np.linspace(0, 1, steps)[:, None]
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if not spherical or min(lengths) == 0:
        return (1 - t) * a + t * b
    angle = float(np.arccos(np.clip(a @ b / (lengths[0] * lengths[1]), -1, 1)))
    if np.pi - angle < 1e-6:
        raise RaeflowError("path: no arc leads from a code to its opposite, since every one would be as short; take a straight line")
    if angle < 1e-6:
        return (1 - t) * a + t * b
    arc: Values = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return arc


@styled
def latent_path(
    decode: Decode, start: Values, end: Values, steps: int = 10, *, spherical: bool = False, rows: tuple[Values, Values] | None = None
) -> Figure:
    """Images decoded along the way from one code to another, a line for each pair of codes.

    Args:
        decode: codes (n, Z) to images (n, C, H, W).
        start: codes (Z,), or (P, Z) for P ways.
        end: codes like `start`.
        steps: images of a way, both ends included.
        spherical: on an arc in place of a straight line (see `path_codes`).
        rows: the images (P, C, H, W) that the codes at both ends belong to, shown on the outside.

    Raises RaeflowError on other shapes.
    """
    starts, ends = np.atleast_2d(start), np.atleast_2d(end)
    if starts.ndim != 2 or starts.shape != ends.shape:
        raise RaeflowError(f"path: codes of one shape (Z,) or (P, Z) at both ends are needed, got {np.shape(start)} and {np.shape(end)}")
    codes = np.concatenate([path_codes(a, b, steps, spherical=spherical) for a, b in zip(starts, ends, strict=True)])
    images = _decoded("path", decode, codes)
    cells = images.reshape(len(starts), steps, *images.shape[1:])
    titles = [str(number) for number in range(1, steps + 1)]
    if rows is None:
        return _sheet(cells, [], titles)
    outside = [np.asarray(side)[:, None] for side in rows]
    for side in outside:
        if side.shape != (len(starts), 1, *images.shape[1:]):
            raise RaeflowError(f"path: rows of shape {(side.shape[0], *side.shape[2:])} beside {len(starts)} ways of {images.shape[1:]}")
    return _sheet(np.concatenate([outside[0], cells, outside[1]], 1), [], ["from", *titles, "to"], breaks=(1, steps + 1))


def plane_codes(side: int = 15, tail: float = 0.02, latent: int = 2, across: tuple[int, int] = (0, 1)) -> Values:
    """Codes (side * side, latent) at evenly spaced quantiles, `tail` to 1 - `tail`, of a standard normal prior.

    Line by line from the top: the first of the two codes `across` grows to the right, the second one upwards; others are 0.
    """
    from scipy.stats import norm

    if side < 2 or not 0 < tail < 0.5 or len(set(across)) < 2 or not all(0 <= axis < latent for axis in across):
        raise RaeflowError(
            f"plane: side >= 2, 0 < tail < 0.5 and two of {latent} codes are needed, got side={side}, tail={tail}, across={across}"
        )
    steps = norm.ppf(np.linspace(tail, 1 - tail, side))
    codes = np.zeros((side, side, latent))
    codes[..., across[0]] = steps[None, :]
    codes[..., across[1]] = steps[::-1, None]
    return codes.reshape(-1, latent)


@styled
def latent_plane(decode: Decode, side: int = 15, tail: float = 0.02, latent: int = 2, across: tuple[int, int] = (0, 1)) -> Figure:
    """Images decoded over the plane of two codes, at even quantiles of the standard normal prior (see `plane_codes`).

    Equal steps are equally likely codes, so that the picture shows kinds of rows by how often the model expects them.

    Raises RaeflowError where `decode` gives no images, or for codes that are not there.
    """
    codes = plane_codes(side, tail, latent, across)
    images = _decoded("plane", decode, codes)
    steps = codes[:side, across[0]]
    every = max(1, round(side / 7))
    shown = range(side // 2 % every, side, every)
    ticks = [f"{steps[i]:.1f}".replace("-0.0", "0.0").replace("-", "\N{MINUS SIGN}") if i in shown else "" for i in range(side)]
    figure = _sheet(images.reshape(side, side, *images.shape[1:]), ticks[::-1], ticks, gap=0, below=True)
    figure.axes[0].set(xlabel=f"code {across[0] + 1}", ylabel=f"code {across[1] + 1}")
    return figure


def corner_codes(corners: Values, side: int = 8) -> Values:
    """Codes (side * side, Z) between four, (4, Z): top left, top right, bottom left, bottom right; bilinear, line by line."""
    corners = np.asarray(corners, np.float64)
    if corners.ndim != 2 or len(corners) != 4 or side < 2:
        raise RaeflowError(f"corners: four codes (4, Z) and a side of at least 2 are needed, got {corners.shape}, side={side}")
    t = np.linspace(0, 1, side)
    weights = np.stack([1 - t, t])  # (2, side)
    codes: Values = np.einsum("vi,hj,vhz->ijz", weights, weights, corners.reshape(2, 2, -1)).reshape(side * side, -1)
    return codes


@styled
def latent_corners(decode: Decode, corners: Values, side: int = 8, names: Sequence[str] = (), rows: Values | None = None) -> Figure:
    """Images decoded between the codes (4, Z) of four rows, which stand at the corners: interpolation of what they mean.

    Args:
        decode: codes (n, Z) to images (n, C, H, W).
        corners: codes of top left, top right, bottom left and bottom right.
        side: images across and down.
        names: of the four rows, at their corners.
        rows: the four images (4, C, H, W) themselves, shown outside of their corners.

    Raises RaeflowError on other shapes.
    """
    if names and len(names) != 4:
        raise RaeflowError(f"corners: {len(names)} names for four corners")
    images = _decoded("corners", decode, corner_codes(corners, side))
    cells = images.reshape(side, side, *images.shape[1:])
    if rows is None:
        figure = _sheet(cells, [], [], gap=0, cell=0.55)
    else:
        if np.shape(rows) != (4, *images.shape[1:]):
            raise RaeflowError(f"corners: rows of shape {np.shape(rows)}, but four of {images.shape[1:]} are needed")
        outside = np.full((2, side, 1, *images.shape[1:]), np.nan, np.float32)
        outside[:, [0, -1], 0] = np.asarray(rows).reshape(2, 2, *images.shape[1:]).swapaxes(0, 1)
        figure = _sheet(np.concatenate([outside[0], cells, outside[1]], 1), [], [], gap=0, cell=0.55, breaks=(1, side + 1))
    axes, (high, wide) = figure.axes[0], images.shape[2:]
    right = float(axes.get_images()[0].get_array().shape[1])  # type: ignore[union-attr]
    across = ("left", "right") if rows is None else ("center", "center")
    for number, name in enumerate(names):
        down, x = number // 2, (0 if rows is None else wide / 2)
        axes.annotate(
            name, (right - x - 0.5 if number % 2 else x - 0.5, down * side * high - 0.5), (0, 4 - 8 * down), textcoords="offset points",
            ha=across[number % 2], va=("bottom", "top")[down], fontsize=9.5, annotation_clip=False,
        )  # fmt: skip
    return figure


def _decoded(what: str, decode: Decode, codes: Values) -> Values:
    images = np.asarray(decode(codes.astype(np.float32)))
    if images.ndim != 4 or len(images) != len(codes):
        raise RaeflowError(f"{what}: decode must give images ({len(codes)}, C, H, W) for {len(codes)} codes, it gave {images.shape}")
    return images


def _sheet(
    cells: Values, left: Sequence[str], top: Sequence[str], *,
    breaks: Sequence[int] = (), gap: int | None = None, cell: float | None = None, below: bool = False,
) -> Figure:  # fmt: skip
    """Images (lines, columns, C, H, W) as one picture, labels left of the lines and above (or below) the columns.

    `breaks` are columns before which the gap is wider; `gap` in pixels, `cell` in inches of an image's width.
    Images that are not finite leave their place empty.
    """
    lines, columns, _, high, wide = cells.shape
    shown = np.isfinite(cells).all((2, 3, 4))
    low, ceiling = intensity(cells[shown])
    pixels = grey(cells.reshape(-1, *cells.shape[2:]), low, ceiling).reshape(lines, columns, high, wide, 3)
    gap = max(1, round(wide / 14)) if gap is None else gap
    lefts = np.arange(columns) * (wide + gap) + max(2, wide // 4) * np.searchsorted(np.sort(breaks), np.arange(columns), side="right")
    tops = np.arange(lines) * (high + gap)
    canvas = np.zeros((tops[-1] + high, lefts[-1] + wide, 4), np.float32)
    for line, column in np.argwhere(shown):
        y, x = tops[line], lefts[column]
        canvas[y : y + high, x : x + wide, :3] = pixels[line, column]
        canvas[y : y + high, x : x + wide, 3] = 1
    margin = (0.25 + 0.085 * max(map(len, left), default=0), 0.1 + 0.2 * any(top))
    inch = (cell or min(LARGEST, (WIDTH - margin[0]) / (canvas.shape[1] / wide))) / wide
    figure, (axes,) = figure_of(1, (canvas.shape[1] * inch + margin[0], canvas.shape[0] * inch + margin[1]), whole=True)
    axes.imshow(canvas, interpolation="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(lefts[: len(top)] + (wide - 1) / 2, top)
    axes.set_yticks(tops[: len(left)] + (high - 1) / 2, left)
    axes.tick_params(length=0, labeltop=not below, labelbottom=below)
    return figure
