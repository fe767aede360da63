"""`Architecture`: a class of transformers as a table of fields and a table of weights.

One table serves both directions. Whether a model of ours has an architecture is decided by the way
there and back: its config is written as theirs and read again, and each field that comes back with
another value is one that they cannot express.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxgpt.config import ARCHITECTURE, replace, select_fields, to_dict
from jaxgpt.errors import ConfigError, did_you_mean
from jaxgpt.interchange.weights import Shape, Table, by_path
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import GatedFeedForward, PlainFeedForward
from jaxgpt.names.dotted_paths import find_differences
from jaxgpt.names.type_tags import TYPE_KEY

# Fields of every config.json that do not change what a model computes.
_WITHOUT_EFFECT = {
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout",
    "auto_map", "bos_token_id", "dtype", "eos_token_id", "initializer_range", "model_type",
    "pad_token_id", "pretraining_tp", "torch_dtype", "transformers_version", "use_cache",
    "vocab_size", "max_position_embeddings",
}  # fmt: skip
# Without effect on a model, or stored otherwise: not part of a comparison of two.
_NOT_COMPARED = ("vocab_multiple", "param_dtype")
_REQUIRED = object()


class Field(NamedTuple):
    """Fields of config.json that together have one value of ours.

    Attributes:
        theirs: names, with the values that transformers takes where config.json lacks them.
        ours: dotted paths in `GptConfig`; several get the same value.
        write: from our value to their fields; fields with the value None are left out.
        read: from all their fields to our value.
    """

    theirs: Mapping[str, Any]
    ours: tuple[str, ...]
    write: Callable[[Any], Mapping[str, Any]]
    read: Callable[[Mapping[str, Any]], Any]


def field(theirs: str, *ours: str, default: Any = _REQUIRED, as_type: type | None = None) -> Field:
    """Return a field with the same value on both sides."""

    def read(fields: Mapping[str, Any]) -> Any:
        value = fields[theirs]
        return value if value is None or as_type is None else as_type(value)

    return Field({theirs: default}, ours, lambda value: {theirs: value}, read)


@dataclass(frozen=True)
class Architecture:
    """A class of transformers.

    Attributes:
        name: of the class.
        model_type: its name in config.json.
        template: config with the values that the architecture does not let one choose.
        fields: all others.
        fixed: fields of config.json with the only value that the template has.
        ignored: fields of config.json without effect on the logits.
        weights: where our parameters are.
        context_field: name of the longest context in config.json.
    """

    name: str
    model_type: str
    template: GptConfig
    fields: tuple[Field, ...]
    fixed: Mapping[str, Any]
    weights: Table
    ignored: frozenset[str] = frozenset()
    context_field: str = "max_position_embeddings"

    def write_config(self, config: GptConfig, context_length: int) -> dict[str, Any]:
        """Return the fields of config.json that describe a model, as far as they can."""
        config = spell_out(config)
        written = {"model_type": self.model_type, "architectures": [self.name], **self.fixed}
        written[self.context_field] = context_length
        for item in self.fields:
            value = _get(config, item.ours[0])
            fields = {} if value is None else item.write(value)
            written |= {name: each for name, each in fields.items() if each is not None}
        return written

    def read_config(self, theirs: dict[str, Any]) -> GptConfig:
        """Return our config of a published model.

        Raises:
            ConfigError: a field is unknown, missing, or has a value that is not built here.
        """
        defaults = {name: value for item in self.fields for name, value in item.theirs.items()}
        known = {*defaults, *self.fixed, *self.ignored, *_WITHOUT_EFFECT, self.context_field}
        for name, value in theirs.items():
            if name not in known and value is not None:
                raise ConfigError(
                    f"config.json of {self.name} has the field {name!r} ({value!r}), which is not "
                    f"read here{did_you_mean(name, known)}; remove the field if the model does the "
                    "same without it"
                )
            if name in self.fixed and value != self.fixed[name]:
                raise ConfigError(
                    f"config.json of {self.name} has {name}={value!r}; only "
                    f"{name}={self.fixed[name]!r} is read here"
                )
        if absent := [name for name, value in (defaults | theirs).items() if value is _REQUIRED]:
            raise ConfigError(f"config.json of {self.name} lacks the field {absent[0]!r}")
        return self._from_fields(theirs)

    def _from_fields(self, theirs: Mapping[str, Any]) -> GptConfig:
        """Return the template with the values of fields that are there, or have a default."""
        changes = {}
        for item in self.fields:
            fields = {"max_position_embeddings": None, **item.theirs, **theirs}
            if not any(fields[name] is _REQUIRED for name in item.theirs):
                changes |= dict.fromkeys(item.ours, item.read(fields))
        return _change(self.template, changes)

    def differences(self, config: GptConfig) -> list[str]:
        """Return what the architecture cannot express of a model; empty if it has all of it."""
        try:
            back = self._from_fields(self.write_config(config, 1))
        except ConfigError as error:
            return [str(error)]
        return list(_describe_differences(config, back))

    def shapes(self, config: GptConfig, vocab_size: int) -> dict[str, Shape]:
        """Return the shapes of the parameters that a model has in this architecture, by path.

        Where the architecture has a bias that the model lacks, it is among them.
        """
        back = self.read_config(self.write_config(config, 1))
        # The vocabulary is not rounded up on their side.
        tree = abstract_params(replace(back, vocab_multiple=1), vocab_size)
        return {path: leaf.shape for path, leaf in by_path(tree).items()}


def spell_out(config: GptConfig) -> GptConfig:
    """Return the same model with a value in each field whose default depends on others."""
    attention, feed_forward = config.attention, config.feed_forward
    if isinstance(attention, GroupedQueryAttention):
        head_dim = attention.resolve_head_dim(config.d_model)
        scale = head_dim**-0.5 if attention.query_scale is None else attention.query_scale
        count, pattern = config.num_layers, attention.windows
        attention = replace(
            attention,
            num_kv_heads=attention.kv_heads,
            head_dim=head_dim,
            query_scale=scale,
            windows=tuple(pattern[layer % len(pattern)] for layer in range(count)),
        )
    if isinstance(feed_forward, PlainFeedForward | GatedFeedForward):
        hidden = feed_forward.resolve_hidden(config.d_model)
        feed_forward = replace(feed_forward, hidden=hidden)
    return replace(config, attention=attention, feed_forward=feed_forward)


def _describe_differences(config: GptConfig, back: GptConfig) -> Iterator[str]:
    """Yield `model.FIELD is OURS, not THEIRS` for each field that came back with another value."""
    ours, theirs = (_comparable(each) for each in (config, back))
    of_other_variants: list[str] = []
    for name, one, other in find_differences(ours, theirs, into_lists=False):
        section, _, last = name.rpartition(".")
        if any(name.startswith(variant) for variant in of_other_variants):
            continue
        if last == TYPE_KEY:
            of_other_variants.append(f"{section}.")
            name, one, other = section, {TYPE_KEY: one}, {TYPE_KEY: other}
        # A bias that is 0 is no bias.
        if last.endswith("bias") and (one, other) == (False, True):
            continue
        yield f"model.{name} is {_short(one)}, not {_short(other)}"


def _comparable(config: GptConfig) -> dict[str, Any]:
    selected = select_fields(to_dict(spell_out(config)), ARCHITECTURE)
    return {name: value for name, value in selected.items() if name not in _NOT_COMPARED}


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and TYPE_KEY in value:
        return value[TYPE_KEY].partition(":")[2]
    return repr(value)


def _get(section: Any, path: str) -> Any:
    """Return the value at a dotted path; None where a variant has no such field."""
    for name in path.split("."):
        section = getattr(section, name, None)
    return section


def _change(section: Any, changes: Mapping[str, Any]) -> Any:
    """Return a section with other values at dotted paths, each section checked once."""
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        if rest:
            nested.setdefault(first, {})[rest] = value
        else:
            own[first] = value
    own |= {name: _change(getattr(section, name), inner) for name, inner in nested.items()}
    return replace(section, **own)
