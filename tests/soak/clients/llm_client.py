"""The command `llm`; needs `pip install llm`. Run by drive_clients.py."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

URL, MODEL = sys.argv[1:]
SCHEMA = {
    "type": "object",
    "properties": {"big": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["big", "kind"],
    "additionalProperties": False,
}
SETTINGS = f"""
- model_id: chat
  model_name: {MODEL}
  api_base: {URL}/v1
  supports_schema: true
  supports_tools: true
- model_id: text
  model_name: {MODEL}
  api_base: {URL}/v1
  completion: true
- model_id: other
  model_name: other
  api_base: {URL}/v1
"""


def llm(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "any"}
    return subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def answer(folder: str, *arguments: str) -> str:
    found = llm(folder, *arguments)
    assert found.returncode == 0, found.stderr[-400:]
    return found.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "extra-openai-models.yaml").write_text(SETTINGS)
        options = ("-o", "max_tokens", "12", "-o", "seed", "3")
        chat = ("-m", "chat", "-s", "Be short.", "What does len do?", *options)

        def same_streamed() -> None:
            assert answer(folder, *chat) == answer(folder, *chat, "--no-stream")

        def usage() -> None:
            assert "input" in llm(folder, *chat, "-u").stderr

        def structured() -> None:
            found = answer(folder, "-m", "chat", "hello", "--schema", json.dumps(SCHEMA))
            assert json.loads(found)["kind"] in ("cat", "dog")

        def has_tools() -> None:
            answer(folder, *chat, "-T", "llm_version")

        def goes_on() -> None:
            answer(folder, *chat)
            answer(folder, "-c", "And print?", *options)

        def completes() -> None:
            for more in ((), ("--no-stream",)):
                answer(folder, "-m", "text", "import os", "-o", "max_tokens", "8", *more)

        def errors() -> None:
            found = llm(folder, "-m", "other", "hello")
            assert found.returncode != 0
            assert "no such model here" in found.stderr + found.stdout, found.stderr

        for check in (same_streamed, usage, structured, has_tools, goes_on, completes, errors):
            error = None
            try:
                check()
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"[:500]
            name = check.__name__.replace("_", " ")
            print(json.dumps({"check": name, "error": error}), flush=True)


if __name__ == "__main__":
    main()
