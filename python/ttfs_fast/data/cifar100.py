"""CIFAR-100, from its binary format."""

import os

import numpy as np

from ttfs_fast.data.cifar import CifarError, read_records
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.sources import DATA_ROOT_VARIABLE, data_folders, places

_CLASSES = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
_COARSE_CLASSES = """aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores
    large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
    vehicles_2"""
CIFAR100_CLASSES = tuple(_CLASSES.split())
CIFAR100_COARSE_CLASSES = tuple(_COARSE_CLASSES.split())
_SUBFOLDERS = ("cifar100", "cifar-100-binary", ".")
_RECORD = 2 + 3 * 32 * 32


def load_cifar100(
    root: str | os.PathLike[str] | None = None, train: bool = True, *, coarse: bool = False
) -> ImageSet:
    """Load CIFAR-100's training or test images.

    Parameters
    ----------
    root : path, optional
        Folder with the binary files ``train.bin`` and ``test.bin``: ``root/cifar100``,
        ``root/cifar-100-binary`` or ``root``. By default the same are looked for within
        TTFS_FAST_DATA and within the user's cache folder. They are not fetched.
    train : bool
        The 50,000 training images, or the 10,000 test images.
    coarse : bool
        The 20 superclasses in place of the 100 classes. A record holds both labels.

    Returns
    -------
    cifar : ImageSet
        Images (N, 3, 32, 32), red, green and blue.

    Raises
    ------
    FileNotFoundError
        If the file is not found; says where it looked.
    CifarError
        If it is truncated, or not what its name says; names the file.

    Notes
    -----
    A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. A record has
    3,074 bytes: coarse label, fine label, pixels.
    """
    name = "train.bin" if train else "test.bin"
    bases = data_folders(root)
    paths = [base / folder / name for base in bases for folder in _SUBFOLDERS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"CIFAR-100's {name} was not found; looked in {places(bases)}, each with its "
            "subfolders cifar100 and cifar-100-binary. Put the binary version's files into such a "
            f"folder, and pass the one that holds it as root or set {DATA_ROOT_VARIABLE} to it"
        )
    records = read_records(path, _RECORD, "CIFAR-100")
    fine, large = records[:, 1].astype(np.int64), records[:, 0].astype(np.int64)
    for labels, classes in ((large, CIFAR100_COARSE_CLASSES), (fine, CIFAR100_CLASSES)):
        if labels.max() >= len(classes):
            raise CifarError(
                f"{path}: holds the label {labels.max()} where CIFAR-100 has 0..{len(classes) - 1}"
            )
    images = records[:, 2:].reshape(-1, 3, 32, 32)
    title = f"CIFAR-100{', coarse' if coarse else ''} ({'train' if train else 'test'})"
    if coarse:
        return ImageSet(images, large, title, CIFAR100_COARSE_CLASSES)
    return ImageSet(images, fine, title, CIFAR100_CLASSES)
