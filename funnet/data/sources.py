"""Data sets by name, as NumPy arrays: found on this machine, or downloaded once and checked.

Each function of images returns ``(train, test)``, two dicts of arrays with equal first dimensions:
``image``, uint8 of shape (N, H, W, C) and values 0..255, and ``label``, int32 of shape (N,).
A text is a string. A data set is one entry in `SOURCES`.
"""

import os

import numpy as np

import funnet.data.jpeg as jpeg
from funnet.data.cifar import TEST_NAME, TRAIN_NAMES, read_archive, read_files
from funnet.data.download import Download, Layout, Source, load
from funnet.data.idx import Split, read_mnist
from funnet.data.texts import python_docs as python_docs
from funnet.data.texts import read_text

_IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR_NAMES = (*TRAIN_NAMES, TEST_NAME)
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"


def _idx_layouts(subfolder: str) -> tuple[Layout, ...]:
    """The four files in a folder, or where torchvision puts them below it."""
    plain = Layout(_IDX_NAMES, read_mnist, packed=True)
    return plain, Layout(_IDX_NAMES, read_mnist, subfolder=subfolder, packed=True)


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="mnist",
            layouts=_idx_layouts("MNIST/raw"),
            downloads=(
                # MD5 of the content: not every mirror has the .gz files of 1998.
                Download(
                    "train-images-idx3-ubyte.gz",
                    size=9_912_422,
                    md5="6bbc9ace898e44ae57da46a324031adb",
                    unpacked=47_040_016,
                ),
                Download(
                    "train-labels-idx1-ubyte.gz",
                    size=28_881,
                    md5="a25bea736e30d166cdddb491f175f624",
                    unpacked=60_008,
                ),
                Download(
                    "t10k-images-idx3-ubyte.gz",
                    size=1_648_877,
                    md5="2646ac647ad5339dbf082846283269ea",
                    unpacked=7_840_016,
                ),
                Download(
                    "t10k-labels-idx1-ubyte.gz",
                    size=4_542,
                    md5="27ae3e4e09519cfbb04c329615203637",
                    unpacked=10_008,
                ),
            ),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "http://yann.lecun.com/exdb/mnist/",
            ),
        ),
        Source(
            name="fashion_mnist",
            layouts=_idx_layouts("FashionMNIST/raw"),
            downloads=(
                Download(
                    "train-images-idx3-ubyte.gz",
                    size=26_421_880,
                    md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                ),
                Download(
                    "train-labels-idx1-ubyte.gz",
                    size=29_515,
                    md5="25c81989df183df01b3e8a0aad5dffbe",
                ),
                Download(
                    "t10k-images-idx3-ubyte.gz",
                    size=4_422_102,
                    md5="bef4ecab320f06d8554ea6380940ec79",
                ),
                Download(
                    "t10k-labels-idx1-ubyte.gz",
                    size=5_148,
                    md5="bb300cfdad3c16e7a12a480ee83cd310",
                ),
            ),
            mirrors=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
        ),
        Source(
            name="cifar10",
            layouts=(
                Layout(_CIFAR_NAMES, read_files),
                Layout(_CIFAR_NAMES, read_files, subfolder="cifar-10-batches-bin"),
                Layout((_CIFAR_ARCHIVE,), read_archive),
                Layout(jpeg.NAMES, jpeg.read_pack, caveat=jpeg.CAVEAT),
            ),
            downloads=(
                Download(
                    _CIFAR_ARCHIVE,
                    size=170_052_171,
                    md5="c32a1d4ab5d03f1284b67883e8d87530",
                ),
            ),
            mirrors=(
                "https://www.cs.toronto.edu/~kriz/",
                "https://cave.cs.toronto.edu/kriz/",
            ),
        ),
        Source(
            name="tinyshakespeare",
            layouts=(Layout(("input.txt",), read_text),),
            downloads=(
                Download("input.txt", size=1_115_394, md5="6fb458f1232090904fb40fe944165e91"),
            ),
            mirrors=(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
            ),
        ),
    )
}


def mnist(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Split, Split]:
    """Handwritten digits, 60,000 to train on and 10,000 to test, classes 0..9.

    Args:
        folder: the only place to look for the four IDX files (``train-images-idx3-ubyte.gz``
            and so on, gzipped or not), where given. Any number of images is accepted. Else
            ``$FUNNET_DATA/mnist``, then the user's cache: ``$XDG_CACHE_HOME/funnet/mnist``, or
            ``~/.cache/funnet/mnist``.
        download: whether files found nowhere are downloaded into that cache (11.6 MB).

    Returns:
        Train and test, each ``{"image": uint8 (N, 28, 28, 1), "label": int32 (N,)}``, writable.

    Raises:
        FileNotFoundError: no place has the files and no mirror gave them; lists all of these.
        ValueError: files were found but are damaged.
        OSError: a folder cannot be read, or the cache cannot be written.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.

    Example:
        >>> train, test = mnist()  # doctest: +SKIP
        >>> train["image"].shape  # doctest: +SKIP
        (60000, 28, 28, 1)
    """
    return load(SOURCES["mnist"], folder, download=download)


def fashion_mnist(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Split, Split]:
    """Photographs of clothing, 60,000 to train on and 10,000 to test, in MNIST's format.

    Classes: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Args:
        folder: as for `mnist`; the place searched is called ``fashion_mnist``.
        download: whether files found nowhere are downloaded into the cache (30.9 MB).

    Returns:
        Train and test, each ``{"image": uint8 (N, 28, 28, 1), "label": int32 (N,)}``, writable.

    Raises:
        FileNotFoundError: no place has the files and no mirror gave them; lists all of these.
        ValueError: files were found but are damaged.
        OSError: a folder cannot be read, or the cache cannot be written.

    Source: Xiao, Rasul and Vollgraf, https://arxiv.org/abs/1708.07747, 2017.
    """
    return load(SOURCES["fashion_mnist"], folder, download=download)


def cifar10(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Split, Split]:
    """Small colour photographs, 50,000 to train on and 10,000 to test.

    Classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.

    Args:
        folder: as for `mnist`; the place searched is called ``cifar10``. It has the binary
            version: ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin`` (with
            any number of images each), the same in ``cifar-10-batches-bin``, or
            ``cifar-10-binary.tar.gz``, which is read without being extracted. Or else
            ``train.npz`` and ``test.npz``, packs of JPEG images (see `funnet.data.jpeg`), whose
            pixels are nearly those: `fn.data.caveat("cifar10")` then says so. They need Pillow.
        download: whether files found nowhere are downloaded into the cache (170 MB).

    Returns:
        Train and test, each ``{"image": uint8 (N, 32, 32, 3), "label": int32 (N,)}``, writable;
        channels are red, green, blue.

    Raises:
        FileNotFoundError: no place has the files and no mirror gave them; lists all of these.
        ValueError: files were found but are damaged.
        OSError: a folder cannot be read, or the cache cannot be written.
        ImportError: there are packs of JPEG images, and Pillow is not installed.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return load(SOURCES["cifar10"], folder, download=download)


def tiny_shakespeare(folder: str | os.PathLike[str] | None = None, *, download: bool = True) -> str:
    """Scenes from Shakespeare's plays, 40,000 lines: 1,115,394 characters, 65 different ones.

    By custom the first nine tenths are for training and the rest for validation.

    Args:
        folder: as for `mnist`; the place searched is called ``tinyshakespeare``. It has the file
            ``input.txt``.
        download: whether a file found nowhere is downloaded into the cache (1.1 MB).

    Raises:
        FileNotFoundError: no place has the file and no mirror gave it; lists all of these.
        ValueError: a file was found but is damaged.
        OSError: a folder cannot be read, or the cache cannot be written.

    Source: Karpathy, The Unreasonable Effectiveness of Recurrent Neural Networks, 2015.
    """
    return load(SOURCES["tinyshakespeare"], folder, download=download)


def digits() -> tuple[Split, Split]:
    """Real handwritten digits that scikit-learn brings along: 1,437 to train on, 360 to test.

    Needs no file and no network. The rows are in the order of their writers, who are not named;
    the last 360 are the test, so that all its writers, but for one at the seam, are others than
    those of the training rows. That is harder than a random split (scikit-learn's course, under
    "Sample grouping", shows by how much). Values 0..16 are scaled to 0..255 and rounded.

    Returns:
        Train and test, each ``{"image": uint8 (N, 8, 8, 1), "label": int32 (N,)}``, writable.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (the test part), UCI
    Machine Learning Repository, https://doi.org/10.24432/C50P49, 1998.

    Example:
        >>> train, test = digits()
        >>> train["image"].shape, test["label"].dtype
        ((1437, 8, 8, 1), dtype('int32'))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits() needs scikit-learn: pip install 'funnet[recipes]'") from error
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    rows = slice(-360), slice(-360, None)
    train, test = ({"image": images[part].copy(), "label": labels[part].copy()} for part in rows)
    return train, test
