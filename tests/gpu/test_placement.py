"""Devices of tensors, tested without a GPU: torch's fake tensors have a device and no values.

An operator that meets tensors of two devices refuses, as on a real GPU, so that a whole step of
training shows whether all of it happens in one place.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer as optimizer_module
from torch.utils._python_dispatch import TorchDispatchMode

from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding
from ttfs_fast.gpu.device import kind_for_processes, same_bits
from ttfs_fast.optim.averaging import average_weights
from ttfs_fast.training import TrainConfig, processes
from ttfs_fast.training.batches import Batch, Chunk, EpochBatches, on_device, one_ahead
from ttfs_fast.training.distillation import Teacher, Teachers
from ttfs_fast.training.step import StepTotals
from ttfs_fast.training.trainer import make_optimizer, make_step, new_network

TYPE = "lazy"
"""torch's build for CPUs can differentiate fake tensors of this type, and not those of cuda."""
GPU = torch.device(TYPE, 0)


class AnyValue(TorchDispatchMode):
    """Returns 0.5, 1 or False when a value of a fake tensor is read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            dtype = args[0].dtype
            return False if dtype == torch.bool else 0.5 if dtype.is_floating_point else 1
        if func is torch.ops.aten._fused_sgd_.default:  # torch has no fake version of it
            assert {tensor.device for some in args[:3] for tensor in some} == {GPU}
            return None
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, AnyValue():
        yield mode


def on_gpu(mode: FakeTensorMode, model: nn.Module) -> nn.Module:
    """A network as it would be after ``model.to("cuda")``."""

    def move(tensor: Tensor) -> Tensor:
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU,
            requires_grad=tensor.requires_grad,
        )  # fmt: skip

    return model._apply(move)


def images(size: int = 8) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, size, size), dtype=np.uint8)
    return ImageSet(pixels, np.arange(8, dtype=np.int64) % 4, "some", ("a", "b", "c", "d"))


SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"model": "vgg4", "width": 0.1},
    "centered, Muon": {
        "model": "vgg4", "width": 0.1, "weight_sum": 4.0, "relative_lr": True, "fixed_norm": True,
        "optimizer": "muon", "grad_accum_steps": 2,
    },
    "horizon": {
        "model": "cifar_airbench", "width": 0.1, "neuron": "horizon", "weight_sum": 2.0,
        "optimizer": "muon", "ema_decay": 0.9, "logit_scale": 500.0,
    },
    "horizon, SGD": {
        "model": "cifar_airbench", "width": 0.1, "neuron": "horizon", "weight_sum": 2.0,
        "optimizer": "sgd", "logit_scale": 500.0,
    },
    "relu": {"model": "vgg4", "width": 0.1, "neuron": "relu-norm"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "taught"), [*((name, False) for name in SETTINGS), ("paper", True), ("horizon", True)]
)
def test_a_step_of_training_stays_on_the_gpu(
    name: str, taught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    autocast = []
    # torch's optimizers and autocast know this device as little as they know the meta device.
    monkeypatch.setattr(optimizer_module, "_get_fused_kernels_supported_devices", lambda: [TYPE])
    monkeypatch.setattr(
        torch, "autocast", lambda device, *_, **__: autocast.append(device) or nullcontext()
    )
    size = 32 if "horizon" in name else 16
    config = TrainConfig(dataset="cifar10", **SETTINGS[name])
    model, other = (new_network(config, images(size)) for _ in range(2))
    teachers = Teachers([Teacher(other, 1.0, "")]) if taught else None
    averaged = average_weights(model, config.ema_decay)
    with fake_gpu() as mode:
        model = on_gpu(mode, model)
        for teacher in teachers or ():
            on_gpu(mode, teacher.network)
        if averaged is not None:
            on_gpu(mode, averaged.module)
        optimizer = make_optimizer(config, model)
        step = make_step(config, model, optimizer, averaged=averaged, teachers=teachers)
        values = torch.ones(8, 3, size, size, device=GPU)
        batch = Batch(values, torch.zeros(8, dtype=torch.int64, device=GPU), 8)
        totals = StepTotals(1.0, 1.0)
        for _ in range(2):
            result = step(batch, 0.1, watch=totals.spikes)
            totals.add(result)
            totals.add_answers(result.output, batch.labels)
        totals.reduce()
        assert autocast == [TYPE] * (3 if taught else 1)  # the teacher in each of the two steps
        assert not result.skipped
        assert result.output.device == GPU
        assert result.output.shape == (8, 4)
        assert all(p.device == GPU for p in model.parameters())
        assert all(p.grad.device == GPU for p in model.parameters() if p.grad is not None)
        moments = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if torch.is_tensor(value) and value.dim()
        ]
        assert moments
        assert all(value.device == GPU for value in moments)
    assert totals.spikes.neurons if config.neuron in ("spiking", "horizon") else True


def test_two_places_are_refused_by_the_fake_gpu() -> None:
    """This shows that the tests above can fail."""
    from ttfs_fast import spiking_linear

    with fake_gpu():
        weight = torch.ones(2, 3, device=GPU)
        assert spiking_linear(torch.ones(1, 3, device=GPU), weight).device == GPU
        with pytest.raises((RuntimeError, ValueError, TypeError), match="cpu"):
            spiking_linear(torch.ones(1, 3), weight)
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(3) + weight


def test_chunks_made_ahead_are_the_same_and_in_order() -> None:
    def chunks() -> Iterator[Chunk]:
        generator = torch.Generator().manual_seed(3)
        batches = EpochBatches(
            images(), 2, generator, jitter=0.1, distortion={"shift": 1.0}, encoding=Encoding()
        )
        for epoch in range(2):
            yield from batches.epoch(epoch)

    plain, ahead = list(chunks()), list(one_ahead(chunks()))
    assert len(plain) == len(ahead) == 2
    for a, b in zip(plain, ahead, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert all(
            torch.equal(x.values, y.values) for x, y in zip(a.batches, b.batches, strict=True)
        )
    assert list(on_device(iter(plain), torch.device("cpu"))) == plain
    moved = plain[0].to(torch.device("meta"))
    assert {t.device.type for b in moved.batches for t in (b.values, b.labels)} == {"meta"}
    assert moved.labels.is_meta
    assert [b.global_batch_size for b in moved.batches] == [
        b.global_batch_size for b in plain[0].batches
    ]


def test_errors_of_the_thread_that_makes_chunks_are_raised() -> None:
    def chunks() -> Iterator[Chunk]:
        yield from EpochBatches(images(), 8, torch.Generator()).epoch()
        raise OSError("the disk is gone")

    made = one_ahead(chunks())
    next(made)
    with pytest.raises(OSError, match="the disk is gone"):
        next(made)


def test_processes_get_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert kind_for_processes("cuda", 2) == kind_for_processes("auto", 2) == "cuda"
    assert kind_for_processes("auto", 3) == kind_for_processes("cpu", 2) == "cpu"
    with pytest.raises(ValueError, match=r"3 processes need as many GPUs.* has 2.*node 2"):
        kind_for_processes("cuda", 3)
    with pytest.raises(ValueError, match=r"'cuda:1' is one GPU.*use the device cuda"):
        kind_for_processes("cuda:1", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kind_for_processes("auto", 2) == "cpu"
    with pytest.raises(ValueError, match="is not available"):
        kind_for_processes("cuda", 2)


def test_fabric_is_asked_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Fabric:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def launch(self) -> None:
            asked.append({"launched": True})

    monkeypatch.setattr(processes, "require", lambda *_: SimpleNamespace(Fabric=Fabric))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for device in ("cpu", "cuda:0", "auto"):
        processes.make_fabric(device)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes.make_fabric("cuda")
    assert asked == [
        {"accelerator": "cpu", "devices": 1},
        {"accelerator": "cuda", "devices": [0]},
        {"accelerator": "cuda", "devices": [1]},
        {"accelerator": "cuda", "devices": 2, "num_nodes": 2, "strategy": "ddp"},
        {"launched": True},
    ]


def test_same_bits_are_asked_for_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    enabled = torch.are_deterministic_algorithms_enabled
    with same_bits(torch.device("cpu")):
        assert not enabled()
    with same_bits(torch.device("cuda")):
        assert enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command",
    [
        "train --dataset digits",
        "eval --weights mnist_scnn --dataset digits",
        "diagnose --weights mnist_scnn",
        "quantize --weights mnist_scnn --dataset digits",
        "study depth",
        "study silence --weights mnist_scnn",
        "study start",
        "reproduce --quick",
        "bench --quick",
    ],
)
def test_commands_refuse_a_gpu_that_is_not_there(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from ttfs_fast.cli import main

    monkeypatch.chdir(tmp_path)
    words = command.split()
    monkeypatch.setattr("sys.argv", ["ttfs-fast", *words, "--device", "cuda"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "device 'cuda' is not available" in error
    assert "or use the device cpu" in error
    monkeypatch.setattr("sys.argv", ["ttfs-fast", *words, "--device", "tpu"])
    with pytest.raises(SystemExit):
        main()
    assert (
        "unknown device 'tpu'; allowed are auto, cpu, cuda, and cuda:N" in capsys.readouterr().err
    )
    assert not list(tmp_path.rglob("*.*")), "something was written"
