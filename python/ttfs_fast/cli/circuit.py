"""``ttfs-fast circuit``: the neuron as a circuit, simulated."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ttfs_fast._csv import write_csv
from ttfs_fast._tables import Column, Table
from ttfs_fast.cli._common import (
    DataRoot,
    Debug,
    OwnNetwork,
    Picture,
    Threads,
    Weights,
    check_picture,
    choose_spiking_network,
    console,
    counting_bar,
    draw,
    fit_to_network,
    flag,
    friendly_errors,
    group,
    option,
    set_threads,
    show_table,
    split_integers,
    split_list,
    split_numbers,
)

if TYPE_CHECKING:
    from ttfs_fast.circuit import CircuitParameters, Nonidealities, SimulationResult, SweepPoint
    from ttfs_fast.circuit.network import LayerResult

circuit = group("circuit", "Simulate the neuron circuit: ring oscillators and a phase-locked loop.")


EquationsName = Literal["averaged", "switching"]
Equations = Annotated[
    EquationsName,
    option("averaged: mean phases, exact; switching: square waves, XOR, sampled flip-flop."),
]
Trials = Annotated[int, option("Trials at each point.", min=2)]
Seed = Annotated[int, option("With a trial's number, decides its noise.", min=0)]
TableFile = Annotated[Path | None, option("File to write: the table, as CSV.", show_default=False)]
Settings = Annotated[
    str | None,
    flag(
        "--set",
        "Parameters and non-idealities, as name=value (docs/circuit.md lists them): "
        "--set loop_corner=4e9,phase_noise=-110.",
        metavar="NAME=VALUE,...",
    ),
]


@circuit.command()
def waveform(
    input_times: Annotated[str, option("Input spike times in units of tau.")] = "0.2,0.7,2.6",
    input_weights: Annotated[str, option("Their weights.")] = "0.8,0.7,0.6",
    equations: Annotated[
        Literal["averaged", "switching", "both"], option("Equations to solve.")
    ] = "both",
    duration: Annotated[float, option("Time to simulate, in units of tau.", min=0.01)] = 4.0,
    settings: Settings = None,
    seed: Seed = 0,
    out: TableFile = None,
    plot: Picture = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Simulate one neuron and show its waveforms, as the inset of the paper's Figure 1."""
    with friendly_errors(debug):
        import numpy as np

        from ttfs_fast.circuit import closed_form, default_step, energy, simulate

        check_picture(plot)
        set_threads(threads)
        p, noise = _settings(settings)
        t = split_numbers(input_times, "--input-times")
        w = split_numbers(input_weights, "--input-weights")
        chosen: list[EquationsName] = (
            ["averaged", "switching"] if equations == "both" else [equations]
        )
        _announce(p, noise, f"{len(t)} inputs, {', '.join(chosen)}", seed)
        results: dict[str, SimulationResult] = {}
        for kind in chosen:
            step = min(default_step(p, kind), p.tau * duration / 2000)
            results[kind] = simulate(
                p,
                p.seconds(t),
                w,
                noise=noise,
                model=kind,
                duration=float(p.seconds(duration)),
                step=step,
                record_every=max(1, int(p.tau * duration / step / 4000)),
                seed=seed,
            )
        shown: list[tuple[str, ...]] = [
            ("model", "fires (ns)", "(tau)", "ideal (tau)", "pJ", "steps")
        ]
        first = float(np.min(p.seconds(t)))
        for name, result in results.items():
            fire = result.fire_times[0]
            span = min(fire, result.duration) - first
            joules = float(energy(p, span, span))
            times = (float(p.network_time(fire)), float(closed_form(t, w)[0]))
            cells = (f"{fire * 1e9:.3f}", *(f"{time:.6f}" for time in times))
            shown.append((name, *cells, f"{joules * 1e12:.2f}", f"{result.neuron_steps:,}"))
            if result.peak_error[0] > np.pi / 2:
                console().print(
                    f"{name}: the loop's phase error reaches {result.peak_error[0]:.2f} rad, "
                    "beyond the detector's pi / 2; lower phase_per_weight"
                )
        _show("one neuron", shown)
        if out is not None:
            rows: list[tuple[str, ...]] = [
                ("model", "time_s", "phase_error_rad", "duty", "membrane_phase_rad")
            ]
            for name, result in results.items():
                waves = result.waveforms
                assert waves is not None
                columns = (waves.time, waves.phase_error[0], waves.duty[0], waves.membrane_phase[0])
                rows += [(name, *(f"{x:.9g}" for x in row)) for row in zip(*columns, strict=True)]
            _write_csv(out, rows)
        if plot is not None:
            from ttfs_fast.circuit.plots import waveform_figure

            draw(plot, waveform_figure(p, p.seconds(t), w, results))


@circuit.command()
def jitter(
    inputs: Annotated[str, option("Input jitter in %, a list.")] = "1,3,5,7,9",
    trials: Trials = 20_000,
    equations: Equations = "averaged",
    settings: Settings = None,
    seed: Seed = 0,
    out: TableFile = None,
    plot: Picture = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Output jitter against input jitter, compared with the paper's Table 3."""
    with friendly_errors(debug):
        from ttfs_fast.circuit import jitter_sweep
        from ttfs_fast.paper.numbers import TABLE_3_JITTER

        values = split_numbers(inputs, "--inputs")
        how = {"trials": trials, "model": equations, "seed": seed}
        set_threads(threads)
        _sweep(jitter_sweep, "input (%)", values, TABLE_3_JITTER, settings, how, out, plot)


@circuit.command()
def quantization(
    bits: Annotated[str, option("Bits of the weights, a list.")] = "4,8,16,24,32",
    trials: Trials = 20_000,
    equations: Equations = "averaged",
    settings: Settings = None,
    seed: Seed = 0,
    out: TableFile = None,
    plot: Picture = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Output jitter against the resolution of the weights, compared with the paper's Table 3."""
    with friendly_errors(debug):
        from ttfs_fast.circuit import quantization_sweep
        from ttfs_fast.paper.numbers import TABLE_3_BITS

        values = split_integers(bits, "--bits")
        how = {"trials": trials, "model": equations, "seed": seed}
        set_threads(threads)
        _sweep(quantization_sweep, "bits", values, TABLE_3_BITS, settings, how, out, plot)


@circuit.command()
def layer(
    images: Annotated[int, option("Test images to run through circuits.", min=1)] = 20,
    weights: Weights = Path("mnist_scnn"),
    own: OwnNetwork = None,
    equations: Equations = "averaged",
    duration: Annotated[float, option("Time simulated in each layer, in units of tau.")] = 8.0,
    settings: Settings = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    out: TableFile = None,
    plot: Picture = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Run a trained network with every neuron as a circuit: spike times, accuracy, energy.

    Each layer receives the spikes of the circuits of the layer before. The images are those of the
    network's data set, in the encoding that it was trained with.
    """
    with friendly_errors(debug):
        from ttfs_fast.circuit.network import simulate_network
        from ttfs_fast.data import load

        check_picture(plot)
        set_threads(threads)
        p, noise = _settings(settings)
        network, config, source = choose_spiking_network(weights, own)
        assert weights is not None  # choose_spiking_network has refused it
        image_set = fit_to_network(load(config.dataset, data_root, train=False), weights, source)
        images = min(images, len(image_set))
        what = f"{source} on {images:,} images of {image_set.name}, {equations}"
        _announce(p, noise, what, seed)
        with counting_bar(images, show=True) as advance:
            result = simulate_network(
                network,
                image_set,
                p,
                images=images,
                noise=noise,
                model=equations,
                duration=duration,
                seed=seed,
                progress=advance,
            )
        table = _layer_table(result.layers.values())
        show_table(table)
        print(
            f"accuracy on {result.images:,} images: closed form {result.accuracy_ideal:.2%}, "
            f"circuits {result.accuracy_circuit:.2%}; same answer for {result.same_answer:,}"
        )
        print(f"energy: {result.energy_per_image * 1e9:.1f} nJ per image, silent neurons included")
        if out is not None:
            _write_csv(out, [[column.title for column in table.columns], *table.rows])
        if plot is not None:
            from ttfs_fast.circuit.plots import layer_figure

            draw(plot, layer_figure(result.layers))


def _layer_table(layers: "Iterable[LayerResult]") -> Table:
    import numpy as np

    def deviation(fraction: float) -> "Callable[[LayerResult], float]":
        def quantile(found: "LayerResult") -> float:
            sizes = np.abs(found.deviations)
            return float(np.quantile(sizes, fraction)) if len(sizes) else math.nan

        return quantile

    columns = [
        Column("layer", numeric=False, of="layer"),
        Column("neurons", "{:,}".format, of=lambda found: len(found.ideal)),
        Column("both fire", "{:,}".format, of=lambda found: int(found.both.sum())),
        Column("lost", "{:,}".format, of="lost"),
        Column("extra", "{:,}".format, of="extra"),
        Column("jitter %", "{:.4g}".format, of=lambda found: 100 * found.jitter),
        Column("median", "{:.3g}".format, of=deviation(0.5)),
        Column("99 %", "{:.3g}".format, of=deviation(0.99)),
        Column("pJ", "{:.2f}".format, of=lambda found: found.energy.per_spike * 1e12),
    ]
    title = "circuits against the closed form; deviations in tau, energy of a spike"
    return Table.of("layers", title, columns, layers)


@circuit.command()
def convergence(
    seed: Seed = 0,
    out: TableFile = None,
    plot: Picture = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Show that the circuit converges to the ideal neuron, and the order of convergence."""
    with friendly_errors(debug):
        from ttfs_fast.circuit import convergence as limits

        check_picture(plot)
        set_threads(threads)
        p, noise = _settings(None)
        _announce(p, noise, "random neurons of 2 to 64 inputs", seed)
        median, high = limits.loop_convergence(p, seed=seed)
        mean, ring_high = limits.ring_convergence(p, seed=seed)
        shown = [("limit", "value", "middle", "90 % below")]
        rows: list[tuple[str, ...]] = [("limit", "value", "middle_tau", "high_tau")]
        for name, values, middle, upper in (
            ("averaged to closed form: w_lf / k", limits.RATIOS, median, high),
            ("switching to averaged: ring (Hz)", limits.FREQUENCIES, mean, ring_high),
        ):
            for value, a, b in zip(values, middle, upper, strict=True):
                shown.append((name, f"{value:.0e}", f"{a:.3e}", f"{b:.3e}"))
                rows.append((name, f"{value:g}", repr(float(a)), repr(float(b))))
        _show("error of the spike time, in tau", shown)
        print(
            f"order: {limits.order(limits.RATIOS, median):.3f} in k / w_lf, "
            f"{limits.order(limits.FREQUENCIES, mean):.3f} in 1 / frequency"
        )
        if out is not None:
            _write_csv(out, rows)
        if plot is not None:
            from ttfs_fast.circuit.plots import convergence_figure

            panels = {
                "averaged model to closed form": (
                    "w_lf / k",
                    {"median": (limits.RATIOS, median), "90 %": (limits.RATIOS, high)},
                ),
                "switching model to averaged": (
                    "ring frequency (GHz)",
                    {
                        "mean": ([f / 1e9 for f in limits.FREQUENCIES], mean),
                        "90 %": ([f / 1e9 for f in limits.FREQUENCIES], ring_high),
                    },
                ),
            }
            draw(plot, convergence_figure(panels))  # type: ignore[arg-type]


def _settings(
    given: str | None, noise: "Nonidealities | None" = None
) -> tuple["CircuitParameters", "Nonidealities"]:
    """Parameters and non-idealities with the fields that --set names changed."""
    from ttfs_fast.circuit import CircuitParameters, Nonidealities

    known: dict[str, Any] = {
        field.name: field
        for kind in (CircuitParameters, Nonidealities)
        for field in dataclasses.fields(kind)
    }
    changed: dict[str, Any] = {}
    for text in split_list(given):
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ValueError(
                f"--set takes name=value, with one of {', '.join(sorted(known))}; got {text!r}"
            )
        default = known[name].default
        if isinstance(default, bool):
            if value not in ("true", "false"):
                raise ValueError(f"{name} must be true or false; got {value!r}")
            changed[name] = value == "true"
        elif value == "none" and name in ("phase_noise", "threshold_frequency", "threshold_phase"):
            changed[name] = None
        else:
            try:
                changed[name] = int(value) if isinstance(default, int) else float(value)
            except ValueError:
                raise ValueError(f"{name} must be a number; got {value!r}") from None
    circuit_names = {field.name for field in dataclasses.fields(CircuitParameters)}
    return (
        CircuitParameters(**{k: v for k, v in changed.items() if k in circuit_names}),
        dataclasses.replace(
            noise or Nonidealities(), **{k: v for k, v in changed.items() if k not in circuit_names}
        ),
    )


def _announce(p: "CircuitParameters", noise: "Nonidealities", what: str, seed: int) -> None:
    """Say what will run."""
    import torch

    import ttfs_fast
    from ttfs_fast.circuit import Nonidealities, energy_per_spike
    from ttfs_fast.circuit.energy import SPIKE_TIME
    from ttfs_fast.paper.table3 import energy_saving

    print(
        f"{what}; cpu, threads: {torch.get_num_threads()}, {ttfs_fast.instruction_set()} "
        f"instructions, seed {seed}"
    )
    print(
        f"tau {p.tau * 1e9:.4g} ns, w_lf / k {p.loop_corner / p.loop_gain:.4g}, ring "
        f"{p.ring_frequency / 1e9:.4g} GHz, threshold {p.threshold:.4g} rad; "
        f"{energy_per_spike(p) * 1e12:.2f} pJ for a spike after {SPIKE_TIME:g} tau, "
        f"{energy_saving(p):.0%} below the prior circuit's 19 pJ"
    )
    off = Nonidealities()
    on = [
        f"{field.name} {getattr(noise, field.name):g}"
        for field in dataclasses.fields(noise)
        if getattr(noise, field.name) != getattr(off, field.name)
    ]
    print(f"non-idealities: {', '.join(on) or 'none'}")


def _sweep(
    sweep: Callable[..., "list[SweepPoint]"],
    quantity: str,
    values: Sequence[float],
    published: dict[float, float],
    settings: str | None,
    how: dict[str, Any],
    out: Path | None,
    plot: Path | None,
) -> None:
    """Simulate the paper's operating point at some values, and print them beside the paper's."""
    from ttfs_fast.circuit import is_monotone
    from ttfs_fast.paper.table3 import OPERATING_POINT

    check_picture(plot)
    full = OPERATING_POINT.weight_full_scale
    usual = dataclasses.replace(OPERATING_POINT.noise, weight_full_scale=full)
    p, noise = _settings(settings, usual)
    full = noise.weight_full_scale
    neuron = dataclasses.replace(OPERATING_POINT, noise=noise, weight_full_scale=full)
    trials = how["trials"]
    _announce(p, noise, f"{trials:,} trials at {len(values)} points, {how['model']}", how["seed"])
    with counting_bar(trials * len(values), show=True) as advance:
        points = sweep(neuron, values, parameters=p, progress=advance, **how)
    shown = [(quantity, "mean (%)", "95 % from", "to", "paper", "ratio", "silent")]
    rows: list[tuple[str, ...]] = [
        (quantity, "jitter_percent", "low_95", "high_95", "paper_percent", "trials", "silent")
    ]
    for point in points:
        figure = published.get(point.value)
        paper = "" if figure is None else f"{figure:g}"
        ratio = "" if figure is None else f"{point.jitter / figure:.2f}"
        cells = (f"{point.jitter:.4f}", f"{point.low:.4f}", f"{point.high:.4f}")
        shown.append((f"{point.value:g}", *cells, paper, ratio, str(point.silent)))
        exact = (repr(point.jitter), repr(point.low), repr(point.high))
        rows.append((f"{point.value:g}", *exact, paper, str(point.trials), str(point.silent)))
    _show("output jitter: mean of |t - t0| / t0", shown)
    compared = [point for point in points if point.value in published]
    if compared:
        within = sum(0.5 <= p.jitter / published[p.value] <= 2 for p in compared)
        print(f"within a factor of two of Table 3: {within} of {len(compared)}")
    if len(points) > 1:
        print("monotone" if is_monotone(points) else "not monotone")
    if out is not None:
        _write_csv(out, rows)
    if plot is not None:
        from ttfs_fast.circuit.plots import sweep_figure

        draw(plot, sweep_figure(points, quantity, published, "paper, Table 3"))


def _show(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text, the first with the headings."""
    heads, *cells = rows
    columns = [Column(head, numeric=number > 0) for number, head in enumerate(heads)]
    show_table(Table(title, title, columns, cells))


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    write_csv(path, rows)
    print(f"wrote {path}")
