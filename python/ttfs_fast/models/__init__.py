"""Networks of the paper, and the ReLU networks of the same shapes."""

from ttfs_fast.models.adapter import DecodeSpikes
from ttfs_fast.models.deep import (
    cifar_airbench,
    cifar_scnn,
    cifar_vgg,
    spiking_googlenet,
    spiking_vgg16,
    vgg_stack,
)
from ttfs_fast.models.description import Description, LayerCount
from ttfs_fast.models.mnist import MnistSCNN, mnist_scnn
from ttfs_fast.models.networks import HorizonNetwork, ReluNetwork, SpikingNetwork, relu_counterpart

__all__ = [
    "DecodeSpikes",
    "Description",
    "HorizonNetwork",
    "LayerCount",
    "MnistSCNN",
    "ReluNetwork",
    "SpikingNetwork",
    "cifar_airbench",
    "cifar_scnn",
    "cifar_vgg",
    "mnist_scnn",
    "relu_counterpart",
    "spiking_googlenet",
    "spiking_vgg16",
    "vgg_stack",
]
