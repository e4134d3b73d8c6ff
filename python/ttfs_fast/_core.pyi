from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

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

def simulate_circuit(
    model: str,
    parameters: dict[str, float],
    noise: dict[str, float | int | bool],
    step: float,
    duration: float,
    seed: int,
    first_trial: int,
    times: NDArray[np.float64],
    weights: NDArray[np.float64],
    time_rows: NDArray[np.int64] | None,
    weight_rows: NDArray[np.int64] | None,
    chips: NDArray[np.int64] | None,
    fire: NDArray[np.float64],
    peak: NDArray[np.float64],
    decimation: int,
    waveforms: NDArray[np.float64] | None,
    threads: int,
) -> int: ...
def circuit_normals(seed: int, trial: int, first: int, count: int) -> NDArray[np.float64]: ...
def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def set_instruction_set(name: str) -> None: ...
