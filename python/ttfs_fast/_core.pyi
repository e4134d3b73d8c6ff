from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

class IntegerNetwork:
    def __init__(
        self,
        time_bits: int,
        image_size: tuple[int, int, int],
        unit: float,
        encoders: NDArray[np.uint16],
    ) -> None: ...
    def add_neurons(
        self,
        codes: NDArray[np.int8],
        bits: int,
        theta: NDArray[np.int32],
        bias: NDArray[np.int32] | None,
        bias_code: int,
        ratio: int,
        latest: int,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        output: Sequence[int],
        reference_code: int = 0,
        slope: NDArray[np.int32] | None = None,
    ) -> None: ...
    def add_pooling(
        self,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        output: Sequence[int],
    ) -> None: ...
    @staticmethod
    def load(path: str | bytes) -> IntegerNetwork: ...
    @staticmethod
    def parse(content: bytes) -> IntegerNetwork: ...
    def serialize(self) -> bytes: ...
    @property
    def time_bits(self) -> int: ...
    @property
    def silent(self) -> int: ...
    @property
    def unit(self) -> float: ...
    @property
    def image_size(self) -> tuple[int, int, int]: ...
    @property
    def input_size(self) -> tuple[int, int, int]: ...
    @property
    def output_size(self) -> tuple[int, int, int]: ...
    @property
    def encoders(self) -> NDArray[np.uint16]: ...
    @property
    def classes(self) -> list[str]: ...
    def set_classes(self, names: Sequence[str]) -> None: ...
    @property
    def layer_count(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    def layer(self, layer: int) -> dict[str, Any]: ...
    def weight_codes(self, layer: int) -> NDArray[np.int8]: ...
    def run_pixels(
        self, input: NDArray[np.uint8], all_layers: bool, threads: int
    ) -> list[NDArray[np.uint16]]: ...
    def run_codes(
        self, input: NDArray[np.uint16], all_layers: bool, threads: int
    ) -> list[NDArray[np.uint16]]: ...
    def reference(self, layer: int, codes: NDArray[np.uint16]) -> NDArray[np.uint16]: ...

def conv2d_forward(
    input: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    t_max: float,
    output: NDArray[Any],
    slope: NDArray[Any],
    threads: int,
    initial_slope: float = -1.0,
    threshold: float = 0.0,
    *,
    counts: NDArray[np.int64] | None = None,
) -> None: ...
def conv2d_backward(
    input: NDArray[Any],
    weight: NDArray[Any],
    output: NDArray[Any],
    slope: NDArray[Any],
    grad_output: NDArray[Any],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    grad_input: NDArray[Any] | None,
    grad_weight: NDArray[Any] | None,
    grad_bias: NDArray[Any] | None,
    threads: int,
    initial_slope: float = -1.0,
    threshold: float = 0.0,
) -> None: ...
def max_pool2d_forward(
    input: NDArray[Any],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output: NDArray[Any],
    index: NDArray[np.int32],
    threads: int,
) -> None: ...
def max_pool2d_backward(
    grad_output: NDArray[Any],
    index: NDArray[np.int32],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    grad_input: NDArray[Any],
    threads: int,
) -> None: ...

circuit_channels: int
circuit_parameters: tuple[str, ...]
circuit_noise: tuple[str, ...]

class CircuitSimulator:
    def __init__(
        self,
        *,
        model: str,
        parameters: dict[str, float],
        noise: dict[str, float],
        step: float,
        duration: float,
        seed: int,
        record_every: int,
    ) -> None: ...
    @property
    def samples(self) -> int: ...
    def run(
        self,
        *,
        times: NDArray[np.float64],
        weights: NDArray[np.float64],
        time_rows: NDArray[np.int64] | None,
        weight_rows: NDArray[np.int64] | None,
        chips: NDArray[np.int64] | None,
        first_trial: int,
        fire: NDArray[np.float64],
        peak: NDArray[np.float64],
        waveforms: NDArray[np.float64] | None,
        threads: int,
    ) -> int: ...

def check_circuit_parameters(values: dict[str, float]) -> None: ...
def check_circuit_noise(values: dict[str, float]) -> None: ...
def circuit_normals(seed: int, trial: int, first: int, count: int) -> NDArray[np.float64]: ...
def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def set_instruction_set(name: str) -> None: ...
