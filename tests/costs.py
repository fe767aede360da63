"""CPU seconds of the tests, with those of the processes that they start, listed by file.

Unlike seconds by the clock, they say the same on a busy machine. `pytest --durations=N` lists the N
files that take most of them.
"""

import resource
from collections import Counter
from collections.abc import Generator

import pytest

from tests import forked

_NAME = "cpu_seconds"
_by_file: Counter[str] = Counter()
_seen = [0.0]


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + forked.cpu_seconds()


def pytest_runtest_logstart() -> None:
    """Leave out what the collection took."""
    _seen[0] = _seen[0] or _cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write what passed since the last report into this one, which xdist sends on."""
    report = yield
    now = _cpu_seconds()
    report.user_properties.append((_NAME, now - _seen[0]))
    _seen[0] = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a report's seconds to those of its file."""
    _by_file[report.nodeid.partition("::")[0]] += dict(report.user_properties).get(_NAME, 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the files, the largest first."""
    number = terminalreporter.config.getoption("durations")
    if number is None:
        return
    terminalreporter.section(f"{_by_file.total():.0f} CPU seconds")
    for name, seconds in _by_file.most_common(number or None):
        terminalreporter.write_line(f"{seconds:8.1f} {name}")
