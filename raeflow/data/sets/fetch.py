"""Downloads of the public named sets, checked and rewritten as Parquet.

Files come to a staging folder beside the set, under a name that ends in `.part` until they are whole
and their checksum holds; the Parquet is renamed into place. So an interrupted fetch leaves nothing that
could be taken for data, and goes on where it stopped if a checksum can vouch for the pieces.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from raeflow.data.sets import originals
from raeflow.data.sets.catalogue import ADBENCH, ADBENCH_SIZES, NamedSet, lookup, named
from raeflow.data.sources import make, places
from raeflow.data.writing import write_all
from raeflow.errors import RaeflowError

Progress = Callable[[str, int, int | None], None]
"""Called as (file name, bytes so far, bytes in all or None) after every piece of a download."""

TIMEOUT = 30.0
"""Seconds without a byte before a server is given up."""
_PIECE = 1 << 20
_FAILURES = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
_ADBENCH_COMMIT = "3dac8221081e190f157d78e93bfa8867f90d0965"
_OFFICE_COMMIT = "191566b94a4d034d0a1c9743a8187edf06dbe008"
_NSL_KDD_COMMIT = "9d544d0eb9b87d7e2f43ff65733bdb644631d12f"
_SKAB_COMMIT = "b2c0d46c2971dcbfe71e26087b6d231998bb91c2"


@dataclass(frozen=True)
class Remote:
    """One file of a public source."""

    path: str
    """Below the mirror's address."""
    md5: str | None = None
    """As published; None where nothing is published."""
    name: str | None = None
    """What it is called here, where the path does not tell."""

    @property
    def local(self) -> str:
        """Its name in the staging folder."""
        return self.name or self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Download:
    """Where a set's original files lie and how they become tables."""

    mirrors: tuple[str, ...]
    """Addresses tried in order, each ending in `/`."""
    remotes: tuple[Remote, ...]
    convert: originals.Convert


def _idx(mirrors: tuple[str, ...], sums: tuple[str, ...], classes: tuple[str, ...]) -> Download:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    remotes = tuple(Remote(f"{name}-ubyte.gz", md5) for name, md5 in zip(names, sums, strict=True))
    return Download(mirrors, remotes, originals.mnist(classes))


def _downloads() -> dict[str, Download]:
    table = {
        "mnist": _idx(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
            originals.DIGITS,
        ),
        "fashion_mnist": _idx(
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/",
            ),
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            originals.CLOTHES,
        ),
        "ecg5000": Download(("https://timeseriesclassification.com/aeon-toolkit/",), (Remote("ECG5000.zip"),), originals.ecg5000),
        # The competition itself asks for an account; this is a public copy of its files at a fixed commit.
        "noisy_office": Download(
            ("https://codeload.github.com/Surya-Prakash-Reddy/Denoising-Documents/zip/",),
            (Remote(_OFFICE_COMMIT, name="denoising-dirty-documents.zip"),),
            originals.noisy_office,
        ),
        "galaxies_efigi": Download(
            ("https://www.astromatic.net/download/efigi/",),
            (Remote("efigi_tables-1.6.2.tgz"), Remote("efigi_png_gri-1.6.tgz")),
            originals.galaxies_efigi,
        ),
        # The university's own page asks for a form; these public copies are the same to the byte.
        "nsl_kdd": Download(
            (
                f"https://raw.githubusercontent.com/jmnwong/NSL-KDD-Dataset/{_NSL_KDD_COMMIT}/",
                "https://raw.githubusercontent.com/defcom17/NSL_KDD/master/",
                "https://raw.githubusercontent.com/HoaNP/NSL-KDD-DataSet/master/",
            ),
            (
                Remote("KDDTrain%2B_20Percent.txt", "e160feff7844050fc42c6d30ad0f2454", "KDDTrain+_20Percent.txt"),
                Remote("KDDTest%2B.txt", "7c6d1b1af246690766394920d6b4c751", "KDDTest+.txt"),
            ),
            originals.nsl_kdd,
        ),
        "beijing_air": Download(
            ("https://archive.ics.uci.edu/static/public/381/",),
            (Remote("beijing+pm2+5+data.zip", name="beijing_pm25.zip"),),
            originals.beijing_air,
        ),
    }
    archive = Download(("https://codeload.github.com/waico/SKAB/zip/",), (Remote(_SKAB_COMMIT, name="SKAB.zip"),), originals.skab)
    table |= dict.fromkeys(("skab", "skab/anomaly_free"), archive)
    classical = f"https://raw.githubusercontent.com/Minqi824/ADBench/{_ADBENCH_COMMIT}/adbench/datasets/Classical/"
    sets = (one for one in named().values() if one.name.startswith("adbench/"))
    table |= {
        one.name: Download((classical,), (Remote(f"{stem}.npz"),), originals.adbench) for one, stem in zip(sets, ADBENCH, strict=True)
    }
    return table


DOWNLOADS: Mapping[str, Download] = MappingProxyType(_downloads())


def fetch(
    name: str,
    to: str | Path | None = None,
    base_url: str | None = None,
    progress: Progress | None = None,
    downloads: Mapping[str, Download] = DOWNLOADS,
) -> list[Path]:
    """Download a named set and write its Parquet below `to` (default: the cache), as `resolve` looks for it.

    Files that are there already are kept. `base_url` takes the place of the public address, for a mirror
    of one's own. Returns the Parquet files. Raises RaeflowError, in one sentence, for an unknown name, a
    source that cannot be reached, a checksum or a size that does not hold, and a folder that cannot be written.
    """
    chosen = lookup(name)
    if chosen is None:
        single = ", ".join(n for n in named() if not n.startswith("adbench/"))
        raise RaeflowError(f"there is no named set {name!r}; named sets are {single} and adbench/NAME, as in adbench/cardio")
    root = Path(to).expanduser() if to is not None else places().cache
    paths = [root / file for file in chosen.files]
    if all(path.is_file() for path in paths):
        return paths
    if chosen.made:
        return make(chosen, root)
    download = downloads[chosen.name]
    if base_url is not None:
        if not base_url.startswith(("http://", "https://")):
            raise RaeflowError(f"{base_url!r} is no address to fetch from: it must start with http:// or https://")
        download = replace(download, mirrors=(base_url.rstrip("/") + "/",))
    staging = root / ".downloads" / chosen.name
    try:
        staging.mkdir(parents=True, exist_ok=True)
        for remote in download.remotes:
            _file(chosen.name, remote, download.mirrors, staging, progress)
        try:
            tables = download.convert(staging, chosen)
        except originals.BROKEN as error:
            _discard(staging)
            raise RaeflowError(
                f"{chosen.name}: what {download.mirrors[0]} sent cannot be read ({error}); nothing of it was kept"
            ) from error
        except RaeflowError:
            _discard(staging)
            raise
        _check(chosen, tables, staging)
    except OSError as error:
        raise RaeflowError(f"{chosen.name} cannot be stored in {staging} ({error.strerror or error})") from error
    written = write_all(tables, root)
    _discard(staging)
    return written


def _check(chosen: NamedSet, tables: originals.Tables, staging: Path) -> None:
    """Refuse tables whose sizes are not those of the set."""
    found = {"rows": sum(table.num_rows for table in tables.values())}
    expected = {"rows": chosen.rows}
    size = ADBENCH_SIZES.get(chosen.name.removeprefix("adbench/")) if chosen.name.startswith("adbench/") else None
    if size is not None:
        (table,) = tables.values()
        found |= {"features": table.schema.field("features").type.list_size, "anomalies": sum(table["label"].to_pylist())}
        expected = dict(zip(("rows", "features", "anomalies"), size, strict=True))
    if chosen.rows is not None and found != expected:
        _discard(staging)
        holds, has = (", ".join(f"{count} {what}" for what, count in sizes.items()) for sizes in (found, expected))
        raise RaeflowError(f"{chosen.name}: the download holds {holds} where the set has {has}")


def _file(owner: str, remote: Remote, mirrors: tuple[str, ...], folder: Path, progress: Progress | None) -> Path:
    """The file in `folder`, whole and checked; from the first mirror that has it."""
    path = folder / remote.local
    if path.is_file() and remote.md5 is not None and _md5(path) == remote.md5:
        return path
    part = path.with_name(path.name + ".part")
    reasons = []
    for mirror in mirrors:
        reason = _from_mirror(mirror + remote.path, part, remote.md5, progress)
        if reason is None:
            return part.replace(path)
        reasons.append(f"{mirror}{remote.path}: {reason}")
    _tidy(folder)
    raise RaeflowError(f"{owner} cannot be fetched ({'; '.join(reasons)}); try again, or set RAEFLOW_DATA to a folder that holds it")


def _from_mirror(url: str, part: Path, md5: str | None, progress: Progress | None) -> str | None:
    """Fill `part`; None if it is whole, else why not. Only pieces that a checksum can vouch for are kept."""
    for resume in (md5 is not None, False):
        try:
            resumed = _receive(url, part, resume, progress)
        except _FAILURES as error:
            if md5 is None:
                part.unlink(missing_ok=True)
            stale = isinstance(error, urllib.error.HTTPError) and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            if resume and stale:
                continue
            return str(getattr(error, "reason", None) or error or type(error).__name__)
        found = _md5(part)
        if md5 in (None, found):
            return None
        part.unlink()
        if not resumed:
            break
    return f"md5 is {found}, not {md5}"


def _receive(url: str, part: Path, resume: bool, progress: Progress | None) -> bool:
    """Write what `url` sends to `part`, after what is there already if `resume` and the server can; True if it was so."""
    have = part.stat().st_size if resume and part.is_file() else 0
    headers = {"User-Agent": "raeflow"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - addresses are this file's own or the caller's
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
        done = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        resumed = done > 0
        with part.open("ab" if resumed else "wb") as sink:
            while piece := response.read(_PIECE):
                sink.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")
    return resumed


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _discard(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    if staging.parent.is_dir():
        _tidy(staging.parent)


def _tidy(folder: Path) -> None:
    """Remove staging folders that hold nothing worth going on from."""
    for empty in (folder, *folder.parents):
        if any(empty.iterdir()):
            return
        empty.rmdir()
        if empty.name == ".downloads":
            return
