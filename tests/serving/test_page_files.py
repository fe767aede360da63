"""The chat page's files: each is found, under a policy that lets nothing else run."""

import re

import pytest

from tests.serving.served import Served, httpx


def test_the_page_comes_under_a_strict_policy(served: Served) -> None:
    answer = httpx.get(f"{served.url}/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert rules.pop("default-src") == "'none'"
    # Nothing is inline, evaluated or from elsewhere.
    assert set(rules.values()) == {"'self'", "'none'", "'script'"}
    assert rules["require-trusted-types-for"] == "'script'"


def test_every_file_that_the_page_names_is_there(served: Served) -> None:
    found, to_read = set(), {"page/../"}
    while to_read:
        name = to_read.pop()
        answer = httpx.get(f"{served.url}/{name.removeprefix('page/../')}")
        assert answer.status_code == 200, name
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        found.add(name)
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', answer.text)
        named += [f"page/{each}" for each in re.findall(r'from "\./([^"]+)"', answer.text)]
        to_read |= set(named) - found
        # All that is fetched is the server's own.
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", answer.text), name
    assert {"page/main.js", "page/style.css", "page/icon.svg", "page/blocks.js"} <= found


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "../page_files.py", "%00"])
def test_no_other_file_is_served(served: Served, name: str) -> None:
    answer = httpx.get(f"{served.url}/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
