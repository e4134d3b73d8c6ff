"""Networks of the paper."""

from ttfs_fast.models.mnist import MnistSCNN, mnist_scnn

__all__ = ["MnistSCNN", "mnist_scnn"]
