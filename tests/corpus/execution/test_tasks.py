"""Stages: a finished task is not done again, an unfinished, changed or damaged one is."""

import json

import pytest

from jaxgpt.corpus.execution import tasks as tasks_module
from jaxgpt.corpus.execution.executor import SerialExecutor
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.corpus.execution.tasks import Task, TaskRunner, carry_out
from jaxgpt.stop_signal import StopSignal


class CountingFunction:
    """Writes its argument to a file and counts its calls; fails for what is in `failing`."""

    __name__ = "function"

    def __init__(self, failing=()):
        self.calls = []
        self.failing = set(failing)

    def __call__(self, folder, advance, text):
        self.calls.append(text)
        (folder / "out.txt").write_text(text)
        advance(len(text))
        if text in self.failing:
            raise RuntimeError(text)
        return {"length": len(text)}


def tasks(*texts):
    return [
        Task(name=f"{i:05d}", depends_on=text, arguments=(text,), num_bytes=len(text))
        for i, text in enumerate(texts)
    ]


def run(work, function, *texts):
    stages = TaskRunner(work, SerialExecutor(), BuildProgress(StopSignal()))
    return stages.run("testing", function, tasks(*texts))


def test_results_come_in_order_and_are_not_made_twice(tmp_path):
    function = CountingFunction()
    first = run(tmp_path, function, "a", "bb")
    assert [done.result["length"] for done in first] == [1, 2]
    assert (first[1].folder / "out.txt").read_text() == "bb"
    assert run(tmp_path, function, "a", "bb") == first
    assert function.calls == ["a", "bb"]


def test_a_result_of_another_version_is_never_taken_for_one_of_this(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tasks_module, "WORK_VERSION", tasks_module.WORK_VERSION - 1)
        run(tmp_path, CountingFunction(), "a", "bb")
    function = CountingFunction()
    run(tmp_path, function, "a", "bb")
    assert function.calls == ["a", "bb"]


def test_a_failure_leaves_what_was_finished_and_nothing_half_done(tmp_path):
    with pytest.raises(RuntimeError):
        run(tmp_path, CountingFunction(failing=["bb"]), "a", "bb", "ccc")
    assert [path.name for path in (tmp_path / "function").iterdir()] == ["00000"]
    function = CountingFunction()
    run(tmp_path, function, "a", "bb", "ccc")
    assert function.calls == ["bb", "ccc"]


def test_a_changed_task_is_done_again_and_only_that(tmp_path):
    run(tmp_path, CountingFunction(), "a", "bb")
    function = CountingFunction()
    run(tmp_path, function, "a", "xx")
    assert function.calls == ["xx"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "marker"])
def test_a_damaged_result_is_made_again(tmp_path, damage):
    run(tmp_path, CountingFunction(), "a", "bb")
    folder = tmp_path / "function" / "00001"
    if damage == "flip":
        (folder / "out.txt").write_text("bc")
    elif damage == "truncate":
        (folder / "out.txt").write_text("b")
    elif damage == "remove":
        (folder / "out.txt").unlink()
    else:
        (folder / "done.json").write_text('{"key"')
    function = CountingFunction()
    run(tmp_path, function, "a", "bb")
    assert function.calls == ["bb"]
    assert (folder / "out.txt").read_text() == "bb"


def test_leftovers_of_a_killed_task_do_no_harm(tmp_path):
    (tmp_path / "function" / ".00000.abc.tmp").mkdir(parents=True)
    (tmp_path / "function" / ".00000.abc.tmp" / "junk").write_text("junk")
    (done,) = run(tmp_path, CountingFunction(), "a")
    assert sorted(path.name for path in done.folder.iterdir()) == ["done.json", "out.txt"]
    assert json.loads((done.folder / "done.json").read_text())["result"] == {"length": 1}
    assert [path.name for path in (tmp_path / "function").iterdir()] == ["00000"]


def test_two_that_do_the_same_task_at_once_do_not_disturb_each_other(tmp_path):
    class Twice(CountingFunction):
        def __call__(self, folder, advance, text):
            if not self.calls:
                self.calls.append("the other")
                carry_out(folder.parent, CountingFunction(), task, advance)
            return super().__call__(folder, advance, text)

    (task,) = tasks("a")
    (tmp_path / "function").mkdir()
    done = carry_out(tmp_path / "function", Twice(), task, lambda amount: None)
    assert (done.folder / "out.txt").read_text() == "a"
    assert [path.name for path in (tmp_path / "function").iterdir()] == ["00000"]
