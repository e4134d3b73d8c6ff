"""``ttfs-fast export``: trained networks for other programs."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttfs_fast.cli._common import (
    Debug,
    OwnNetwork,
    Weights,
    app,
    choose_network,
    friendly_errors,
    images_of_network,
    option,
    refuse_relu,
    show_table,
)

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


@app.command()
def export(
    weights: Weights = None,
    own: OwnNetwork = None,
    out: Annotated[
        Path | None, option("File to write: NAME.nir or NAME.pt2.", show_default=False)
    ] = None,
    tau: Annotated[float, option("NIR: synaptic time constant, in seconds.")] = 10e-3,
    dt: Annotated[float, option("NIR: time step of the simulator, in seconds.")] = 0.1e-3,
    check: Annotated[
        Path | None,
        option(
            "A TOML file with the limits of a chip (docs/hardware.md). If the network exceeds one, "
            "print which layer and by how much, write nothing, and exit with status 1.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a trained network for other programs: neuromorphic ones (NIR), or torch.

    Example: ttfs-fast export --weights mnist_scnn --out mnist.nir. NAME.nir is a graph for
    simulators and chips. NAME.pt2 is a program of torch.export, from spike values to spike
    values; torch.export.load reads it after `import ttfs_fast.ops`. With --check and without
    --out, the network is only compared with the limits of a chip.
    """
    with friendly_errors(debug):
        from ttfs_fast.encoding import encoding_of
        from ttfs_fast.models import HorizonNetwork, SpikingNetwork

        if out is None and check is None:
            raise ValueError("give --out NAME.nir, --out NAME.pt2 or --check LIMITS.toml")
        if out is not None and out.suffix not in (".nir", ".pt2"):
            raise ValueError(f"{out}: the file's name must end in .nir or .pt2")
        model, _, source = choose_network(weights, own)
        if check is not None or (out is not None and out.suffix == ".nir"):
            refuse_relu(model, source)
        assert weights is not None  # choose_network has refused it
        images, _ = images_of_network(weights)
        copies = encoding_of(model).copies
        shape: Shape = (images.channels * copies, images.height, images.width)
        if isinstance(model, SpikingNetwork | HorizonNetwork):
            shape = (model.description.in_channels, *model.description.image_size)
        if check is not None:
            from ttfs_fast.analysis import check_limits, read_limits

            found = check_limits(model, shape, read_limits(check))
            show_table(found.table())
            for excess in found.excesses:
                print(excess)
            if not found.fits:
                raise typer.Exit(1)
            print(f"every layer fits the limits of {check}")
        if out is None:
            return
        if out.suffix == ".nir":
            from ttfs_fast import nir

            nir.write(out, model, shape, tau=tau, dt=dt)
        else:
            _write_exported_program(out, model, shape)
        print(f"{out}: {out.stat().st_size:,} bytes, from spike values of images of {shape}")


def _write_exported_program(path: Path, model: "nn.Module", shape: Shape) -> None:
    import torch

    from ttfs_fast._files import replace_file

    example = torch.ones(2, *shape, dtype=next(model.parameters()).dtype)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()
    torch.export.save(program, content)
    replace_file(path, content.getvalue())
