"""The figures that the paper reports, copied from it.

S. Zhou, X. Li, Y. Chen, S. T. Chandrasekaran, A. Sanyal, "Temporal-Coded Deep Spiking Neural
Network with Easy Training and Robust Performance", AAAI 2021.
"""

from dataclasses import dataclass

from ttfs_fast.analysis.evaluate import JOULE_PER_SPIKE

__all__ = [
    "CITATION",
    "CLAIMED_GAIN",
    "DECIBEL_PER_BIT",
    "IMAGENET_AT_24_DB",
    "JOULE_PER_SPIKE",
    "LINK",
    "PRIOR_JOULE_PER_SPIKE",
    "TABLE_2",
    "TABLE_3_BITS",
    "TABLE_3_JITTER",
    "TABLE_4",
    "Claim",
]

CITATION = (
    "S. Zhou, X. Li, Y. Chen, S. T. Chandrasekaran, A. Sanyal, Temporal-Coded Deep Spiking Neural "
    "Network with Easy Training and Robust Performance, AAAI 2021"
)
LINK = "https://doi.org/10.1609/aaai.v35i12.17329"


@dataclass(frozen=True)
class Claim:
    """A network as Table 2 and section 4.1 describe it.

    Attributes
    ----------
    network : str
        What the paper calls it.
    accuracy : float
        Fraction of test images classified correctly (Table 2).
    weights : float
        Trainable weights (Table 2, in millions there).
    sparsity : float
        Fraction of neurons that spike (Table 2).
    energy : float
        Joules an image (section 4.1).
    energy_text : str
        The same as printed.
    """

    network: str
    accuracy: float
    weights: float
    sparsity: float
    energy: float
    energy_text: str


TABLE_2 = {
    "mnist": Claim("MNIST network", 0.9933, 0.021e6, 0.94, 205e-9, "205 nJ"),
    "cifar10": Claim("SpikingVGG16", 0.9268, 34e6, 0.62, 0.336e-3, "0.336 mJ"),
    "imagenet": Claim("SpikingGoogleNet", 0.688, 6.8e6, 0.56, 0.038e-3, "0.038 mJ"),
}

TABLE_3_JITTER = {1.0: 0.024, 3.0: 0.189, 5.0: 0.397, 7.0: 0.789, 9.0: 0.997}
"""Output jitter of the neuron's circuit in % by input jitter in %."""

TABLE_3_BITS = {4.0: 0.957, 8.0: 0.268, 16.0: 0.008, 24.0: 0.004, 32.0: 0.004}
"""Output jitter of the neuron's circuit in % by bits of the weights."""

TABLE_4 = {
    "mnist": {32: 0.9933, 8: 0.9932, 4: 0.9921, 2: 0.9911},
    "cifar10": {32: 0.9268, 8: 0.9187, 4: 0.9138, 2: 0.9093},
    "imagenet": {32: 0.688, 8: 0.661, 4: 0.652, 2: 0.600},
}
"""Accuracy by bits of the weights, after retraining."""

IMAGENET_AT_24_DB = 0.6543
"""Accuracy with noise of 24 dB on the weights: the one point of Figure 2 that the text states."""

DECIBEL_PER_BIT = 6.02
"""Section 4.2: "4-bit quantization has quantization SNR 6.02 x 4 = 24 dB"."""

PRIOR_JOULE_PER_SPIKE = 19e-12
"""Section 3.1: of the circuit that it is compared with."""

CLAIMED_GAIN = 0.45
"""Section 3.1 and the abstract: "energy efficiency gain of 45 %"."""
