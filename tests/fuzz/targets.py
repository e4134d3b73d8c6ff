"""What is fuzzed: every function that reads what a stranger may have written.

A target takes bytes, hands them to a parser and lets nothing pass but what the parser documents.
Anything else that is raised is a finding.
"""

import contextlib
import hashlib
import importlib
import io
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

CORPUS = Path(__file__).parent / "corpus"
SEPARATOR = b"\n<part>\n"  # between the files of one input


class Finding(AssertionError):
    """A parser did what it does not document."""


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes
    ----------
    name : str
        Its folder in the corpus.
    run : callable
        Takes the content and a folder to work in; raises one of ``errors`` or returns.
    errors : tuple of exception types
        What it may raise.
    words : tuple of bytes
        Words of its format.
    share : float
        Of all executions.
    """

    name: str
    run: Callable[[bytes, Path], object]
    errors: tuple[type[BaseException], ...]
    words: tuple[bytes, ...] = ()
    share: float = 1.0
    corpus: list[bytes] = field(default_factory=list, compare=False)

    def files(self) -> list[bytes]:
        """The stored corpus."""
        if not self.corpus:
            paths = sorted((CORPUS / self.name).iterdir())
            self.corpus.extend(path.read_bytes() for path in paths)
        return self.corpus

    def try_one(self, content: bytes, folder: Path) -> bool:
        """Run the parser once; whether it took the content.

        Raises
        ------
        Finding
            If it raised what it does not document, or an error that says nothing.
        """
        try:
            self.run(content, folder)
        except self.errors as error:
            if len(str(error)) < 15:
                raise Finding(f"{type(error).__name__} says only {str(error)!r}") from error
            return False
        except Exception as error:
            raise Finding(f"{type(error).__name__}: {error}") from error
        return True


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder in memory, where there is such a thing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def _idx(content: bytes, folder: Path) -> None:
    from ttfs_fast.data.idx import read_idx_stream

    read_idx_stream(io.BytesIO(content), "file.idx")


def _cifar(content: bytes, folder: Path) -> None:
    from ttfs_fast.data import load_cifar10

    batch, _, names = content.partition(SEPARATOR)
    (folder / "test_batch.bin").write_bytes(batch)
    (folder / "batches.meta.txt").write_bytes(names)
    images = load_cifar10(folder, train=False)
    assert len(images.classes) == 10
    assert len(images) > 0


def _zip(content: bytes, folder: Path) -> None:
    from ttfs_fast.data import ImageFolder, load_images

    path = folder / "images.zip"
    path.write_bytes(_sealed_zip(content))
    load_images(ImageFolder(path), size=4)


def _sealed_zip(content: bytes) -> bytes:
    """Every second archive gets the checksum of its first member right, if that is stored."""
    if len(content) % 2 or not content.startswith(b"PK\3\4") or content[8:10] != b"\0\0":
        return content
    data = bytearray(content)
    name, extra = (int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
    size = int.from_bytes(data[18:22], "little")
    begin = 30 + name + extra
    checksum = zlib.crc32(data[begin : begin + size]).to_bytes(4, "little")
    data[14:18] = checksum
    at = data.find(b"PK\1\2")
    if at >= 0:
        data[at + 16 : at + 20] = checksum
    return bytes(data)


def _image(content: bytes, folder: Path) -> None:
    from ttfs_fast.data import ImageFolder

    (folder / "class").mkdir(exist_ok=True)
    (folder / "class" / "image.png").write_bytes(content)
    image = ImageFolder(folder).read(0)
    assert image.ndim == 3
    assert image.shape[0] == 3


def _integer(content: bytes, folder: Path) -> None:
    from ttfs_fast.quantization import IntegerNetwork

    if len(content) >= 24 and content[-1] % 8:  # size and checksum fit, so that the rest is read
        content = content[:12] + len(content).to_bytes(8, "little") + content[20:-4]
        content += zlib.crc32(content).to_bytes(4, "little")
    network = IntegerNetwork.from_bytes(content)
    without_count = 4 if content[8] == 1 else 0  # version 1 does not say how many encoders
    assert len(network.to_bytes()) == len(content) + without_count
    repr(network)


def _checkpoint(content: bytes, folder: Path) -> None:
    from ttfs_fast.training import run_folder
    from ttfs_fast.training.checkpoint import load_checkpoint

    parts = [*content.split(SEPARATOR), b"", b"", b""][:3]
    place = folder / "checkpoint-0007"
    place.mkdir(exist_ok=True)
    names = run_folder.CHECKPOINT_WEIGHTS, run_folder.CHECKPOINT_REST, run_folder.CHECKPOINT_STATE
    state = parts[2]
    if len(content) % 4:  # the digests fit
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            known = json.loads(state)
            for name, part in zip(names[:2], parts, strict=False):
                known["sha256"][name] = hashlib.sha256(part).hexdigest()
            state = json.dumps(known).encode()
    for name, part in zip(names, (*parts[:2], state), strict=True):
        (place / name).write_bytes(part)
    load_checkpoint(folder)


def _weights(content: bytes, folder: Path) -> None:
    from ttfs_fast.training import load_model

    path = folder / "model.safetensors"
    path.write_bytes(content)
    load_model(path)


def _npy(content: bytes, folder: Path) -> None:
    from ttfs_fast.cli.predict import read_images

    path = folder / "images.npy"
    path.write_bytes(content)
    read_images(path, (1, 2, 2))


def _authors(content: bytes, folder: Path) -> None:
    from ttfs_fast.models import mnist_scnn
    from ttfs_fast.models.authors import AUTHORS_FILES

    for name in AUTHORS_FILES:
        (folder / name).write_bytes(content)
    mnist_scnn(weights=folder)


def _recipe(content: bytes, folder: Path) -> None:
    from ttfs_fast.training import read_recipe

    path = folder / "recipe.toml"
    path.write_bytes(content)
    read_recipe(path)


def _config(content: bytes, folder: Path) -> None:
    from ttfs_fast.training import TrainConfig

    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    config = TrainConfig.from_json(text)
    assert TrainConfig.from_json(config.to_json()) == config


def _log(content: bytes, folder: Path) -> None:
    from ttfs_fast.training import read_log

    path = folder / "log.csv"
    path.write_bytes(content)
    read_log(path)


def _runs(content: bytes, folder: Path) -> None:
    from ttfs_fast._csv import read_rows
    from ttfs_fast.paper.studies.depth import Run

    path = folder / "depth.csv"
    path.write_bytes(content)
    read_rows(path, Run)


def _results(content: bytes, folder: Path) -> None:
    from ttfs_fast.bench import load

    (folder / "results.json").write_bytes(content)
    load(folder)


class Reached(Exception):
    """The command line was understood: the work would begin."""


def _command(content: bytes, folder: Path) -> None:
    command = command_line()
    arguments = content.decode(errors="replace").split("\n")
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.suppress(Reached),
        nothing_is_done(),
    ):
        try:
            status = command.main(args=arguments, prog_name="ttfs-fast")
        except SystemExit as done:
            status = done.code
        except (ValueError, TypeError, OSError, ArithmeticError) as error:
            if "--debug" not in arguments:
                raise
            raise _Refused(f"as it was asked to: {error!r}") from error
    if status in (0, None):
        return
    message = err.getvalue() or out.getvalue()  # help, where a group is given no command
    # What typer says to --show-completion in a shell that it does not know.
    if status == 1 and re.fullmatch(r"Shell \S+ (is )?not supported\.\n", message):
        raise _Refused(message)
    if status != 2 or len(message.strip()) < 15 or "Traceback" in message:
        raise Finding(f"exit status {status}, message {message!r}")
    raise _Refused(message)


class _Refused(Exception):
    """The command line was refused with a message."""


@cache
def command_line() -> Any:
    """The application as click sees it."""
    import typer

    from ttfs_fast.cli import app

    return typer.main.get_command(app)


@contextlib.contextmanager
def nothing_is_done() -> Iterator[None]:
    """A stop in front of all that takes long, reads other files or writes."""
    import ttfs_fast.bench
    import ttfs_fast.circuit.convergence
    import ttfs_fast.data
    import ttfs_fast.models
    import ttfs_fast.paper
    import ttfs_fast.paper.studies
    import ttfs_fast.quantization
    import ttfs_fast.training

    def stop(*given: object, **more: object) -> None:
        raise Reached

    with contextlib.ExitStack() as stack:
        for module, names in (
            (ttfs_fast.training, ("train", "load_model")),
            (ttfs_fast.quantization, ("quantize",)),
            (ttfs_fast.bench, ("measured_on",)),
            (ttfs_fast.circuit, ("simulate", "jitter_sweep", "quantization_sweep")),
            (ttfs_fast.circuit.convergence, ("loop_convergence",)),
            (ttfs_fast.data, ("load", "load_mnist")),
            (ttfs_fast.paper.studies, ("depth_study", "start_study")),
            (ttfs_fast.models, ("mnist_scnn",)),
            (ttfs_fast.paper, ("find_networks",)),
            (importlib.import_module("ttfs_fast.cli.train"), ("download_data",)),
            (importlib.import_module("ttfs_fast.cli.evaluate"), ("download_data",)),
        ):
            for name in names:
                stack.enter_context(mock.patch.object(module, name, stop))
        yield


def command_words() -> list[str]:
    """Commands, options and values that mean something, and some that mean nothing."""
    words = ["", "-", "--", "0", "-1", "3", "0.5", "1e999", "nan", "inf", "9" * 400, "true", "none"]
    words += ["/", ".", "/dev/null", "no/such/file", "a=b", "loop_corner=nan", "\u2028", "1,2,x"]
    pending = [command_line()]
    while pending:
        command = pending.pop()
        for name, child in getattr(command, "commands", {}).items():
            words.append(name)
            pending.append(child)
        for parameter in command.params:
            words += parameter.opts + parameter.secondary_opts
    return words


TARGETS = [
    Target(
        "idx",
        _idx,
        (ValueError,),
        (b"\x1f\x8b\x08", b"\0\0\x08\3", b"\0\0\x0e\1", b"\xff\xff\xff\xff"),
        4,
    ),
    Target("cifar", _cifar, (ValueError,), (SEPARATOR, b"\x0a", b"cat\ndog\n"), 2),
    Target(
        "zip",
        _zip,
        (ValueError,),
        (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"\x08\0", b"\x0c\0", b"\x0e\0", b"a/b.png", b"\x93\0"),
        2,
    ),
    Target(
        "image",
        _image,
        (ValueError,),
        (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"\xff\xd8\xff", b"\xff\xc4", b"RIFF", b"VP8L", b"BM"),
        2,
    ),
    Target("integer", _integer, (ValueError,), (b"TTFSINT\n", b"\xff\xff\xff\xff"), 4),
    Target(
        "checkpoint",
        _checkpoint,
        (ValueError,),
        (SEPARATOR, b'"F32"', b'"epoch": 7', b"[" * 3000, b"null", b"1e999", b"optimizer.0.step"),
        1,
    ),
    Target(
        "weights",
        _weights,
        (ValueError,),
        (b"__metadata__", b'"config"', b'"images"', b"[" * 3000, b"null", b"9" * 400, b"inf"),
        1,
    ),
    Target("npy", _npy, (ValueError,), (b"\x93NUMPY", b"'shape': (", b"9" * 12, b"|O", b"("), 2),
    Target("authors", _authors, (ValueError,), (b"\x93NUMPY", b"'<f8'", b"9" * 12, b"|O"), 1),
    Target(
        "recipe",
        _recipe,
        (ValueError,),
        (b"[" * 3000, b"inf", b"nan", b"9" * 400, b"true", b"epochs = ", b"threads = ", b'"""'),
        3,
    ),
    Target(
        "config",
        _config,
        (ValueError,),
        (b"[" * 3000, b'{"a":' * 1500, b"null", b"9" * 400, b"1e999", b"NaN", b'"inf"', b"-0"),
        3,
    ),
    Target("log", _log, (ValueError,), (b",", b'"', b"\r", b"\0", b"nan", b"9" * 5000, b"\xff"), 3),
    Target(
        "runs", _runs, (ValueError,), (b",", b'"', b"\r", b"\0", b"nan", b"9" * 5000, b"\xff"), 2
    ),
    Target(
        "results",
        _results,
        (ValueError,),
        (b"null", b'"groups"', b"[" * 3000, b"{}", b"9" * 5000),
        2,
    ),
    Target("command", _command, (_Refused,), share=0.3),
]
