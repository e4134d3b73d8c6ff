"""What the paper reports: every figure here is copied from it, none is ours.

S. Zhou, X. Li, Y. Chen, S. T. Chandrasekaran, A. Sanyal, "Temporal-Coded Deep Spiking Neural
Network with Easy Training and Robust Performance", AAAI 2021. Table 3 is in
`ttfs_fast.circuit.sweeps`.
"""

from dataclasses import dataclass

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
        Share of test images classified correctly (Table 2).
    weights : float
        Trainable weights (Table 2, in millions there).
    sparsity : float
        Share of neurons that spike (Table 2).
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

JOULE_PER_SPIKE = 10e-12
"""Section 3.1: "the neuron consumes less than 10 pJ/spike"."""

PRIOR_JOULE_PER_SPIKE = 19e-12
"""Section 3.1: of the circuit that it is compared with."""

CLAIMED_GAIN = 0.45
"""Section 3.1 and the abstract: "energy efficiency gain of 45 %"."""
