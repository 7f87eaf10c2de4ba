"""Reads `plant.toml` and reports every problem at once: file, key, value and what is allowed."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from runtime.config import Asset, ConfigurationError, Plant, Tag, merge_into, merged_for
from runtime.patterns import named, problems

#: What of a configuration decides what results are, and so what a what-if may change.
WHAT_IF = ("tags", "assets", "twin")


def load(path: Path | None) -> Plant:
    """The checked configuration; the defaults where `path` is None. Raises ConfigurationError."""
    return Plant() if path is None else _checked(path, _read(path))


def load_changed(path: Path | None, changes: Path) -> Plant:
    """The checked configuration with the keys of the file `changes` over it. Raises ConfigurationError.

    Allowed there are the tables of WHAT_IF. A pattern that both files have is merged key by key.
    """
    text, changed = {} if path is None else _read(path), _read(changes)
    foreign = [key for key in changed if key not in WHAT_IF]
    if foreign:
        allowed = ", ".join(WHAT_IF)
        raise ConfigurationError(
            [f"{changes}: {key}: cannot be changed here, allowed are {allowed}" for key in foreign]
        )
    if path is not None:
        _checked(path, text)
    _checked(changes, changed)
    merge_into(text, changed)
    return _checked(changes, text)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: is not valid TOML ({error})"]) from error


def _checked(path: Path, text: dict[str, Any]) -> Plant:
    found = _problems(path, Plant, text, ())
    for table, model in (("tags", Tag), ("assets", Asset)):
        patterns = text.get(table, {})
        for pattern, values in patterns.items() if isinstance(patterns, dict) else ():
            found += _problems(path, model, values, (table, _quoted(pattern)))
    if not found:
        found = _clashes(path, "tags", Tag, text.get("tags", {})) + _clashes(
            path, "assets", Asset, text.get("assets", {})
        )
    if found:
        raise ConfigurationError(found)
    return Plant.model_validate(text)


def _clashes(path: Path, table: str, model: type[BaseModel], patterns: dict[str, dict[str, Any]]) -> list[str]:
    """What patterns say together that each may say alone."""
    return problems(
        patterns, lambda group, name: _problems(path, model, merged_for(name, patterns), (named(table, group),))
    )


def _problems(path: Path, model: type[BaseModel], values: Any, where: tuple[str, ...]) -> list[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [_sentence(path, model, where, e) for e in error.errors(include_url=False)]
    return []


def _sentence(path: Path, model: type[BaseModel], where: tuple[str, ...], error: Any) -> str:
    key = ".".join((*where, *map(_quoted, error["loc"])))
    if error["type"] == "extra_forbidden":
        known = ", ".join(_keys_at(model, error["loc"][:-1]))
        return f"{path}: {key}: unknown key, allowed are {known}"
    value = "" if error["type"] == "missing" or isinstance(error["input"], dict) else f" = {error['input']!r}"
    return f"{path}: {key}{value}: {error['msg'].removeprefix('Value error, ')}"


def _quoted(part: str | int) -> str:
    return f'"{part}"' if "/" in str(part) or "*" in str(part) else str(part)


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names of the keys allowed at a place, by walking the model's schema."""
    schema = model.model_json_schema()
    here = schema
    for part in location:
        here = _resolve(schema, here["items"] if isinstance(part, int) else here["properties"][part])
    return list(here.get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for option in (node, *node.get("anyOf", ()), *node.get("allOf", ())):
        if "$ref" in option:
            found: dict[str, Any] = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
            return found
    return node
