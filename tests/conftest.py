import gc
import importlib.util
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

# Another build of the compiled core, such as one under sanitizers (make sanitize).
CORE = os.environ.get("TTFS_FAST_TEST_CORE")
if CORE:
    spec = importlib.util.spec_from_file_location("ttfs_fast._core", CORE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["ttfs_fast._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["ttfs_fast._core"])

import ttfs_fast  # noqa: E402
from support.machine import torch_threads, use_instruction_set  # noqa: E402

# New cases on every run of a developer; on CI the same ones, so that a red run means a change.
CI = bool(os.environ.get("CI"))
SEED = int(os.environ.get("TTFS_FAST_TEST_SEED") or (20210 if CI else secrets.randbelow(2**31)))

hypothesis.settings.register_profile(
    "ttfs_fast",
    deadline=None,
    derandomize=CI,
    max_examples=int(os.environ.get("TTFS_FAST_TEST_EXAMPLES") or 100),
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,  # instruction_set and threads
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("ttfs_fast")


# Processes that share the tests get them file by file. The longest come first: one that came last
# would keep one process busy and the others waiting.
LONGEST = (
    "gpu/test_interpreted.py",
    "quantization/test_integer.py",
    "quantization/test_training.py",
    "training/test_processes.py",
    "training/test_deep_training.py",
    "test_kills.py",
    "test_runtime.py",
    "bench/test_bench.py",
    "paper/test_deep_runs.py",
    "paper/test_results.py",
    "paper/test_report.py",
    "paper/test_resume.py",
    "test_disk.py",
    "models/test_deep.py",
)
REPORT = "tests/paper/"


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection, which saves a tenth of the time."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    order = {here / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files that read one finished reproduction run in one process, which makes it once."""
    from xdist.scheduler import LoadFileScheduling

    class BySharedWork(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return REPORT if file.startswith(REPORT) else file

    return BySharedWork(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_report_header() -> str:
    core = f", {CORE}" if CORE else ""
    return f"ttfs_fast: {ttfs_fast.instruction_set()}, TTFS_FAST_TEST_SEED={SEED}{core}"


@pytest.fixture(params=ttfs_fast.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set in turn; checks that it is the one in use."""
    with use_instruction_set(request.param):
        yield request.param


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch_threads(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, for thousands of small calls, which more threads would slow down.

    tests/test_runtime.py shows that their number changes no bit.
    """
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    with torch_threads(1 if folder in ("operators", "paper") else None):
        yield


@pytest.fixture
def no_data_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither TTFS_FAST_DATA nor a filled cache folder."""
    monkeypatch.delenv("TTFS_FAST_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def seed() -> int:
    """Seeds torch; repeat a run with the environment variable TTFS_FAST_TEST_SEED."""
    print(f"TTFS_FAST_TEST_SEED={SEED}")
    torch.manual_seed(SEED)
    return SEED


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = os.environ.get("TTFS_FAST_DATA")
    if not root:
        pytest.skip("TTFS_FAST_DATA is not set: it names the folder with mnist/ and authors-mnist/")
    for folder in ("mnist", "authors-mnist"):
        if not (Path(root) / folder).is_dir():
            pytest.skip(f"TTFS_FAST_DATA={root} holds no {folder}/")
    return Path(root)


@pytest.fixture(scope="session")
def cifar10_zip() -> Path:
    return _shared("cifar10-images.zip")


@pytest.fixture(scope="session")
def imagenet_zip() -> Path:
    return _shared("imagenet-samples.zip")


def _shared(name: str) -> Path:
    root = os.environ.get("TTFS_FAST_DATA")
    if not root:
        pytest.skip(f"TTFS_FAST_DATA is not set: it names the folder with {name}")
    path = Path(root) / name
    if not path.is_file():
        pytest.skip(f"TTFS_FAST_DATA={root} holds no {name}")
    return path
