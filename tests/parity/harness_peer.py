"""One GPT-2 of random weights twice, as ours and as transformers', with one tokenizer for both."""

import dataclasses
from typing import Any

import numpy as np
import sentencepiece
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgpt.config import replace
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.layers.positions import Learned
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.tokenizer.sentencepiece_model import SPACE_SYMBOL
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.parity import mapping
from tests.parity.families import FAMILIES

CONTEXT_LENGTH = 256


def make_pair(tokenizer: Tokenizer) -> tuple[LoadedModel, Any]:
    """Return our model, and that of transformers with the same weights."""
    family = FAMILIES["gpt2"]
    settings = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": CONTEXT_LENGTH}
    published = dataclasses.replace(family, settings=family.settings | settings).build_published()
    config = replace(family.config, position=Learned(max_length=CONTEXT_LENGTH))
    tree = flatten_dict(abstract_params(config, tokenizer.vocab_size), sep="/")
    weights = {name: value.detach().numpy() for name, value in published.named_parameters()}
    shapes = {path: leaf.shape for path, leaf in tree.items()}
    params = unflatten_dict(mapping.map_weights(family.table, weights, shapes), sep="/")
    model = config.build(tokenizer.vocab_size)
    mesh = single_device_mesh()
    return LoadedModel(model, params, tokenizer, mesh, CONTEXT_LENGTH), published


def to_transformers(tokenizer: Tokenizer) -> Any:
    """Return a byte-fallback BPE of transformers that encodes as ours does, BOS first."""
    import tokenizers
    import transformers

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer._model)
    pieces = range(processor.vocab_size())
    special = [i for i in pieces if processor.is_control(i) or processor.is_unknown(i)]
    names = {i: processor.id_to_piece(i) for i in pieces}
    ids = {
        name if i in special or processor.is_byte(i) else name.replace(SPACE_SYMBOL, " "): i
        for i, name in names.items()
    }
    normal = [name for name, i in ids.items() if i not in special and not processor.is_byte(i)]
    merges = [
        pair
        for name in sorted(normal, key=lambda name: -processor.get_score(ids[name]))
        for pair in sorted(
            ((name[:cut], name[cut:]) for cut in range(1, len(name))
             if name[:cut] in normal and name[cut:] in normal),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )
    ]  # fmt: skip
    unknown = names[processor.unk_id()]
    bos = names[tokenizer.bos_id]
    model = tokenizers.models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    fast = tokenizers.Tokenizer(model)
    fast.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=bos,
        eos_token=names[tokenizer.eos_id],
        pad_token=names[tokenizer.pad_id],
        clean_up_tokenization_spaces=False,
    )


def largest_difference(ours: list, theirs: list) -> float:
    """Return the largest absolute difference of two lists of numbers."""
    return float(np.abs(np.array(ours) - np.array(theirs)).max())
