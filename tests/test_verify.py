"""`jaxgpt.verify`: exit 0 for a run that is whole, 81 with the file's name for anything else."""

import json
import shutil
from pathlib import Path

import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.errors import MismatchError
from jaxgpt.runs.run import open_run
from jaxgpt.verify import main
from tests.run_folder import make_run
from tests.tiny import make_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    make_run(root / "run", make_dataset(root / "data"), {10: 3.0, 20: 2.0})
    return root


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world / "run", tmp_path / "run")


def verify(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    try:
        run_verb(main, argv)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def hashed_files(run: Path) -> list[Path]:
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len([path for path in files if "checkpoints" in path.parts]) > 20
    return files


def test_a_whole_run_passes(run: Path, capsys) -> None:
    code, out, err = verify(capsys, "--checkpoint", str(run))
    assert (code, err) == (0, "")
    assert "whole steps: 10, 20" in out
    code, out, _ = verify(capsys, "--checkpoint", str(run), "--json")
    result = json.loads(out)
    assert (code, result["whole"], result["damage"]) == (0, True, {})
    assert result["steps"] == {"10": True, "20": True}
    sizes = [path.stat().st_size for path in hashed_files(run)]
    assert (result["files"], result["bytes"]) == (len(sizes), sum(sizes))


def test_one_bit_of_any_file_is_found_and_named(run: Path, capsys) -> None:
    for number, path in enumerate(hashed_files(run)):
        before = path.read_bytes()
        content = bytearray(before)
        content[number * 7919 % len(content)] ^= 1 << number % 8
        path.write_bytes(content)
        code, out, err = verify(capsys, "--checkpoint", str(run), "--json")
        name = path.relative_to(run).as_posix()
        assert (code, list(json.loads(out)["damage"])) == (81, [name])
        assert name in err
        path.write_bytes(before)
    assert verify(capsys, "--checkpoint", str(run))[0] == 0


def test_all_damage_is_listed_and_what_is_set_aside_is_not_looked_into(run: Path, capsys) -> None:
    checkpoints = run / "checkpoints"
    (checkpoints / "20" / "metadata.json").unlink()
    (checkpoints / "20" / "params" / "new").write_text("")
    (run / "config.json").write_text("")
    (checkpoints / "damaged-5").mkdir()
    code, out, _ = verify(capsys, "--checkpoint", str(run), "--json")
    result = json.loads(out)
    assert code == 81
    assert result["damage"].keys() == {
        "checkpoints/20/metadata.json",
        "checkpoints/20/params/new",
        "config.json",
    }
    assert result["steps"] == {"10": True, "20": False}
    assert result["set_aside"] == ["damaged-5"]
    _, out, _ = verify(capsys, "--checkpoint", str(run))
    assert f"{run}/config.json has 0 bytes instead of" in out


@pytest.mark.parametrize("name", ["integrity.json", "checkpoints/10/integrity.json"])
def test_without_hashes_nothing_is_whole(run: Path, capsys, name: str) -> None:
    (run / name).unlink()
    code, _, err = verify(capsys, "--checkpoint", str(run))
    assert code == 81
    assert name in err


def test_a_run_without_a_step_is_not_whole(run: Path, capsys) -> None:
    shutil.rmtree(run / "checkpoints")
    assert verify(capsys, "--checkpoint", str(run))[0] == 81


def test_datasets_are_hashed_too(world: Path, tmp_path: Path, capsys) -> None:
    data = shutil.copytree(world / "data", tmp_path / "data")
    assert verify(capsys, "--data", str(data))[0] == 0
    shard = next((data / "train").glob("*.bin"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    code, _, err = verify(capsys, "--data", str(data))
    assert (code, shard.name in err) == (79, True)


def test_wrong_usage_is_refused(tmp_path: Path, capsys) -> None:
    assert verify(capsys)[0] == 2
    assert verify(capsys, "--checkpoint", str(tmp_path / "none"))[0] == 2


@pytest.mark.parametrize("name", ["config.json", "lineage.json", "tokenizer/tokenizer.model"])
def test_a_damaged_description_is_refused_by_whoever_opens_the_run(run: Path, name: str) -> None:
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(MismatchError, match=name):
        open_run(run)
