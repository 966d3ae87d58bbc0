"""Fashion-MNIST from IDX files: from torchvision, Debian's package, or any folder."""

from normzoo.data.mnist import MNIST


class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 training and 10,000 validation images (the official test set) of clothes, 28×28.

    The four IDX files, gzipped or not, are searched in `root`, `root/FashionMNIST/raw` and `root/raw`; without `root`
    in `FashionMNIST/raw` below $NORMZOO_DATA, the cache folder and ./data, and in the folder of Debian's package
    dataset-fashion-mnist.

    Args:
        root: Folder with the files.
        download: Whether torchvision may download missing files, into `root` or the cache folder.
        options: Options of `InMemory` and `ImageData`.

    Raises:
        UserError: If the files are missing, damaged, or could not be downloaded.

    Source: H. Xiao, K. Rasul, R. Vollgraf, 2017, arXiv:1708.07747.
    """

    name = "fashion_mnist"
    torchvision_class = download_folder = "FashionMNIST"
    system_folders = ("/usr/share/datasets/fashion-mnist",)
    how_to_get = (
        "Install the Debian or Ubuntu package dataset-fashion-mnist (apt install dataset-fashion-mnist), set "
        "data.download=true, or set data.root to a folder with the four IDX files."
    )
