"""`python -m jaxgpt.serve`: its options, and a process that ends without losing an answer."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxgpt import serve
from jaxgpt.command_line import run_verb
from jaxgpt.errors import UsageError
from jaxgpt.serving import options
from jaxgpt.serving.options import listen, named_adapters, parse
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, environment, make_dataset


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_machines_get_no_answer_without_a_key(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can be reached from other machines: give --api-key-file"):
        serve.main(["--checkpoint", "nowhere", "--host", host])
    keys = tmp_path / "keys"
    with pytest.raises(UsageError, match=r"keys cannot be read: No such file"):
        serve.main(["--checkpoint", "nowhere", "--host", host, "--api-key-file", str(keys)])
    keys.write_text("\n \n")
    with pytest.raises(UsageError, match=r"has no key; write one a line"):
        serve.main(["--checkpoint", "nowhere", "--api-key-file", str(keys)])
    keys.write_text("s\u200bcret\n", "utf-8")
    with pytest.raises(UsageError, match=r"a key that clients cannot send in a header; allowed"):
        serve.main(["--checkpoint", "nowhere", "--api-key-file", str(keys)])


WRONG_ORIGINS = [
    "a.org", "https://a.org/", "https://A.org", "https://*.a.org", "null", "//a", "http://:3000",
    "http://a:port", "http://a:99999", "http://a:", "http://a:080", "http://[", "https://a.org\\",
    "https://a.org;", "https://u@a.org", "https://a.org?", "https://a.org#", "https://a..org",
    "http://[::0]", "http://127.1", "http://[a]", "HTTP://a", "http://a\tb", "",
]  # fmt: skip
UNSENT_ORIGINS = {
    "https://a.org:443": "leave :443 out",
    "http://[::1]:80": "leave :80 out",
    "https://ä.org": "as xn--",
}


def test_origins_are_exact_and_any_needs_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(*origins: str) -> tuple[str, ...]:
        return parse(["--checkpoint", "x", *options, "--cors-origin", *origins])[0].cors_origin

    options: list[str] = []
    for origin in (
        "https://a.org",
        "http://localhost:3000",
        "http://[::1]:1",
        "app://obsidian.md",
        "https://xn--4ca.org",
        "http://a.org:443",
        "http://127.0.0.1:0",
    ):
        assert given(origin) == (origin,)
    for wrong in WRONG_ORIGINS:
        with pytest.raises(UsageError, match=r"is no origin; allowed: a scheme and a host"):
            given("https://a.org", wrong)
    for unsent, advice in UNSENT_ORIGINS.items():
        with pytest.raises(UsageError, match=f"is not what browsers send; .*{advice}"):
            given(unsent)
    with pytest.raises(UsageError, match=r"--cors-origin \* lets the pages of any site"):
        given("*")
    (tmp_path / "keys").write_text("secret")
    options = ["--api-key-file", str(tmp_path / "keys")]
    assert given("*") == ("*",)
    monkeypatch.setenv("JAXGPT_SERVE_CORS_ORIGIN", "https://a.org https://b.org")
    assert parse(["--checkpoint", "x"])[0].cors_origin == ("https://a.org", "https://b.org")


def test_options_come_from_the_environment_and_the_command_line_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXGPT_SERVE_CHECKPOINT", "not here")
    monkeypatch.setenv("JAXGPT_SERVE_ENGINE_NUM_SLOTS", "0")
    with pytest.raises(SystemExit) as stop:
        run_verb(serve.main, [])
    assert stop.value.code == 78
    assert "num_slots must be at least 1, not 0" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run_verb(serve.main, ["--engine.num-slots", "1"])
    assert stop.value.code == 2
    assert "not here" in capsys.readouterr().err


def test_each_option_has_a_variable_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_verb(serve.main, ["--help"])
    shown = set(re.findall(r"^(?:│| ) +--([a-z][\w.-]*)", capsys.readouterr().out, re.MULTILINE))
    assert {"checkpoint", "engine.num-slots", "answer-seconds"} <= shown
    for option in shown:
        name = f"JAXGPT_SERVE_{re.sub('[.-]', '_', option).upper()}"
        monkeypatch.setenv(name, "7")
        options._refuse_unknown_variables()
        given = dict(itertools.pairwise(options._from_environment([])))
        assert given[f"--{option}"] == "7"
        monkeypatch.delenv(name)
    # A section has options and no value.
    for name in ("PROT", "ENGINE", "MESH", "PRECISION"):
        with monkeypatch.context() as patch:
            patch.setenv(f"JAXGPT_SERVE_{name}", "9000")
            with pytest.raises(UsageError, match=f"JAXGPT_SERVE_{name} is no option") as error:
                serve.main(["--checkpoint", "nowhere"])
        assert name != "PROT" or "'JAXGPT_SERVE_PORT'" in str(error.value)


def test_a_port_that_is_taken_or_none_is_told_before_a_model_is_read() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(UsageError, match=f"cannot listen at --host .* --port {port}: "):
            listen("127.0.0.1", int(port))
    with pytest.raises(UsageError, match="--port 99999 must be at most 65535"):
        serve.main(["--checkpoint", "nowhere", "--port", "99999"])


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (["terse"], "--adapter terse must be NAME=RUN, a model id and a run folder"),
        (["=runs/a"], "--adapter =runs/a must be NAME=RUN"),
        (["a=runs/a", "b=runs/b", "a=runs/c"], "--adapter a=runs/c: another model is named a"),
        (["gpt-4o=runs/a"], "another model is named gpt-4o; choose another name"),
    ],
)
def test_an_adapter_needs_a_name_of_its_own_and_a_run(adapters: list[str], message: str) -> None:
    options = [each for adapter in adapters for each in ("--adapter", adapter)]
    with pytest.raises(UsageError, match=message):
        serve.main(["--checkpoint", "nowhere", "--alias", "gpt-4o", *options])


def test_adapters_of_the_command_line_replace_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAXGPT_SERVE_ADAPTER", "a=runs/a b=runs/b")
    given = ["--checkpoint", "run"]
    assert named_adapters(parse(given)[0], "run") == {"a": "runs/a", "b": "runs/b"}
    options, _ = parse([*given, "--adapter", "c=runs/c", "--adapter=d=runs/d"])
    assert named_adapters(options, "run") == {"c": "runs/c", "d": "runs/d"}


@pytest.mark.slow
def test_a_stopped_server_finishes_its_answers_and_ends_with_zero(tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client", "llguidance"):
        pytest.importorskip(package, reason="needs: pip install -e '.[serve]'")
    httpx = pytest.importorskip("httpx", reason="needs: pip install -e '.[dev]'")
    make_run(tmp_path / "run", make_dataset(tmp_path / "data"), {10: 3.0})
    command = [sys.executable, "-m", "jaxgpt.serve", "--checkpoint", str(tmp_path / "run")]
    options = ["--port", "0", "--engine.max-length", "900", "--engine.num-slots", "2"]
    for grace, ends_whole in ((120, True), (0, False)):
        process = subprocess.Popen(
            [*command, *options, "--grace-seconds", str(grace)],
            cwd=REPOSITORY,
            env=environment(tmp_path / "cache") | {"JAX_LOG_COMPILES": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if line.startswith("serving run at "))
            url = line.split()[-1]
            said: list[str] = []
            drain = threading.Thread(target=said.extend, args=[process.stderr])
            drain.start()
            body = {"prompt": "the", "max_tokens": 600, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
                lines = answer.iter_lines()
                next(lines)
                os.kill(process.pid, signal.SIGTERM)
                events = [line for line in lines if line]
            assert process.wait(120) == 0
            drain.join()
        finally:
            process.kill()
        # The first client waits for no compiler.
        compiled = re.findall(
            r"Compiling jit\((begin|read_chunk|draw_first|decode)\)", "".join(said)
        )
        assert not compiled
        if ends_whole:
            assert events[-1] == "data: [DONE]"
            assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"
        else:
            assert "the server is stopping" in json.loads(events[-1][6:])["error"]["message"]
