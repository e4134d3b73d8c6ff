"""Files of integer networks, and the packages needed to run one."""

import copy
import multiprocessing
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ttfs_fast
from support.machine import run_python
from ttfs_fast import _core
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.quantization import IntegerNetwork, convert, is_integer_file, load
from ttfs_fast.quantization.network import MOST_THREADS, default_threads

ENCODERS = 20 + 4 + 8 + 12 + 4
"""Where they begin in a file."""


@pytest.fixture
def net() -> IntegerNetwork:
    torch.manual_seed(3)
    model = nn.Sequential(
        SpikingConv2d(2, 20, 3, stride=2, padding=1, groups=2),
        SpikingMaxPool2d(2, ceil_mode=True),
        nn.Sequential(SpikingConv2d(20, 9, 2, dilation=2, bias=False), nn.Dropout()),
        nn.Flatten(),
        SpikingLinear(9, 70),
        SpikingLinear(70, 5),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05)
    return convert(model, 4, input_size=(2, 11, 11), encoding=Encoding())


def images(net: IntegerNetwork, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *net.input_size)).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("time_bits", [16, 8])
def test_a_file_holds_the_network(tmp_path: Path, bits: int, time_bits: int) -> None:
    net = convert(mnist_scnn(pretrained=True), bits, time_bits)
    path = net.save(tmp_path / "net.ttfs")
    assert is_integer_file(path)
    again = load(path)
    assert again.to_bytes() == net.to_bytes() == path.read_bytes()
    pixels = images(net)
    for a, b in zip(net.layers(pixels), again.layers(pixels), strict=True):
        assert np.array_equal(a, b)
        assert (a < net.silent).mean() > 0.1
    for a, b in zip(net.layer_infos(), again.layer_infos(), strict=True):
        assert a.kernel == b.kernel
        assert np.array_equal(a.theta, b.theta)
    assert repr(again) == repr(net)
    float_bytes = 4 * 21498
    assert path.stat().st_size < float_bytes * bits / 32 + 1400  # encoder, thetas, biases
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.ttfs"]


def test_two_encoders_in_a_file() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(SpikingConv2d(4, 6, 3), nn.Flatten(), SpikingLinear(54, 5))
    net = convert(model, input_size=(2, 5, 5), encoding=Encoding(1.0, "both"))
    again = IntegerNetwork.from_bytes(net.to_bytes())
    assert again.encoders.shape == (2, 256)
    assert again.encoders.tolist() == net.encoders.tolist()
    pixels = images(net)
    assert again.encode(pixels).shape == (4, 4, 5, 5)
    assert np.array_equal(again(pixels), net(net.encode(pixels)))
    assert (again(pixels) < net.silent).mean() > 0.3
    with pytest.raises(ValueError, match=r"images have shape \(4, 4, 5, 5\).*\(N, 2, 5, 5\)"):
        net(np.concatenate([pixels, pixels], axis=1))
    with pytest.raises(ValueError, match=r"codes have shape \(4, 2, 5, 5\).*\(N, 4, 5, 5\)"):
        net(pixels.astype(np.uint16))
    with pytest.raises(ValueError, match=r"\(\.\.\., C, H, W\)"):
        net.encode(pixels[0, 0])


def test_all_layer_kinds_round_trip_through_a_file(net: IntegerNetwork) -> None:
    again = IntegerNetwork.from_bytes(net.to_bytes())
    assert again.output_size == (5, 1, 1)
    for a, b in zip(net.layers(images(net)), again.layers(images(net)), strict=True):
        assert np.array_equal(a, b)
    codes = net.encode(images(net))
    for i, out in enumerate(net.layers(images(net))):
        codes = net.reference(i, codes)
        assert np.array_equal(codes, out)
        assert (codes < net.silent).any()


def sealed(content: bytes) -> bytes:
    """The content with the size and checksum that fit it."""
    content = content[:12] + struct.pack("<Q", len(content)) + content[20:-4]
    return content + struct.pack("<I", zlib.crc32(content))


def test_files_of_version_1(net: IntegerNetwork) -> None:
    content = net.to_bytes()
    assert struct.unpack_from("<I", content, ENCODERS - 4) == (1,)
    old = content[:8] + struct.pack("<I", 1) + content[12 : ENCODERS - 4] + content[ENCODERS:]
    assert IntegerNetwork.from_bytes(sealed(old)).to_bytes() == content


def test_layers_with_a_horizon_in_a_file() -> None:
    rng = np.random.default_rng(0)
    core = _core.IntegerNetwork(16, (2, 6, 6), 0.5, np.arange(1, 257, dtype=np.uint16)[None])
    weights = rng.integers(-2, 2, (70, 2, 3, 3)).astype(np.int8)
    same = ((1, 1), (1, 1), (1, 1), 1, (6, 6))
    theta, slope = np.full(70, 90, np.int32), np.arange(200, 270, dtype=np.int32)
    bias = np.arange(70, dtype=np.int32)
    core.add_neurons(weights, 2, theta, bias, 7, 1 << 16, 60000, *same, 300, slope)
    net = IntegerNetwork(core)
    content = net.to_bytes()
    assert struct.unpack_from("<I", content, 8) == (3,)
    again = IntegerNetwork.from_bytes(content)
    assert again.to_bytes() == content
    info = again.layer_infos()[0]
    assert info.reference_code == 300
    assert info.slope is not None
    assert info.slope.tolist() == slope.tolist()
    pixels = images(net)
    assert np.array_equal(again(pixels), net(pixels))
    # Older versions do not have such layers.
    for version in (1, 2):
        old = sealed(content[:8] + struct.pack("<I", version) + content[12:])
        with pytest.raises(ValueError, match="not an integer network"):
            IntegerNetwork.from_bytes(old)
    place = content.index(struct.pack("<H", 300), ENCODERS + 512)
    with pytest.raises(ValueError, match="horizon at the code 0"):
        IntegerNetwork.from_bytes(sealed(content[:place] + b"\0\0" + content[place + 2 :]))


def test_files_without_a_horizon_are_of_version_2(net: IntegerNetwork) -> None:
    content = net.to_bytes()
    assert struct.unpack_from("<I", content, 8) == (2,)
    newer = sealed(content[:8] + struct.pack("<I", 3) + content[12:])
    assert IntegerNetwork.from_bytes(newer).to_bytes() == content


NAMES = ("cat", "éléphant", "日本", "a b", "\U0001f40d")


def test_names_of_classes_in_a_file(net: IntegerNetwork, tmp_path: Path) -> None:
    plain = net.to_bytes()
    assert net.classes is None
    net.set_classes(NAMES)
    content = net.to_bytes()
    assert struct.unpack_from("<I", content, 8) == (4,)
    names = b"".join(struct.pack("<I", len(n.encode())) + n.encode() for n in NAMES)
    assert content[20:-4] == plain[20:-4] + struct.pack("<I", 5) + names  # as docs/integer.md says
    again = load(net.save(tmp_path / "net.ttfs"))
    assert again.classes == copy.deepcopy(again).classes == NAMES
    assert again.to_bytes() == content
    for a, b in zip(again.layers(images(net)), net.layers(images(net)), strict=True):
        assert np.array_equal(a, b)
    net.set_classes(None)
    assert net.to_bytes() == plain


def test_convert_names_classes_of_a_network_with_horizons() -> None:
    core = _core.IntegerNetwork(16, (1, 4, 4), 0.5, np.arange(1, 257, dtype=np.uint16)[None])
    theta, slope = np.full(2, 90, np.int32), np.full(2, 200, np.int32)
    weights = np.ones((2, 1, 4, 4), np.int8)
    window = ((1, 1), (0, 0), (1, 1), 1, (1, 1))
    core.add_neurons(weights, 8, theta, None, 7, 1 << 16, 60000, *window, 300, slope)
    net = IntegerNetwork(core)
    net.set_classes(["yes", "no"])
    again = IntegerNetwork.from_bytes(net.to_bytes())
    assert again.classes == ("yes", "no")
    assert again.layer_infos()[0].reference_code == 300
    with pytest.raises(ValueError, match="name the classes once all layers are there"):
        core.add_pooling((1, 1), (1, 1), (0, 0), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:4], "5 outputs needs a name for each class; there are 4"),
        (("a", "b", "c", "d", "a"), "two classes have the same name"),
        (("a", "b", "c", "d", ""), "empty or no UTF-8"),
        ((1, 2, 3, 4, 5), "class names must be text that UTF-8 can write"),
        (("a", "b", "c", "d", "\udcff"), "UTF-8"),
    ],
)
def test_wrong_names_are_refused(net: IntegerNetwork, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net.set_classes(names)
    assert net.classes is None


def test_damaged_names_are_refused(net: IntegerNetwork) -> None:
    plain = net.to_bytes()
    start = plain[:8] + struct.pack("<I", 4) + plain[12:-4]

    def named(*names: bytes, count: int = 5) -> bytes:
        parts = b"".join(struct.pack("<I", len(name)) + name for name in names)
        return sealed(start + struct.pack("<I", count) + parts + b"    ")

    good = named(b"a", b"b", b"c", b"d", b"e")
    assert IntegerNetwork.from_bytes(good).classes == tuple("abcde")
    wrong = [
        named(b"a", b"b", b"c", b"d", b"\xff"),
        named(b"a", b"b", b"c", b"d", b"\xc0\xaf"),  # an overlong "/"
        named(b"a", b"b", b"c", b"d", b"\xed\xa0\x80"),  # half of a surrogate pair
        named(b"a", b"b", b"c", b"d", b"\xf4\x90\x80\x80"),  # behind the last character
        named(b"a", b"b", b"c", b"d", b"\xe6\x97"),
        named(b"a", b"b", b"c", b"d", b"d"),
        named(b"a", b"b", b"c", b"d", b""),
        named(b"a", b"b", b"c", b"d"),
        named(b"a", b"b", b"c", b"d", b"e", b"f"),
        named(b"a", b"b", b"c", b"d", count=4),
        named(count=0),
        named(b"a", count=(1 << 32) - 1),
        sealed(good[:-9] + struct.pack("<I", (1 << 32) - 1) + good[-5:]),
    ]
    for content in wrong:
        with pytest.raises(ValueError, match="not an integer network that can be used"):
            IntegerNetwork.from_bytes(content)


def test_damaged_files_are_rejected(net: IntegerNetwork, tmp_path: Path) -> None:
    content = net.to_bytes()
    assert sealed(content) == content  # CRC-32 as zlib computes it
    path = tmp_path / "net.ttfs"
    for cut in (0, 5, 12, 23, 24, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"net.ttfs is not an integer network.*(short|begin)"):
            load(path)
    with pytest.raises(ValueError, match="appended"):
        IntegerNetwork.from_bytes(content + b"x")
    for place in range(20, len(content), 41):
        altered = bytearray(content)
        altered[place] ^= 16
        with pytest.raises(ValueError, match="checksum"):
            IntegerNetwork.from_bytes(bytes(altered))
    with pytest.raises(ValueError, match=r"version 5.*reads versions 1 to 4"):
        IntegerNetwork.from_bytes(sealed(content[:8] + struct.pack("<I", 5) + content[12:]))
    with pytest.raises(ValueError, match="begin"):
        IntegerNetwork.from_bytes(b"x" * 1000)
    with pytest.raises(FileNotFoundError, match=r"nothing.ttfs"):
        load(tmp_path / "nothing.ttfs")
    with pytest.raises(ValueError, match=r"cannot be read|short|directory"):
        load(tmp_path)


def test_absurd_sizes_are_refused_before_memory_is_taken(net: IntegerNetwork) -> None:
    content = net.to_bytes()
    first_layer = ENCODERS + 512 + 4
    channels_out = first_layer + 4 + 1 + 1 + 2 + 2 + 4 + 3 * 4
    assert struct.unpack_from("<I", content, channels_out) == (20,)
    for value in (0, 1 << 28, 1 << 31, (1 << 32) - 1):
        altered = bytearray(content)
        struct.pack_into("<I", altered, channels_out, value)
        with pytest.raises(ValueError, match="not an integer network"):
            IntegerNetwork.from_bytes(sealed(bytes(altered)))
    extra = sealed(content[:-4] + b"\0" * 3 + content[-4:])
    with pytest.raises(ValueError, match="more than its layers"):
        IntegerNetwork.from_bytes(extra)


def bytes_path(folder: Path) -> Path:
    """A path that is not UTF-8."""
    return Path(os.fsdecode(os.fsencode(folder) + b"/net-\xff\xe9.ttfs"))


def test_load_reads_the_paths_that_save_writes(net: IntegerNetwork, tmp_path: Path) -> None:
    path = bytes_path(tmp_path)
    assert load(net.save(path)).to_bytes() == net.to_bytes()
    assert load(os.fsencode(path)).to_bytes() == net.to_bytes()  # type: ignore[arg-type]
    assert is_integer_file(path)
    path.write_bytes(net.to_bytes()[:-1])
    with pytest.raises(ValueError, match=r"net-\\xff\\xe9.ttfs is not an integer network.*short"):
        load(path)


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda net, protocol=protocol: ForkingPickler.loads(ForkingPickler.dumps(net, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_copies_and_pickles_are_the_network(
    net: IntegerNetwork, copied: Callable[[IntegerNetwork], IntegerNetwork]
) -> None:
    again = copied(net)
    assert type(again) is IntegerNetwork
    assert again.to_bytes() == net.to_bytes()
    assert np.array_equal(again(images(net)), net(images(net)))
    assert (again(images(net)) < net.silent).any()


def test_a_pickled_subclass_keeps_its_attributes(net: IntegerNetwork) -> None:
    named = NamedNetwork.from_bytes(net.to_bytes())
    named.title = "digits"
    again = ForkingPickler.loads(ForkingPickler.dumps(named))
    assert type(again) is NamedNetwork
    assert again.title == "digits"
    assert again.to_bytes() == net.to_bytes()


class NamedNetwork(IntegerNetwork):
    title = ""


def test_integer_networks_run_in_other_processes(net: IntegerNetwork) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (classes,) = pool.map(net.classify, [images(net)])
    assert classes.tolist() == net.classify(images(net)).tolist()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 3),
        ("1,1", 1),
        (" 5 , 2,1", 5),
        ("+4", 4),
        ("99999999", MOST_THREADS),
        ("", None),
        ("0", None),
        ("-1", None),
        ("two", None),
        ("1,", None),
        ("3,two", None),
        ("9" * 5000, None),
    ],
)
def test_omp_num_threads_is_read_like_openmp(
    value: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads(None) == (7 if expected is None else expected)
    assert default_threads(2) == 2


def test_large_numbers_of_threads_are_accepted(net: IntegerNetwork) -> None:
    few = net(images(net, 1), threads=1)
    assert default_threads(1 << 40) == MOST_THREADS
    assert np.array_equal(net(images(net, 1), threads=1 << 40), few)


def test_classifies_without_torch(tmp_path: Path) -> None:
    net = convert(mnist_scnn(pretrained=True), 4)
    path, pixels = net.save(tmp_path / "net.ttfs"), images(net, 16)
    np.save(tmp_path / "images.npy", pixels)
    done = run_python(
        "-c",
        "import sys, numpy as np, ttfs_fast\n"
        f"net = ttfs_fast.quantization.load({str(path)!r})\n"
        f"print(net.classify(np.load({str(tmp_path / 'images.npy')!r}), threads=2).tolist())\n"
        "assert ttfs_fast.__version__ and ttfs_fast.instruction_set()\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))\n",
    )
    assert done.returncode == 0, done.stderr
    classes, modules = done.stdout.splitlines()
    assert classes == str(net.classify(pixels).tolist())
    assert "'torch'" not in modules
    assert "'ttfs_fast'" in modules


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has"
)
def test_one_openmp_runtime_when_torch_comes_later(tmp_path: Path) -> None:
    net = convert(mnist_scnn(pretrained=True), 8)
    path = net.save(tmp_path / "net.ttfs")
    done = run_python(
        "-c",
        "import numpy as np, ttfs_fast\n"
        f"net = ttfs_fast.quantization.load({str(path)!r})\n"
        "net.classify(np.zeros((4, 1, 28, 28), np.uint8), threads=2)\n"
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "z = ttfs_fast.spiking_linear(torch.ones(64, 64), torch.ones(64, 64))\n"
        "assert z.isfinite().all() and torch.ones(999, 99).sum() > 0\n"
        "print(open('/proc/self/maps').read())\n",
    )
    assert done.returncode == 0, done.stderr
    files = {line.split()[-1] for line in done.stdout.splitlines() if ".so" in line}
    runtimes = {f for f in files if any(n in Path(f).name for n in ("gomp", "iomp", "libomp"))}
    assert len(runtimes) == 1, runtimes


PACKAGES = ("ttfs_fast", "ttfs_fast.circuit", "ttfs_fast.quantization")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_submodule_resolves(package: str) -> None:
    done = run_python(
        "-c",
        "import importlib, pkgutil, ttfs_fast\n"
        "package = ttfs_fast\n"
        f"for name in {package.split('.')[1:]!r}: package = getattr(package, name)\n"
        "names = {m.name for m in pkgutil.iter_modules(package.__path__)}\n"
        "names = sorted(name for name in names if not name.startswith('_'))\n"
        "for name in names: getattr(package, name)\n"
        "print(len(names))\n",
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5


def test_submodules_are_imported_when_they_are_used() -> None:
    done = run_python(
        "-c",
        "import sys, ttfs_fast\n"
        "assert 'torch' not in sys.modules\n"
        "assert {'nn', 'models', 'loss'} <= set(dir(ttfs_fast))\n"
        "print(ttfs_fast.nn.SpikingLinear.__module__)\n",
    )
    assert done.stdout == "ttfs_fast.nn\n", done.stderr


def test_names_of_the_package() -> None:
    assert {"quantization", "spiking_linear"} <= set(dir(ttfs_fast))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ttfs_fast.no_such_name  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ttfs_fast.quantization.no_such_name  # type: ignore[attr-defined]
