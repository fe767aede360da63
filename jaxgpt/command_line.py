"""Base of all verbs: options from dataclasses, one-line errors, exit codes.

Parsing is tyro's; this file turns its boxes into one line and knows no verb.
"""

import contextlib
import difflib
import io
import logging
import os
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jaxgpt.errors import JaxgptError, UnfinishedError, UsageError, explain_machine_error
from jaxgpt.names.packages import describe, install_advice
from jaxgpt.names.variants import (
    choose_variants,
    describe_owners,
    describe_variants,
    rebuild,
    variant_options,
)

T = TypeVar("T")
_MAX_HANDLES = 1 << 16
_BOX = "╭╮╰╯│─"
_REGISTRY = ConstructorRegistry()
KERNEL_LOGGER = "jaxgpt.model.attention.kernels"


def parse_options(options: type[T], argv: Sequence[str], prog: str, default: T | None = None) -> T:
    """Parse `argv` into `options`, a dataclass whose fields (and nested sections) become flags.

    `default` supplies the classes of nested variants as well as the values, so that
    `--model.position.max-wavelength` exists exactly if the config's position has that field. A
    variant is chosen by name, `--model.position Learned`; see `choose_variants`.

    Raises:
        UsageError: unknown option or variant (with the closest known one), missing or malformed
            value.
        ConfigError: the values parse but a section refuses their combination.
    """
    errors = io.StringIO()
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    arguments: dict[str, Any] = {}
    rest = list(argv)
    if default is not None:
        default, rest = choose_variants(default, argv)
        arguments["default"] = default
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
                options, args=rest, prog=prog, config=markers, registry=_REGISTRY, **arguments
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            if default is not None:
                print("\n".join(describe_variants(default)))
            raise
        raise UsageError(_one_line(errors.getvalue(), prog, default)) from None
    # A default with another variant was not checked as a whole.
    return parsed if len(rest) == len(argv) else rebuild(parsed)


@_REGISTRY.primitive_rule
def _switch(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    """Parse a bool: `--name True`, `--name False`, or `--name` alone for True."""
    if info.type is not bool:
        return None

    def parse(values: list[str]) -> bool:
        if values in ([], ["True"], ["true"]):
            return True
        if values in (["False"], ["false"]):
            return False
        raise ValueError(f"expected True or False, not {' '.join(values)}")

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[True|False]",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def find_option(argv: Sequence[str], name: str) -> str | None:
    """Return the value of `--name VALUE` or `--name=VALUE`, the last one, without parsing the rest.

    Verbs need `--config` before they can know which other options exist. As everywhere, `_` and `-`
    in a name are the same.
    """
    value = None
    for position, argument in enumerate(argv):
        option, equals, after = argument.partition("=")
        if option.replace("_", "-") != name:
            continue
        if equals:
            value = after
        elif position + 1 < len(argv):
            value = argv[position + 1]
    return value


def require_at_least(options: Any, **least: int) -> None:
    """Refuse options below their least value; one that is None passes.

    Raises:
        UsageError: naming the option, its value and what is allowed.
    """
    for name, lowest in least.items():
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise UsageError(f"--{name.replace('_', '-')} {value} must be at least {lowest}")


def require_seed(seed: int) -> None:
    """Refuse a seed that has no random key of its own.

    Raises:
        UsageError: it is negative or has more than 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"--seed {seed} must be from 0 to 2**64 - 1")


def run_verb(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run a verb and leave the process with its exit code; a known error prints one line.

    With `JAXGPT_DEBUG=1` the traceback of an error is printed before its line.
    """
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("jaxgpt").setLevel(logging.INFO)
    # Which kernel is chosen is of interest where it is used for long: `train` shows it.
    logging.getLogger(KERNEL_LOGGER).setLevel(logging.WARNING)
    # Orbax logs every save as a warning, and a traceback for what we report in one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if isinstance(sys.stdout, io.TextIOWrapper) and "PYTHONIOENCODING" not in os.environ:
        # Text and names hold characters that the locale may lack; files and programs get UTF-8.
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        # Work that can be saved installs a handler of its own; see stop_signal.py.
        signal.signal(signal.SIGTERM, _terminate)
    _raise_handle_limit()
    try:
        main(sys.argv[1:] if argv is None else argv)
    except JaxgptError as error:
        _show_traceback()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ImportError as error:
        _show_traceback()
        package = f"the package {error.name.partition('.')[0]}" if error.name else "a package"
        print(
            f"error: {package} cannot be imported ({describe(error)}); {install_advice()} to "
            "repair it (JAXGPT_DEBUG=1 shows where)",
            file=sys.stderr,
        )
        sys.exit(1)
    except Exception as error:
        _show_traceback()
        if (machine := explain_machine_error(error)) is not None:
            print(f"error: {machine}", file=sys.stderr)
            sys.exit(1)
        text = " ".join(str(error).split())[:500]
        print(
            f"error: {type(error).__name__}: {text} (JAXGPT_DEBUG=1 shows where)", file=sys.stderr
        )
        sys.exit(1)


def _raise_handle_limit() -> None:
    """Use the file handles that the system allows; the usual soft limit is for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_HANDLES if hard == resource.RLIM_INFINITY else min(hard, _MAX_HANDLES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise UnfinishedError("stopped by SIGTERM; run the same command again")


def _show_traceback() -> None:
    if os.environ.get("JAXGPT_DEBUG") == "1":
        traceback.print_exc()


def _one_line(box: str, prog: str, default: Any) -> str:
    """Turn tyro's framed message into `what is wrong; did you mean '--x'?`."""
    lines = [line.strip(_BOX + " \n") for line in box.splitlines()[1:]]
    lines = [line for line in lines if line]
    message: list[str] = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext", "Perhaps you meant")):
            break
        message.append(line)
    text = " ".join(message).rstrip(".")
    suggestions = re.findall(r"(--[\w.-]+)", box.partition("Perhaps you meant")[2])[:1]
    unknown = re.match(r"Unrecognized options: (--[\w.-]+)", text)
    owners = describe_owners(default, unknown.group(1)) if unknown and default is not None else ""
    if unknown and default is not None:
        known = [*suggestions, *variant_options(default)]
        suggestions = difflib.get_close_matches(unknown.group(1), known, n=1) or suggestions
    if owners:
        text += owners
    elif suggestions:
        text += f"; did you mean {suggestions[0]}?"
    return f"{text[:1].lower()}{text[1:]} (`{prog} --help` lists all options)"
