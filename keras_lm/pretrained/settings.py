"""The settings of a `config.json` as arguments of a model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_lm.errors import UserError
from keras_lm.pretrained.architectures import ACTIVATIONS, Architecture


def arguments(architecture: Architecture, config: Mapping[str, Any], dropout: float | None = None) -> dict[str, Any]:
    """The arguments of `architecture.build` for what a `config.json` holds.

    Args:
        architecture: The one that `config` names.
        config: Settings of transformers; for one that is not there, its default is taken.
        dropout: Share dropped in training, in place of the checkpoint's own.

    Raises:
        UserError: a setting that is not supported, or is not what it should be; the message names it.

    Example:

    >>> from keras_lm.pretrained.architectures import GPT2
    >>> arguments(GPT2, {"n_embd": 64, "n_head": 4, "tie_word_embeddings": False})["embedding_dim"]
    64
    """
    config = _flat(config)
    for name, value in architecture.required.items():
        if config.get(name, value) != value:
            raise UserError(f"{name} {config[name]!r} is not supported, only {value!r}")
    found: dict[str, tuple[str, Any]] = {}
    for name, (argument, default) in architecture.settings.items():
        value = _checked(name, argument, config.get(name, default))
        if argument in found and found[argument][1] != value:
            raise UserError(f"{found[argument][0]} {found[argument][1]!r} with {name} {value!r} is not supported: they must be the same")
        found[argument] = (name, value)
    _, window = found.pop("window", (None, None))
    if window is not None and window < found["context_length"][1]:
        raise UserError(f"sliding_window {window} is not supported where it is less than max_position_embeddings")
    values = {argument: value for argument, (_, value) in found.items()}
    return {**architecture.implied, **values, "dropout": _dropout(architecture, config) if dropout is None else dropout}


def settings(architecture: Architecture, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` has to hold for a model of `architecture.build(**values)`: `arguments`, the other way round.

    Example:

    >>> from keras_lm.pretrained.architectures import LLAMA
    >>> settings(LLAMA, {**arguments(LLAMA, {}), "activation": "gelu_tanh"})["hidden_act"]
    'gelu_new'
    """
    written: dict[str, Any] = {"model_type": architecture.model_type}
    for name, (argument, _) in architecture.settings.items():
        value = values.get(argument)
        if argument == "activation":
            value = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == value)
        elif argument == "pad_id" and value < 0:
            value = None
        written[name] = value
    # Where one name is all there is, it is of the attention alone, which has no other dropout beside it here.
    written |= {name: values["dropout"] if len(architecture.dropouts) > 1 else 0.0 for name in architecture.dropouts}
    return written


def conflicts(architecture: Architecture, values: Mapping[str, Any]) -> list[str]:
    """What stands against writing a model of these arguments in this form, a few words each."""
    *known, last = dict.fromkeys(ACTIVATIONS.values())
    wanted = {"num_kv_heads": values["num_heads"], "head_dim": values["embedding_dim"] // values["num_heads"], **architecture.implied}
    if values["activation"] not in (*known, last):
        wanted["activation"] = f"{', '.join(known)} or {last}"
    free = {argument for argument, _ in architecture.settings.values()} - {"activation"}
    if architecture.always_biased:
        free.add("use_bias")
    return [
        f"{name} is {values[name]!r}, {architecture.model_type} has {value!r}"
        for name, value in wanted.items()
        if name not in free and name in values and values[name] != value
    ]


_OPTIONAL = ("feed_forward_dim", "num_kv_heads", "head_dim", "window", "pad_id")
_TRUTHS = ("tied", "use_bias")
_NUMBERS = ("epsilon", "rotary_base")


def _checked(name: str, argument: str, value: Any) -> Any:
    """A setting's value as an argument, if it is one."""
    if value is None and argument in _OPTIONAL:
        return -1 if argument == "pad_id" else None  # an id that no token has
    if argument == "activation":
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise UserError(f"{name} {value!r} is not supported, only {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if argument == "dropout":
        good, kind = number and 0 <= value < 1, "a number from 0 to less than 1"
    elif argument in _TRUTHS:
        good, kind = isinstance(value, bool), "true or false"
    elif argument in _NUMBERS:
        good, kind = number and value > 0, "a number over 0"
    else:
        least = 0 if argument == "pad_id" else 1
        good, kind = number and isinstance(value, int) and value >= least, f"a whole number, {least} or more"
    if not good:
        raise UserError(f"{name} must be {kind}, got {value!r}")
    return value


def _dropout(architecture: Architecture, config: Mapping[str, Any]) -> float:
    values = {name: _checked(name, "dropout", config.get(name, default)) for name, default in architecture.dropouts.items()}
    if len(values) == 1:
        values["the other dropouts"] = 0.0
    if len(set(values.values())) > 1:
        described = ", ".join(f"{name} {value!r}" for name, value in values.items())
        raise UserError(f"{described}: a model here drops the same share everywhere; say which by dropout=")
    return float(next(iter(values.values())))


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of rotary positions stand in `rope_parameters` since transformers 5, before that beside the others and in `rope_scaling`."""
    rotary: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        values = config.get(name) or {}
        if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
            raise UserError(f"{name} {values!r} is not supported: one set of settings for all layers is")
        rotary |= values
    if "type" in rotary:
        rotary["rope_type"] = rotary.get("rope_type", rotary["type"])
    return {**config, **rotary}
