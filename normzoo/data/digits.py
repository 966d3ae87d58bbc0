"""Digits: the 1,797 images of 8×8 in scikit-learn; no download."""

import torch

from normzoo.data.in_memory import Images, InMemory
from normzoo.errors import UserError


class Digits(InMemory):
    """Handwritten digits: 1,797 images of 8×8, 174 to 183 per class; one pool for training and validation.

    Args:
        options: Options of `InMemory` and `ImageData`; val_size None is a fifth.

    Raises:
        UserError: If scikit-learn is not installed.

    Source: E. Alpaydin, C. Kaynak, 1998, UCI "Optical Recognition of Handwritten Digits".
    """

    name = "digits"
    num_classes = 10
    native_shape = (1, 8, 8)
    max_value = 16.0

    def read(self) -> tuple[Images, None]:
        """Return the pool of images and labels."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                "the data set digits needs the package scikit-learn, which cannot be imported "
                f"({error}). Install it: pip install 'normzoo[sweep]'."
            ) from error
        digits = load_digits()
        return (torch.from_numpy(digits.images).float().unsqueeze(1), torch.from_numpy(digits.target)), None
