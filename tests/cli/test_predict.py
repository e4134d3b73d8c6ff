"""``ttfs-fast predict``: pictures, arrays, folders and patterns, by float and integer networks."""

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")

from support.command import run_command  # noqa: E402
from ttfs_fast import analysis, quantization  # noqa: E402
from ttfs_fast.analysis.decisions import decisions_of  # noqa: E402
from ttfs_fast.data import ImageError, load, write_idx  # noqa: E402
from ttfs_fast.data.pictures import find_pictures, read_picture  # noqa: E402
from ttfs_fast.models import cifar_airbench, mnist_scnn  # noqa: E402

DIGITS = load("digits", train=False)


def run(*arguments: object, code: int = 0) -> str:
    done = run_command("predict", *arguments)
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0 to 5 as pictures and arrays, and an integer network."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "pictures" / "more").mkdir(parents=True)
    (folder / "pictures" / ".hidden").mkdir()
    for index, image in enumerate(DIGITS.images[:6, 0]):
        place = folder / "pictures" / ("more" if index > 3 else "")
        pillow.fromarray(image).save(place / f"{index}.png")
    shutil.copy(folder / "pictures/0.png", folder / "pictures/.hidden/9.png")
    np.save(folder / "digits.npy", DIGITS.images[:6])
    write_idx(folder / "digits-idx3-ubyte", DIGITS.images[:6, 0])
    write_idx(folder / "digits.gz", DIGITS.images[:6, 0])
    net = quantization.convert(mnist_scnn(pretrained=True))
    net.save(folder / "plain.ttfs")
    net.set_classes([f"digit {number}" for number in range(10)])
    net.save(folder / "named.ttfs")
    return folder


def test_float_networks_decide_on_every_kind_of_file(scans: Path) -> None:
    model = mnist_scnn(pretrained=True)
    with torch.no_grad():
        times = model(model.encoding(DIGITS.images_as_tensor()[:6])).log().numpy()
    order = times.argsort(1)
    for given in ("pictures", "digits.npy", "digits-idx3-ubyte", "digits.gz", "pictures/**/*.png"):
        found = json.loads(run("mnist_scnn", scans / given, "--json"))["predictions"]
        assert len(found) == 6, given
        for row, own, ranked in zip(found, times, order, strict=True):
            assert row["decision"]["class"] == ranked[0]
            assert row["decision"]["name"] == str(ranked[0])
            assert row["decision"]["time"] == pytest.approx(own[ranked[0]], rel=1e-5)
            assert row["runner_up"]["class"] == ranked[1]
            assert row["runner_up"]["time"] == pytest.approx(own[ranked[1]], rel=1e-5)
        assert [row["index"] for row in found] == (
            list(range(6)) if "digits" in given else [None] * 6
        )
    assert found[5]["file"] == str(scans / "pictures/more/5.png")


def test_layers_with_horizons_decide_as_the_spiking_operators(tmp_path: Path) -> None:
    """The command computes them by dense products."""
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    np.save(tmp_path / "images.npy", images)
    expected = analysis.decide(cifar_airbench(pretrained=True), images)
    found = json.loads(run("cifar_airbench", tmp_path / "images.npy", "--json"))["predictions"]
    assert [row["decision"]["class"] for row in found] == expected.classes.tolist()
    assert [row["runner_up"]["class"] for row in found] == expected.runners_up.tolist()
    for name, times in (("decision", expected.times), ("runner_up", expected.runner_up_times)):
        assert [row[name]["time"] for row in found] == pytest.approx(times.tolist(), abs=1e-5)
    # They spike within a thousandth of tau; the table still shows which is first.
    assert all(row["runner_up"]["time"] - row["decision"]["time"] < 0.001 for row in found)
    shown = [
        [float(word) for word in re.findall(r"\d+\.\d+", line)]
        for line in run("cifar_airbench", tmp_path / "images.npy").splitlines()
        if "images.npy [" in line
    ]
    assert len(shown) == 3
    assert all(first < second for first, second in shown)


def test_integer_networks_decide_as_their_codes_say(scans: Path) -> None:
    net = quantization.load(scans / "plain.ttfs")
    codes = net(DIGITS.images[:6])
    found = json.loads(run(scans / "plain.ttfs", scans / "pictures", "--json"))["predictions"]
    assert [row["decision"]["class"] for row in found] == net.classify(DIGITS.images[:6]).tolist()
    for row, own in zip(found, codes, strict=True):
        first, second = np.sort(own)[:2]
        assert row["decision"]["time"] == pytest.approx(math.log(first * net.time_scales[-1]))
        assert row["runner_up"]["time"] == pytest.approx(math.log(second * net.time_scales[-1]))
        assert row["decision"]["name"] is None


def test_the_table_names_classes_that_the_file_holds(scans: Path) -> None:
    output = run(scans / "named.ttfs", scans / "pictures/0.png", scans / "digits.npy")
    net = quantization.load(scans / "named.ttfs")
    first = net.classify(DIGITS.images[:1])[0]
    lines = output.splitlines()
    assert any(str(scans / "pictures/0.png") in line and f"digit {first}" in line for line in lines)
    assert f"{scans / 'digits.npy'} [5]" in output
    assert "7 images" in output
    assert "runner-up" in output


def test_names_that_cannot_be_shown_are_escaped(scans: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(scans / "pictures/0.png", odd)
    assert r"caf\udce9.png" in "".join(run("mnist_scnn", odd).split())


def test_pixels_must_be_bytes() -> None:
    with pytest.raises(TypeError, match="images must be pixels of 0 to 255 as uint8; got float32"):
        analysis.decide(mnist_scnn(pretrained=True), DIGITS.images[:2].astype(np.float32) / 255)


def test_silent_outputs_have_no_class() -> None:
    inf = math.inf
    found = decisions_of(np.array([[inf, inf], [inf, 2.0], [1.0, 1.0], [3.0, -1.0]]))
    assert found.classes.tolist() == [-1, 1, 0, 1]
    assert found.runners_up.tolist() == [-1, -1, 1, 0]
    assert found.times.tolist() == [inf, 2.0, 1.0, -1.0]
    assert found.runner_up_times.tolist() == [inf, inf, 1.0, 3.0]
    one = decisions_of(np.array([[1.0]]))
    assert (one.classes.tolist(), one.runners_up.tolist()) == ([0], [-1])


def test_silence_is_null_in_json(scans: Path, tmp_path: Path) -> None:
    model = mnist_scnn()
    with torch.no_grad():
        model.fc.weight.fill_(-1.0)
        model.fc.bias.zero_()
    quantization.convert(model).save(tmp_path / "silent.ttfs")
    (row,) = json.loads(run(tmp_path / "silent.ttfs", scans / "pictures/0.png", "--json"))[
        "predictions"
    ]
    assert row["decision"] is row["runner_up"] is None
    assert "0.png" in run(tmp_path / "silent.ttfs", scans / "pictures/0.png")


def triangle(line: np.ndarray, begin: float, end: float, size: int) -> np.ndarray:
    """The first axis from begin to end, scaled by Pillow's bilinear filter."""
    scale = (end - begin) / size
    reach = max(scale, 1.0)
    out = []
    for index in range(size):
        center = begin + (index + 0.5) * scale
        places = np.arange(len(line)) + 0.5
        weights = np.clip(1 - np.abs(places - center) / reach, 0, None)
        out.append(np.tensordot(weights / weights.sum(), line, 1))
    return np.array(out)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(60, 90, (3, 28, 28)), (90, 61, (1, 28, 28)), (20, 15, (3, 28, 28)), (50, 80, (3, 20, 64))],
)
def test_pictures_are_cut_and_scaled_by_the_stated_rule(
    height: int, width: int, size: tuple[int, int, int], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    pillow.fromarray(pixels).save(path)
    shown = pixels.astype(float)
    if size[0] == 1:
        shown = np.rint(shown @ [0.299, 0.587, 0.114])[..., None]
    scale = min(height / size[1], width / size[2])
    rows, columns = scale * size[1], scale * size[2]
    top, left = (height - rows) / 2, (width - columns) / 2
    small = triangle(shown, top, top + rows, size[1])
    small = triangle(small.swapaxes(0, 1), left, left + columns, size[2]).swapaxes(0, 1)
    found = read_picture(path, size)
    assert found.shape == size
    assert found.dtype == np.uint8
    assert np.abs(found.transpose(1, 2, 0) - small).max() <= 2
    inverted = read_picture(path, size, invert=True)
    assert np.array_equal(inverted, 255 - found)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_the_right_size_stays_as_it_is(channels: int, tmp_path: Path) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (9, 7), dtype=np.uint8)
    pillow.fromarray(grey).save(tmp_path / "grey.png")
    found = read_picture(tmp_path / "grey.png", (channels, 9, 7))
    assert np.array_equal(found, np.repeat(grey[None], channels, 0))
    rgba = np.random.default_rng(3).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    pillow.fromarray(rgba, "RGBA").save(tmp_path / "rgba.png")
    if channels == 3:
        found = read_picture(tmp_path / "rgba.png", (3, 9, 7))
        assert np.array_equal(found, rgba[..., :3].transpose(2, 0, 1))
    pillow.fromarray(rgba[..., :3]).save(tmp_path / "picture.jpg", quality=95)
    assert read_picture(tmp_path / "picture.jpg", (channels, 9, 7)).std() > 20


def test_folders_and_patterns_are_found(scans: Path) -> None:
    own = scans / "pictures"
    every = [own / f"{n}.png" for n in range(4)] + [own / "more" / f"{n}.png" for n in (4, 5)]
    assert find_pictures([own]) == every
    assert find_pictures([f"{own}/**"]) == every
    assert find_pictures([f"{own}/[01].png", own / "more"]) == every[:2] + every[4:]
    odd = scans / "odd[1]"
    odd.mkdir(exist_ok=True)
    shutil.copy(every[0], odd / "a[b].png")
    assert find_pictures([odd / "a[b].png", odd]) == [odd / "a[b].png"] * 2
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.bmp"):
        find_pictures([f"{own}/*.bmp"])
    with pytest.raises(FileNotFoundError, match=r"there is no file .*: give pictures, folders"):
        find_pictures([own / "7.png"])
    empty = scans / "empty"
    empty.mkdir(exist_ok=True)
    with pytest.raises(ImageError, match=r"empty holds no pictures: their names end in \.jpg"):
        find_pictures([empty])


def test_bad_files_are_one_line(scans: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes((scans / "pictures/0.png").read_bytes()[:80])
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3)))
    np.save(tmp_path / "small.npy", np.zeros((2, 3, 3), np.uint8))
    for given, message in (
        (text, "notes.png is not a readable picture"),
        (cut, "cut.png is not a readable picture"),
        (tmp_path / "wrong.npy", "holds float64 values; images are uint8"),
        (tmp_path / "small.npy", "the network takes (N, 1, 28, 28)"),
        (tmp_path / "nothing.png", "there is no file"),
    ):
        for network in ("mnist_scnn", scans / "plain.ttfs"):
            error = run(network, scans / "pictures/0.png", given, code=2)
            assert message in error
            assert error.count("\n") == 1
    broken = tmp_path / "broken.ttfs"
    broken.write_bytes(b"no network")
    assert "not an integer network" in run(broken, scans / "pictures", code=2)
    assert "no weights at" in run(tmp_path / "none", scans / "pictures", code=2)
    folder = tmp_path / "quantized"
    folder.mkdir()
    shutil.copy(scans / "plain.ttfs", folder / "model-4bit.ttfs")
    assert "give one of" in run(folder, scans / "pictures", code=2)
    assert "needs no --model: leave it out" in run(
        scans / "plain.ttfs", scans / "pictures", "--model", "a:b", code=2
    )
    twelve = mnist_scnn()
    with pytest.raises(ValueError, match="1 or 3 channels, and the network takes 2"):
        read_picture(scans / "pictures/0.png", (2, 28, 28))
    with pytest.raises(ValueError, match="one spike value per class"):
        analysis.decide(twelve.conv1, DIGITS.images[:1], encoding=twelve.encoding)


def test_without_pillow_the_extra_is_named(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, extra: str) -> Any:
        raise ImportError(f'install it with: pip install "ttfs_fast[{extra}]"')

    monkeypatch.setattr("ttfs_fast.data.pictures.require", missing)
    assert 'pip install "ttfs_fast[train]"' in run("mnist_scnn", scans / "pictures/0.png", code=2)
    assert "6 images" in run("mnist_scnn", scans / "digits.npy")


def test_pictures_that_begin_with_zeros_are_no_idx_files(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
    path = tmp_path / "scan.jp2"
    try:
        pillow.fromarray(np.full((28, 28), 200, np.uint8)).save(path)
    except OSError:
        pytest.skip("this Pillow has no JPEG 2000")
    assert path.read_bytes()[:2] == b"\0\0"
    result = run_command("predict", "mnist_scnn", str(path))
    assert result.exit_code == 0, result.output


def test_diagnose_does_not_ignore_a_model() -> None:
    result = run_command("diagnose", "--config", "digits", "--model", "no.such:thing")
    assert result.exit_code == 2
    assert "--model says which network the file of --weights holds" in result.output
