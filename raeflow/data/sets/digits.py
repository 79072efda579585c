"""The handwritten digits that come with scikit-learn: real 8x8 images, no download."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raeflow.data.writing import describe, fixed_lists

SOURCE = "sklearn.datasets.load_digits: test part of the UCI Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998)"
LICENCE = "CC BY 4.0 (UCI Machine Learning Repository)"


def table() -> pa.Table:
    """1,797 rows: `image` (1, 8, 8) float32 in 0-1, `label` 0-9.

    scikit-learn counts inked pixels of 4x4 blocks, 0 to 16. They are divided by 16 here, which float32
    holds exactly, so that 0-1 scaling leaves them as they are; as uint8 they would be taken for 0-255.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed once per machine

    bunch = load_digits()
    columns = {
        "image": fixed_lists((bunch.images / 16).astype(np.float32)),
        "label": pa.array(bunch.target.astype(np.int32)),
    }
    names = [str(digit) for digit in range(10)]
    return describe(pa.table(columns), shape=(8, 8, 1), layout="HWC row-major float32", classes=names, source=SOURCE, licence=LICENCE)
