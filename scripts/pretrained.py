"""Write the weights of a training run in half precision, as a network that comes with the package.

    python scripts/pretrained.py RUN python/ttfs_fast/models/weights/cifar_airbench.safetensors

For networks whose layers have horizons: the weights are rounded to float16, all but those of the
reference inputs, which are computed on loading so that every neuron's sum is what it was. Biases
stay in float32.
"""

import argparse
from pathlib import Path

from ttfs_fast.models.pretrained import halve_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="file to write")
    options = parser.parse_args()
    size = halve_file(options.run / "model.safetensors", options.out)
    print(f"{options.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
