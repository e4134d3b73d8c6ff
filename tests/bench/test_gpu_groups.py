"""The groups for measurements on a GPU; layers are in tests/gpu/interpreted."""

import pytest
import torch

from ttfs_fast.bench import GPU_GROUPS, GROUPS, Settings, run
from ttfs_fast.bench.gpu import with_tf32
from ttfs_fast.cli.bench import chosen


def test_training_steps_fill_their_table() -> None:
    rows = run("gpu-steps", Settings.quick(1)).rows
    assert [row["layer"] for row in rows] == [
        "MNIST network, b2", "cifar_vgg, b2", "SpikingVGG16, b2"
    ]  # fmt: skip
    for row in rows:
        assert set(GPU_GROUPS["gpu-steps"].columns) <= set(row)
        assert min(row["fired"]) > 0.02
        assert row["training"] > 0
        assert row["training_ratio"] == row["training"] / row["dense_training"]


def test_groups_belong_to_a_device() -> None:
    assert chosen(None, plain=False, threads=2, on_gpu=True) == list(GPU_GROUPS)
    assert not set(GPU_GROUPS) & set(GROUPS)
    with pytest.raises(ValueError, match="group gpu is measured with --device cuda"):
        chosen("gpu", plain=False, threads=2)
    with pytest.raises(ValueError, match="group layers is measured with --device cpu"):
        chosen("layers", plain=False, threads=2, on_gpu=True)
    with pytest.raises(ValueError, match="--only takes groups of gpu, gpu-steps; got 'lay'"):
        chosen("lay", plain=False, threads=2, on_gpu=True)
    with pytest.raises(ValueError, match="--plain compares on the CPU"):
        chosen(None, plain=True, threads=2, on_gpu=True)


def test_tf32_is_put_back() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    for allowed in (False, True):
        inside = with_tf32(lambda: (matmul.allow_tf32, cudnn.allow_tf32), allowed)()
        assert inside == (allowed, allowed)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == before
