"""Images that come with scikit-learn."""

import hashlib

from lab.data import ledger


def digits() -> tuple:
    """scikit-learn's 1,797 handwritten digits, bundled with it (UCI's optical recognition test set).

    Returns images, float32 [N, 1, 8, 8] in [0, 1] (the counts 0 to 16 of inked pixels in a 4 x 4 block,
    divided by 16), and labels, int64 [N], the digit itself. The order is scikit-learn's.
    """
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ledger.note("scikit-learn's digits", len(bunch.target), lambda: hashlib.sha256(bunch.data.tobytes()).hexdigest())
    images = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    return images, torch.from_numpy(bunch.target).to(torch.int64)
