"""Amounts of work of the reproduction."""

from dataclasses import dataclass, field

WEIGHT_SNR = (10.0, 12.0, 15.0, 18.0, 20.0, 22.0, 24.0, 25.0, 27.0, 30.0, 35.0, 40.0)
"""dB; Figure 2 reaches from 10 to 40."""

DISTURBANCES: dict[str, tuple[float, ...]] = {
    "input_jitter": (0.01, 0.03, 0.1, 0.2, 0.3, 0.5),
    "output_jitter": (0.003, 0.01, 0.03, 0.05, 0.1, 0.2),
    "dropped": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "stuck_silent": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "stuck_early": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "t_max": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
}
"""Levels of the disturbances beyond the paper, by the fields of `Perturbation`."""

PHASE_NOISE = (-125.0, -115.0, -105.0, -95.0)
"""dBc/Hz at 1 MHz, in every oscillator of a network of circuits."""


@dataclass(frozen=True)
class Plan:
    """Amount of work, and the seed.

    Attributes
    ----------
    seed : int
        Of all that is random.
    draws : int
        Draws of the noise on the weights; the other disturbances have half as many.
    circuit_trials : int
        Trials of the neuron's circuit at each value of Table 3.
    circuit_images : int
        Images that run through a network of circuits.
    retrain_epochs : int
        Epochs of retraining with 8 and 4 bits each; 2 bits have four times as many, and then as
        many as 8 with frozen codes.
    retrain_images : int or None
        Number of training images to retrain on, the first ones; None for all.
    sweep_images : int
        Test images for what is repeated many times; the weights of the first network are disturbed
        on all.
    deep_images : int
        The same for networks other than MNIST's, which take far longer; also for few bits.
    operation_images : int
        Test images on which synaptic operations are counted.
    weight_snr, disturbances, phase_noise
        The levels of Figure 2.
    """

    seed: int = 0
    draws: int = 10
    circuit_trials: int = 20_000
    circuit_images: int = 100
    retrain_epochs: int = 2
    retrain_images: int | None = None
    sweep_images: int = 2000
    deep_images: int = 500
    operation_images: int = 20
    weight_snr: tuple[float, ...] = WEIGHT_SNR
    disturbances: dict[str, tuple[float, ...]] = field(default_factory=lambda: dict(DISTURBANCES))
    phase_noise: tuple[float, ...] = PHASE_NOISE

    def __post_init__(self) -> None:
        least = {
            "draws": 2,
            "circuit_trials": 2,
            "circuit_images": 1,
            "sweep_images": 1,
            "deep_images": 1,
            "operation_images": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}; got {getattr(self, name)}")
        for name in ("seed", "retrain_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")

    @classmethod
    def quick(cls, seed: int = 0, draws: int | None = None) -> "Plan":
        """A minute's work on the embedded digits."""
        return cls(
            seed=seed,
            draws=draws or cls.draws,
            circuit_trials=4000,
            circuit_images=20,
            retrain_epochs=2,
        )

    @property
    def fewer_draws(self) -> int:
        """Draws of the disturbances beyond the paper."""
        return max(2, self.draws // 2)
