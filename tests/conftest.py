"""What every test shares: 8 simulated CPU devices, exact products, the optional real text."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before the first import of jax anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
_DEVICES = "--xla_force_host_platform_device_count=8"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
# Programs that several files and processes need are compiled once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="jaxgpt-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# A shell starts background jobs with SIGINT ignored, and processes inherit that; those of the tests
# are to be stopped by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are judged by what they show, not by how busy the machine is.
hypothesis.settings.register_profile("jaxgpt", deadline=None)
hypothesis.settings.load_profile("jaxgpt")
jax.config.update("jax_default_matmul_precision", "highest")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests come first: none of several processes ends with one."""
    longest: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit = float(marker.args[0]) if marker else 0.0
        longest[item.path] = max(limit, longest.get(item.path, 0.0))
    items.sort(key=lambda item: -longest[item.path])


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real text, benchmarks and dialogues that some tests want; most need nothing."""
    folder = Path(os.environ.get("JAXGPT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real text at {folder}; set JAXGPT_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Compiled programs of one file are of no use to the next; a thousand of them are gigabytes."""
    yield
    jax.clear_caches()
