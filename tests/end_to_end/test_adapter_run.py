"""A run that trains an adapter: saved alone, refused on another base, used like any other run."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.checkpoints.integrity import MANIFEST
from jaxgpt.checkpoints.named_trees import ArraySpec
from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles
from jaxgpt.checkpoints.verification import verify_run
from jaxgpt.errors import ConfigError, MismatchError, NoCheckpointError, UsageError
from jaxgpt.eval import main as eval_main
from jaxgpt.finetune import main as finetune
from jaxgpt.generate import main as generate
from jaxgpt.model.adapted import join
from jaxgpt.model.adapted import merge as merge_params
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.adapters import NO_ADAPTER
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.runs.run import open_run
from jaxgpt.runs.tuning.finetune_config import FinetuneRunConfig
from jaxgpt.runs.tuning.open_adapter import open_adapter
from jaxgpt.tokenizer.chat_template import control_ids
from jaxgpt.tools.merge_adapter import main as merge
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset

LORA = str(REPOSITORY / "configs" / "lora.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    attention = GroupedQueryAttention(num_heads=2)
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0}, attention=attention)
    return folder / "run"


@pytest.fixture(scope="module")
def chats(base: Path) -> Path:
    path = base.parent / "chats.jsonl"
    words = ["red", "green", "old", "new"]
    rows = [{"prompt": one + " " + two, "completion": two} for one in words for two in words]
    path.write_text("".join(json.dumps(row) + "\n" for row in 4 * rows))
    return path


def arguments(base: Path, data: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "--config", LORA, "--checkpoint", str(base), "--data", str(data),
        "--run-dir", str(run_dir), "--adapter.rank", "2", "--adapter.dropout", "0.1",
        "--batch.sequence-length", "32", "--batch.global-batch-size", "4",
        "--schedule.peak-learning-rate", "0.02", "--schedule.num-steps", "20",
        "--data.held-out-share", "0.2", "--runtime.compile-cache", "",
        "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2",
        "--evaluation.prompts", "old red", "--evaluation.sample-tokens", "4",
        "--evaluation.every-steps", "10", "--checkpoint.every-steps", "10", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(base: Path, chats: Path) -> Path:
    run_dir = base.parent / "tuned"
    finetune(arguments(base, chats, run_dir))
    return run_dir


def test_tokens_that_an_adapter_cannot_learn_are_warned_of(
    base: Path, tuned: Path, chats: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"the old dog sees {n} cats"}) + "\n"
                             for n in range(30)))  # fmt: skip
    warnings = []
    none = ("--adapter.token-ids",)
    for start, data, form, more in ((base, chats, "Recognised", none), (base, texts, "Text", none),
                                    (tuned, chats, "Recognised", none),
                                    (base, chats, "Recognised", ())):  # fmt: skip
        caplog.clear()
        argv = arguments(start, data, tmp_path / "none", "--data.form", form, *more)
        with pytest.raises(NoCheckpointError):  # The data are open by then.
            finetune([*argv, "--resume", "must"])
        warnings.append("stays nearly as improbable" in caplog.text)
    assert warnings == [True, False, False, False]


def _params(run_dir: Path, step: int, **sizes: int):
    mesh = make_mesh(MeshConfig(**sizes), jax.devices()[: max([1, *sizes.values()])])
    return jax.device_get(open_run(run_dir).restore_params(step, mesh))


def _stored(run_dir: Path, step: int, item: str) -> dict[str, ArraySpec]:
    return OrbaxFiles().specs(run_dir / "checkpoints" / str(step), item)


def test_a_checkpoint_holds_the_adapter_alone_and_evaluates_as_it_did_in_training(
    base: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name.rpartition("/")[2] for name in _stored(tuned, 20, "params")}
    # The base has read documents only: the rows of the chat template's tokens are trained, too.
    assert names == {"lora_a", "lora_b", "token_changes"}
    state = _stored(tuned, 20, "training_state")
    trained = {name.rpartition("/")[2] for name in state if "lora" in name or "changes" in name}
    assert trained == names
    assert not any("table" in name or "kernel" in name for name in state)
    records = [json.loads(line) for line in (tuned / "metrics.jsonl").open()]
    losses = [record["eval"]["loss"] for record in records if "eval" in record]
    assert losses[-1] < losses[0]
    config = open_run(tuned).config
    assert isinstance(config, FinetuneRunConfig)
    assert config.base.run == str(base)
    capsys.readouterr()
    eval_main(["--checkpoint", str(tuned), "--json"])
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(losses[-1], rel=1e-5)
    generate(["--checkpoint", str(tuned), "--prompt", "old red", "--json", "--temperature", "0"])
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    assert sample["finish"] == "stop", "it has learned to end"


def test_the_base_and_the_merged_model_differ_in_the_adapted_kernels_alone(
    base: Path, tuned: Path
) -> None:
    before, after = _params(base, 10), _params(tuned, 20)
    same = jax.tree.map(np.array_equal, before, after)
    named = jax.tree.leaves_with_path(same)
    changed = {"kernel", "table"}
    assert all(is_same == (path[-1].key not in changed) for path, is_same in named)
    rows = np.any(before["embedding"]["table"] != after["embedding"]["table"], axis=1)
    assert tuple(np.flatnonzero(rows)) == control_ids(open_run(base).tokenizer)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7),
        _params(tuned, 20, fsdp=2),
        after,
    )


def test_a_server_opens_the_adapter_alone_next_to_its_own_base(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    # A copy of the base is as good, whatever its folder is.
    shutil.copytree(base, tmp_path / "copy")
    opened = open_adapter(str(tuned), open_run(tmp_path / "copy"), 10)
    assert opened.step == 20
    (adapter, own), stop_ids, forbidden_ids = opened.adapter
    ids = open_run(base).tokenizer.special_ids
    assert set(stop_ids) == {ids["end"], ids["eos"]}
    assert set(stop_ids) | set(forbidden_ids) == set(ids.values())
    model = open_run(base).config.model.build(open_run(base).tokenizer.vocab_size, adapter)
    merged = merge_params(model, join(jax.tree.map(jnp.asarray, _params(base, 10)), own))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7),
        merged,
        _params(tuned, 20),
    )
    attention = GroupedQueryAttention(num_heads=2)
    make_run(tmp_path / "other", base.parent / "data", {11: 3.0}, attention=attention)
    with pytest.raises(MismatchError, match=r"was trained on step 10 of .* model is step 11 of "):
        open_adapter(str(tuned), open_run(tmp_path / "other"), 11)
    with pytest.raises(UsageError, match=r"run has no adapter; serve it with --checkpoint"):
        open_adapter(str(base), open_run(base), 10)


def test_a_server_refuses_an_adapter_that_rows_cannot_choose(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    shutil.copytree(tuned, tmp_path / "dora")
    path = tmp_path / "dora" / "config.json"
    path.write_text(path.read_text().replace("jaxgpt.model:Lora", "jaxgpt.model:Dora"))
    (tmp_path / "dora" / MANIFEST).unlink()
    with pytest.raises(ConfigError, match=r"has trained a Dora, .* tools/merge_adapter.py"):
        open_adapter(str(tmp_path / "dora"), open_run(base), 10)


def test_a_run_that_lost_its_last_steps_ends_with_the_same_bits(
    base: Path, chats: Path, tuned: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(tuned, again)
    shutil.rmtree(again / "checkpoints" / "20")
    finetune(arguments(base, chats, again))
    jax.tree.map(np.testing.assert_array_equal, _params(again, 20), _params(tuned, 20))


@pytest.mark.slow
def test_a_run_that_trained_no_rows_of_tokens_goes_on_without_them(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "earlier"
    finetune(arguments(base, chats, run_dir, "--adapter.token-ids", "--schedule.num-steps", "10"))
    # As a version wrote it that had no such rows.
    lineage = json.loads((run_dir / "lineage.json").read_text())
    del lineage["config"]["adapter"]["token_ids"]
    (run_dir / "lineage.json").write_text(json.dumps(lineage))
    (run_dir / MANIFEST).unlink()
    finetune(arguments(base, chats, run_dir, "--schedule.num-steps", "11"))
    assert not any("token_changes" in name for name in _stored(run_dir, 11, "params"))


def test_another_base_and_another_adapter_are_refused(
    base: Path, chats: Path, tuned: Path, tmp_path: Path
) -> None:
    other = base.parent / "other"
    make_run(other, base.parent / "data", {11: 3.0}, attention=GroupedQueryAttention(num_heads=2))
    with pytest.raises(MismatchError, match="another base checkpoint"):
        finetune(arguments(other, chats, tuned))
    with pytest.raises(MismatchError, match=r"another adapter: adapter.alpha: 32.0 then, 8.0 now"):
        finetune(arguments(base, chats, tuned, "--adapter.alpha", "8"))
    with pytest.raises(ConfigError, match=r"adapter.targets names 'qeury'.*did you mean 'query'"):
        finetune(arguments(base, chats, tmp_path / "new", "--adapter.targets", "qeury"))
    moved = base.rename(base.parent / "moved")
    try:
        with pytest.raises(NoCheckpointError, match=f"step 10 of {base}, is gone, seen from"):
            _params(tuned, 20)
        shutil.copytree(other, base)
        (base / "checkpoints" / "11").rename(base / "checkpoints" / "10")
        with pytest.raises(MismatchError, match=f"step 10 of {base} is not the checkpoint"):
            _params(tuned, 20)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        moved.rename(base)


def test_a_merged_model_needs_no_base(tuned: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merge(["--checkpoint", str(tuned), "--output", str(merged)])
    config = open_run(merged).config
    assert isinstance(config, FinetuneRunConfig)
    assert config.adapter == NO_ADAPTER
    jax.tree.map(np.testing.assert_array_equal, _params(merged, 20), _params(tuned, 20))
    assert not verify_run(merged).damage
    with pytest.raises(UsageError, match="merged has no adapter"):
        merge(["--checkpoint", str(merged), "--output", str(tmp_path / "second")])


def classify(base: Path, run_dir: Path, *more: str) -> None:
    """Train an adapter and a head to tell the texts that begin with an old thing."""
    labelled = base.parent / "labelled.jsonl"
    words = ["red", "green", "old", "new"]
    rows = [
        {"text": f"{one} {two} {number}", "label": "old" if one == "old" else "other"}
        for one in words
        for two in words
        for number in range(4)
    ]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = arguments(base, labelled, run_dir, "--evaluation.prompts", *more)
    argv[1] = str(REPOSITORY / "configs" / "classify.py")
    finetune(["--adapter", "Lora", *argv])


@pytest.fixture(scope="module")
def untied(base: Path) -> Path:
    """Make a base with a head of its own, which a classifier drops."""
    folder = base.parent / "untied"
    parts = {"attention": GroupedQueryAttention(num_heads=2), "head": LanguageModelHead(tied=False)}
    make_run(folder, base.parent / "data", {10: 3.0}, **parts)
    return folder


def test_the_rows_of_tokens_are_trained_in_a_head_of_its_own_too(
    untied: Path, chats: Path, tmp_path: Path
) -> None:
    finetune(arguments(untied, chats, tmp_path / "tuned"))
    assert "head/token_changes" in _stored(tmp_path / "tuned", 20, "params")
    before, after = _params(untied, 10), _params(tmp_path / "tuned", 20)
    columns = np.any(before["head"]["kernel"] != after["head"]["kernel"], axis=0)
    assert tuple(np.flatnonzero(columns)) == control_ids(open_run(untied).tokenizer)


@pytest.fixture(scope="module")
def classified(untied: Path) -> Path:
    classify(untied, untied.parent / "classified")
    return untied.parent / "classified"


def test_a_classifier_trains_its_head_next_to_the_adapter(
    untied: Path, classified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = set(_stored(classified, 20, "params"))
    assert {name.rpartition("/")[2] for name in names - {"head/kernel"}} == {"lora_a", "lora_b"}
    assert "head/kernel" in names
    records = [json.loads(line) for line in (classified / "metrics.jsonl").open()]
    losses = [record["eval"]["loss"] for record in records if "eval" in record]
    assert losses[-1] < 0.8 * losses[0]
    before, after = _params(untied, 10), _params(classified, 20)
    np.testing.assert_array_equal(before["embedding"]["table"], after["embedding"]["table"])
    merged = tmp_path / "merged"
    merge(["--checkpoint", str(classified), "--output", str(merged)])
    jax.tree.map(np.testing.assert_array_equal, _params(merged, 20), after)
    capsys.readouterr()
    eval_main(["--checkpoint", str(merged), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(losses[-1], rel=1e-5)


@pytest.mark.slow
def test_a_classifier_with_an_adapter_goes_on(
    untied: Path, classified: Path, tmp_path: Path
) -> None:
    again, after = tmp_path / "again", _params(classified, 20)
    shutil.copytree(classified, again)
    shutil.rmtree(again / "checkpoints" / "20")
    classify(untied, again)
    jax.tree.map(np.testing.assert_array_equal, _params(again, 20), after)
    # More training with the same labels begins with the head that was trained.
    second = tmp_path / "second"
    more = ("--schedule.num-steps", "1", "--schedule.peak-learning-rate", "1e-9")
    classify(classified, second, *more)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7),
        _params(second, 1),
        after,
    )


@pytest.mark.slow
def test_the_base_of_an_adapter_can_have_been_adapted(
    chats: Path, tuned: Path, tmp_path: Path
) -> None:
    more = ("--schedule.num-steps", "1", "--schedule.peak-learning-rate", "1e-9")
    finetune(arguments(tuned, chats, tmp_path / "second", "--adapter", "Dora", *more))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7),
        _params(tmp_path / "second", 1),
        _params(tuned, 20),
    )
