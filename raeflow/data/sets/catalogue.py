"""The catalogue of named sets: what each is, where it lies, and what it fills into `Data`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class NamedSet:
    """One named set, and what it fills into `Data`."""

    name: str
    title: str
    files: tuple[str, ...]
    """Below $RAEFLOW_DATA or the cache."""
    columns: tuple[str, ...] | None
    """None: every column that can tell rows apart."""
    label: str | None
    licence: str
    source: str
    """Where the public original lies."""
    citation: str
    rows: int | None = None
    """None where it is only known after fetching."""
    shape: tuple[int, ...] | None = None
    """(F,), (C, L) or (C, H, W)."""
    layout: Literal["CHW", "HWC"] | None = None
    target: str | None = None
    split: str | None = None
    test: tuple[str, ...] = ()
    """Those of `files` that are the test split; the others are `Data.source`."""
    flags: bool = False
    """The label is 0 for normal and 1 for anomaly, so normal rows are those of label 0."""
    made: bool = False
    """Made on this machine, without a download."""


# The 41 features of KDD Cup 1999, in the order of its files; NSL-KDD adds the attack and how hard it is to tell.
NSL_KDD = (
    "duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent", "hot",
    "num_failed_logins", "logged_in", "num_compromised", "root_shell", "su_attempted", "num_root", "num_file_creations", "num_shells",
    "num_access_files", "num_outbound_cmds", "is_host_login", "is_guest_login", "count", "srv_count", "serror_rate", "srv_serror_rate",
    "rerror_rate", "srv_rerror_rate", "same_srv_rate", "diff_srv_rate", "srv_diff_host_rate", "dst_host_count", "dst_host_srv_count",
    "dst_host_same_srv_rate", "dst_host_diff_srv_rate", "dst_host_same_src_port_rate", "dst_host_srv_diff_host_rate",
    "dst_host_serror_rate", "dst_host_srv_serror_rate", "dst_host_rerror_rate", "dst_host_srv_rerror_rate",
)  # fmt: skip
SKAB = (
    "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage", "Volume_Flow_RateRMS",
)  # fmt: skip

# Stems of ADBench's classical sets; the number is ADBench's own.
ADBENCH = (
    "1_ALOI", "2_annthyroid", "3_backdoor", "4_breastw", "5_campaign", "6_cardio", "7_Cardiotocography", "8_celeba", "9_census",
    "10_cover", "11_donors", "12_fault", "13_fraud", "14_glass", "15_Hepatitis", "16_http", "17_InternetAds", "18_Ionosphere",
    "19_landsat", "20_letter", "21_Lymphography", "22_magic.gamma", "23_mammography", "24_mnist", "25_musk", "26_optdigits",
    "27_PageBlocks", "28_pendigits", "29_Pima", "30_satellite", "31_satimage-2", "32_shuttle", "33_skin", "34_smtp", "35_SpamBase",
    "36_speech", "37_Stamps", "38_thyroid", "39_vertebral", "40_vowels", "41_Waveform", "42_WBC", "43_WDBC", "44_Wilt", "45_wine",
    "46_WPBC", "47_yeast",
)  # fmt: skip

# Rows, features and anomalies of the sets that raeflow is tested on; a download must have them.
ADBENCH_SIZES = MappingProxyType({
    "annthyroid": (7200, 6, 534), "cardio": (1831, 21, 176), "fault": (1941, 27, 673), "ionosphere": (351, 32, 126),
    "mammography": (11183, 6, 260), "optdigits": (5216, 64, 150), "pendigits": (6870, 16, 156), "satimage_2": (5803, 36, 71),
    "shuttle": (49097, 9, 3511), "thyroid": (3772, 6, 93), "vowels": (1456, 12, 50), "wbc": (223, 9, 10), "wdbc": (367, 30, 10),
})  # fmt: skip


def _plain(name: str) -> str:
    return re.sub(r"[-.]", "_", name.lower())


def _adbench(stem: str) -> NamedSet:
    number, name = stem.split("_", 1)
    rows, features, _ = ADBENCH_SIZES.get(_plain(name), (None, None, None))
    return NamedSet(
        f"adbench/{_plain(name)}",
        f"ADBench table {number}, {name}",
        (f"adbench/{int(number):02d}_{_plain(name)}.parquet",),
        ("features",),
        "label",
        licence="BSD-2-Clause (ADBench); the underlying set keeps its own terms",
        source="https://github.com/Minqi824/ADBench",
        citation="Han, Hu, Huang, Jiang, Zhao: ADBench: Anomaly Detection Benchmark, NeurIPS 2022",
        rows=rows,
        shape=(features,) if features else None,
        flags=True,
    )


def _airshower(noise: str) -> NamedSet:
    return NamedSet(
        f"airshower/{noise}",
        f"simulated radio traces of air showers, {noise} noise",
        # The number is that of raeflow.data.sets.airshower.VERSION: a simulator that draws otherwise writes another file.
        (f"airshower/airshower_{noise}_v1.parquet",),
        ("noisy",),
        "label",
        licence="Apache-2.0",
        source="made by raeflow.data.sets.airshower",
        citation="after Erdmann, Schlueter, Smida: Classification and Recovery of Radio Signals from Cosmic Ray Induced "
        "Air Showers with Deep Learning, JINST 14 P04005, 2019 (arXiv:1901.04079)",
        rows=10_000,
        shape=(1, 500),
        target="clean",
        split="split",
        made=True,
    )


def _gaussians(name: str, modes: int) -> NamedSet:
    return NamedSet(
        f"gaussians/{name}",
        f"{modes} narrow Gaussians in the plane, a {name}",
        # The number is that of raeflow.data.sets.gaussians.VERSION.
        (f"gaussians/gaussians_{name}_v1.parquet",),
        ("x", "y"),
        "label",
        licence="Apache-2.0",
        source="made by raeflow.data.sets.gaussians",
        citation="Srivastava, Valkov, Russell, Gutmann, Sutton: VEEGAN: Reducing Mode Collapse in GANs using Implicit "
        "Variational Learning, NeurIPS 2017 (arXiv:1705.07761)",
        rows=20_000,
        shape=(2,),
        split="split",
        made=True,
    )


def _idx(name: str, title: str, licence: str, source: str, citation: str) -> NamedSet:
    files = tuple(f"{name}/{name}_{part}.parquet" for part in ("train", "test"))
    return NamedSet(
        name, title, files, ("image",), "label", licence, source, citation, rows=70_000, shape=(1, 28, 28), layout="HWC", split="split"
    )


def _skab(name: str, title: str, file: str, rows: int) -> NamedSet:
    return NamedSet(
        name,
        title,
        (f"skab/{file}.parquet",),
        SKAB,
        "anomaly",
        licence="GPL-3.0",
        source="https://github.com/waico/SKAB",
        citation="Katser, Kozitsin: Skoltech Anomaly Benchmark (SKAB) 0.9, 2020 (doi:10.34740/KAGGLE/DSV/1693952)",
        rows=rows,
        shape=(len(SKAB),),
        flags=True,
    )


_SETS = (
    NamedSet(
        "digits",
        "scikit-learn's handwritten digits, 8x8",
        ("digits/digits.parquet",),
        ("image",),
        "label",
        licence="CC BY 4.0",
        source="sklearn.datasets.load_digits",
        citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998",
        rows=1797,
        shape=(1, 8, 8),
        layout="HWC",
        made=True,
    ),
    *(_airshower(noise) for noise in ("realistic", "uniform", "cosine")),
    _gaussians("ring", 8),
    _gaussians("grid", 25),
    _idx(
        "mnist",
        "handwritten digits",
        "published without an explicit licence",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998",
    ),
    _idx(
        "fashion_mnist",
        "photographs of ten kinds of clothing",
        "MIT",
        "https://github.com/zalandoresearch/fashion-mnist",
        "Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017 (arXiv:1708.07747)",
    ),
    NamedSet(
        "galaxies_efigi",
        "SDSS images of galaxies, seven kinds by shape",
        ("galaxies_efigi/galaxies_efigi_64.parquet",),
        ("image",),
        "label",
        licence="free with reference to Baillard et al. 2011; images from SDSS",
        source="https://www.astromatic.net/projects/efigi",
        citation="Baillard, Bertin, de Lapparent et al.: The EFIGI catalogue of 4458 nearby galaxies, A&A 532, A74, 2011",
        rows=4458,
        shape=(3, 64, 64),
        layout="HWC",
        split="split",
    ),
    NamedSet(
        "ecg5000",
        "heartbeats of one patient; anomaly: UCR classes 2-5",
        ("ecg5000/ecg5000_train.parquet", "ecg5000/ecg5000_test.parquet"),
        ("signal",),
        "label",
        licence="UCR archive, free for research with citation; PhysioNet original ODC-BY 1.0",
        source="https://timeseriesclassification.com/description.php?Dataset=ECG5000",
        citation="Dau et al.: The UCR Time Series Archive, 2019 (arXiv:1810.07758); Goldberger et al.: PhysioBank, 2000",
        rows=5000,
        shape=(1, 140),
        split="split",
        flags=True,
    ),
    NamedSet(
        "noisy_office",
        "scans of stained and wrinkled text, noisy and clean",
        ("noisy_office/noisy_office_258x540.parquet",),
        ("image",),
        None,
        licence="CC BY 4.0 (UCI)",
        source="https://www.kaggle.com/c/denoising-dirty-documents",
        citation="Castro-Bleda, Espana-Boquera, Pastor-Pellicer, Zamora-Martinez: The NoisyOffice database, 2020",
        rows=48,
        shape=(1, 258, 540),
        layout="HWC",
        target="image_clean",
        split="split",
    ),
    NamedSet(
        "nsl_kdd",
        "connections to a network; anomaly: an attack",
        ("nsl_kdd/nsl_kdd_train_20percent.parquet", "nsl_kdd/nsl_kdd_test.parquet"),
        NSL_KDD,
        "anomaly",
        licence="free for research with reference to Tavallaee et al. 2009",
        source="https://www.unb.ca/cic/datasets/nsl.html",
        citation="Tavallaee, Bagheri, Lu, Ghorbani: A Detailed Analysis of the KDD CUP 99 Data Set, IEEE CISDA, 2009",
        rows=47_736,
        test=("nsl_kdd/nsl_kdd_test.parquet",),
        flags=True,
    ),
    NamedSet(
        "beijing_air",
        "hourly fine dust and weather of Beijing, 2010-2014",
        ("beijing_air/beijing_air.parquet",),
        None,
        None,
        licence="CC BY 4.0 (UCI)",
        source="https://archive.ics.uci.edu/dataset/381/beijing+pm2+5+data",
        citation="Liang et al.: Assessing Beijing's PM2.5 pollution: severity, weather impact, APEC and winter heating, "
        "Proc. R. Soc. A 471, 20150257, 2015",
        rows=43_824,
    ),
    _skab("skab", "sensors of a pump's loop, 34 experiments with faults", "skab_experiments", 37_401),
    _skab("skab/anomaly_free", "the same sensors while nothing goes wrong", "skab_anomaly_free", 9_405),
    *(_adbench(stem) for stem in ADBENCH),
)


@cache
def named() -> Mapping[str, NamedSet]:
    """All named sets by their name, in the order in which they are listed."""
    return MappingProxyType({one.name: one for one in _SETS})


def lookup(name: str) -> NamedSet | None:
    """The set of that name; case, `-` for `_` and ADBench's numbers do not matter, `airshower` is `airshower/realistic`."""
    plain = _plain(name)
    plain = "airshower/realistic" if plain == "airshower" else re.sub(r"^adbench/\d+_", "adbench/", plain)
    return named().get(plain)
