"""The page of everything that a config of `train-policy` can say, from its JSON schema."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from training.policy.config import PolicyConfig

_HEAD = """\
# The config of `train-policy`

<!-- Written by `python -m scripts.docs`; do not edit. -->

A TOML file. Every key may be left out unless it says `required`, and `--set section.key=value`
changes one for a single run. An unknown key is refused. `train-policy CONFIG --dry-run` shows the
whole config with its defaults.
"""
_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}
_BEYOND = {"objectives": "[objectives](objectives.md)"}
"""Fields with a page of their own."""


def settings_table(model: type[BaseModel], skip: Sequence[str] = ()) -> list[str]:
    """Rows of keys of a model: value, default, meaning."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    rows = [
        f"| `{name}` | {_values(schema['properties'][name], definitions, name)} "
        f"| {_default(info)} | {' '.join((info.description or '').split())} |"
        for name, info in model.model_fields.items()
        if name not in skip
    ]
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def config_page() -> str:
    """Every key of `PolicyConfig` and its sections: values, default, meaning."""
    return "\n".join([_HEAD, *_section("", PolicyConfig)])


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """A heading, what the section is, its keys, and the sections in it."""
    named = [(f"{path}.{name}".lstrip("."), name) for name in model.model_fields]
    yield _table(path or "The file", model)
    for inner, name in named:
        models = [] if name in _BEYOND else _models(model.model_fields[name].annotation)
        if len(models) > 1:
            yield f"## `{inner}`\n\nOne of the following, by its `type`.\n"
            for kind in models:
                yield _table(kind.model_fields["type"].default, kind, level=3)
        else:
            for kind in models:
                yield from _section(inner, kind)


def _table(title: str, model: type[BaseModel], level: int = 2) -> str:
    heading = title if title == "The file" else f"`{title}`"
    about = inspect.getdoc(model) or ""
    lines = [f"{'#' * level} {heading}\n", f"{about}\n"]
    return "\n".join([*lines, *settings_table(model)])


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str) -> str:
    """What a key may be, in words, from its JSON schema."""
    if name in _BEYOND:
        return _BEYOND[name]
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "properties" in schema or "oneOf" in schema:
        return "section, see below"
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(_values(kind, definitions, name) for kind in kinds)
    if schema.get("type") == "array":
        return "list of texts"
    kind = {"object": "table", "string": "text"}.get(schema["type"], schema["type"])
    bounds = [f"{word} {schema[key]:g}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _default(info: Any) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its own"
    if isinstance(value, tuple):
        value = [one.model_dump()["type"] if isinstance(one, BaseModel) else one for one in value]
    return f"`{json.dumps(value, default=str)}`"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, in its order."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
