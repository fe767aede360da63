"""Soak: clients in other languages and libraries drive a server, each by its own ways.

    npm install --prefix NODE openai ai @ai-sdk/openai @ai-sdk/openai-compatible zod
    python -m venv ENV && ENV/bin/pip install langchain-openai llm
    python -m tests.soak.drive_clients --checkpoint RUN --node-modules NODE --python ENV/bin/python

Installs nothing itself. Each file of tests/soak/clients/ that is one of CLIENTS does what people do
with its library: models, texts, conversations, streams, usage, objects by a schema, errors. Prints
one object of JSON, the failed checks of each client; exits with 1 if there is one, or a client did
not get to its end. The checkpoint answers conversations, and holds some 500 tokens of one; for the
quickstart's that is JAXGPT_SERVE_ENGINE_MAX_LENGTH=1024.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.soak.serve_load import Server

CLIENTS = Path(__file__).parent / "clients"
NODE_CLIENTS = ("openai_node.cjs", "vercel.cjs")
PYTHON_CLIENTS = ("langchain_client.py", "llm_client.py")
_SECONDS = 600


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(description="A server and other clients")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--node-modules", type=Path, help="folder in which npm has installed")
    parser.add_argument("--python", help="interpreter that has the libraries for Python")
    options = parser.parse_args()
    server = Server(options.checkpoint, num_slots=4, max_waiting=32)
    try:
        model = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
        results: dict[str, Any] = {}
        if options.node_modules is not None:
            folder = str(options.node_modules.resolve())
            for name in NODE_CLIENTS:
                results[name] = _drive(["node", str(CLIENTS / name), folder, server.url, model])
        if options.python is not None:
            for name in PYTHON_CLIENTS:
                command = [options.python, str(CLIENTS / name), server.url, model]
                results[name] = _drive(command)
    finally:
        server.process.kill()
    print(json.dumps(results, indent=1))
    return 1 if any(each["failed"] or each["exit_code"] for each in results.values()) else 0


def _drive(command: list[str]) -> dict[str, Any]:
    found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    checks = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    result = {
        "checks": len(checks),
        "failed": {each["check"]: each["error"] for each in checks if each["error"]},
        "exit_code": found.returncode,
    }
    if found.returncode:
        result["stderr"] = found.stderr[-1000:]
    return result


if __name__ == "__main__":
    sys.exit(main())
