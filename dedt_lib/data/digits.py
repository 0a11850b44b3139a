"""scikit-learn's handwritten digits: real scans that need no download."""

import numpy as np

from .labelled import LabelledImages

TRAIN_PER_CLASS = 150


def load_digits(split: str = "train") -> LabelledImages:
    """scikit-learn's 1,797 handwritten digits as uint8 [n, 1, 8, 8], in a fixed stratified split.

    Args:
        split: "train" (150 images of each class) or "test" (the other 297).
    """
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    shuffled = np.random.RandomState(0).permutation(len(labels))
    parts = [shuffled[labels[shuffled] == k] for k in range(10)]
    cut = slice(None, TRAIN_PER_CLASS) if split == "train" else slice(TRAIN_PER_CLASS, None)
    chosen = np.sort(np.concatenate([part[cut] for part in parts]))
    ids = tuple(f"digit-{i:04d}" for i in chosen)
    return LabelledImages(images[chosen], labels[chosen], tuple("0123456789"), ids, "digits")
