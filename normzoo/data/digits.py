"""Digits: the 1,797 images of 8×8 inside scikit-learn, which need no download."""

import torch

from normzoo.data.in_memory import Images, InMemory
from normzoo.errors import UserError


class Digits(InMemory):
    """1,797 images of handwritten digits, 174 to 183 of each, 8×8; one pool for training and validation.

    Args:
        options: those of `InMemory` and `ImageData`; val_size None is a fifth.

    Raises:
        UserError: scikit-learn is not installed.

    Source: E. Alpaydin, C. Kaynak, 1998, UCI "Optical Recognition of Handwritten Digits".
    """

    name = "digits"
    num_classes = 10
    native_shape = (1, 8, 8)
    max_value = 16.0

    def read(self) -> tuple[Images, None]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                "the data set digits comes with the package scikit-learn, which cannot be imported "
                f"({error}). Install it: pip install 'normzoo[sweep]'."
            ) from error
        digits = load_digits()
        return (torch.from_numpy(digits.images).float().unsqueeze(1), torch.from_numpy(digits.target)), None
