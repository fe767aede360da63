"""What every test shares: 8 simulated CPU devices, exact products, the optional real text."""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.xla_flags import with_devices

# Before the first import of jax anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = with_devices(8)
# Programs that several files and processes need are compiled once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="jaxgpt-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import pytest

from jaxgpt.command_line import KERNEL_LOGGER
from jaxgpt.reports import plots
from tests import costs

# A shell starts background jobs with SIGINT ignored, and processes inherit that; those of the tests
# are to be stopped by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are judged by what they show, not by how busy the machine is.
hypothesis.settings.register_profile("jaxgpt", deadline=None)
hypothesis.settings.load_profile("jaxgpt")
jax.config.update("jax_default_matmul_precision", "highest")

REPOSITORY = Path(__file__).resolve().parent.parent


# The files that take longest come first, so that none of several processes ends with one; see the
# list that `--durations` prints last.
LONGEST = (
    "parity/test_shakespeare.py",
    "end_to_end/test_quickstart.py",
    "test_readme.py",
    "end_to_end/test_hosts.py",
    "end_to_end/test_executors.py",
    "training/test_expert_parallel.py",
    "training/test_meshes_on_hosts.py",
    "end_to_end/test_build_dataset.py",
    "training/test_sharding.py",
    "planning/test_memory.py",
    "end_to_end/test_remote_runs.py",
    "model/test_config_roles.py",
    "model/attention/test_kernels.py",
    "inference/test_decode.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Count what each file costs."""
    config.pluginmanager.register(costs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files by what they take; leave out what depends on optimizations without them."""
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
    if not os.environ.get("JAXGPT_TEST_OPTIMIZED"):
        reason = "depends on XLA's optimizations; run with JAXGPT_TEST_OPTIMIZED=1"
        for item in items:
            if item.get_closest_marker("optimized"):
                item.add_marker(pytest.mark.skip(reason=reason))


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


@pytest.fixture(scope="module", autouse=True)
def without_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are most of what a small dataset costs: the tests of reports draw them, no others."""
    with pytest.MonkeyPatch.context() as patch:
        is_of_reports = {"report", "reports", "suites"} & set(request.path.parts)
        if not is_of_reports and request.node.get_closest_marker("figures") is None:
            patch.setattr(plots, "_has_matplotlib", lambda: False)
        yield


@pytest.fixture(autouse=True)
def restore_log_levels() -> Iterator[None]:
    """Commands called in a test set the levels of loggers; the next test finds the ones before."""
    names = ("", "jaxgpt", KERNEL_LOGGER, "absl", "trafilatura")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
