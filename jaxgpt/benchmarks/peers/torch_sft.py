"""TRL's SFTTrainer for comparison, in the process of PyTorch alone."""

import itertools
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import datasets
import tokenizers
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer


class TorchSft:
    """GPT-2 with given weights, trained on given examples by TRL's own loop.

    Float32, without recomputation; all else as TRL sets it.

    Args:
        shape: of `GPT2Config`.
        settings: `batch_size`, rows per step; `packing`, TRL's strategy; `learning_rate`.
        arrays: weights by name; `ids` and `is_target`, tokens of all examples one after the other;
            `offsets`, where examples begin and end.
    """

    def __init__(
        self, shape: Mapping[str, int], settings: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> None:
        arrays = dict(arrays)
        ids, is_target, offsets = (arrays.pop(name) for name in ("ids", "is_target", "offsets"))
        spans = list(itertools.pairwise(offsets.tolist()))
        self._examples = datasets.Dataset.from_dict(
            {
                "input_ids": [ids[start:stop].tolist() for start, stop in spans],
                "completion_mask": [
                    is_target[start:stop].astype(int).tolist() for start, stop in spans
                ],
            }
        )
        self._settings, self._length = settings, shape["n_positions"]
        # Without dropout, as on the other side.
        sizes: dict[str, Any] = {
            **shape, "bos_token_id": None, "eos_token_id": None,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        }  # fmt: skip
        self._model: Any = GPT2LMHeadModel(GPT2Config(**sizes))
        self._model.load_state_dict({name: torch.tensor(each) for name, each in arrays.items()})
        # The examples are tokens already: this one only has to be there.
        self._tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()),
            eos_token="</s>",
            pad_token="</s>",
        )
        self._seed = 0

    def train(self, num_steps: int) -> tuple[float, int, float]:
        """Train on; return the seconds and the targets of `num_steps` steps, and the first loss.

        One step more is taken first, which is not timed: the loop starts with it.
        """
        self._seed += 1
        timer = _Timer()
        with tempfile.TemporaryDirectory() as folder:
            trainer = _Counting(
                model=self._model,
                args=SFTConfig(
                    output_dir=folder,
                    max_steps=num_steps + 1,
                    per_device_train_batch_size=self._settings["batch_size"],
                    learning_rate=self._settings["learning_rate"],
                    packing=True,
                    packing_strategy=self._settings["packing"],
                    max_length=self._length,
                    completion_only_loss=True,
                    lr_scheduler_type="constant",
                    gradient_checkpointing=False,
                    bf16=False,
                    use_cpu=not torch.cuda.is_available(),
                    seed=self._seed,
                    logging_strategy="no",
                    save_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                ),
                train_dataset=self._examples,
                processing_class=self._tokenizer,
                callbacks=[timer],
            )
            trainer.train()
        return timer.ends[-1] - timer.ends[0], sum(trainer.targets[1:]), trainer.losses[0]


class _Timer(TrainerCallback):
    """The time at which each step has ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        self.ends.append(time.perf_counter())


class _Counting(SFTTrainer):
    """SFTTrainer that keeps the targets and the loss of each step."""

    def __init__(self, **arguments: Any) -> None:
        self.targets: list[int] = []
        self.losses: list[float] = []
        super().__init__(**arguments)

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        self.targets.append(int((inputs["labels"][:, 1:] != -100).sum()))
        found = super().compute_loss(model, inputs, *arguments, **more)
        loss = found[0] if isinstance(found, tuple) else found
        self.losses.append(float(loss.detach()))
        return found
