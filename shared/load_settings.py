"""Settings from recipes, the environment and `--set`, checked against the tree in `settings.py`.

Strongest first: `--set a.b=c`, then `VPD_A__B`, then the recipes (later files win, and each over those that it
extends), then the defaults. Tables are merged key by key onto the defaults, so a source's URL can be changed alone; the
value `none` stands for "nothing", and removes an entry of a table with names of one's own
(`--set feedback.sources.human=none`). Empty environment variables count as unset. Whatever cannot be used raises
`SettingsError` with one sentence.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from shared import settings_tree as tree
from shared.errors import SettingsError
from shared.settings import Settings
from shared.settings_layers import Layer, Raw, environment_layers, override_layer, recipe_layers

_NONE = "none"


@dataclass(frozen=True)
class Resolved:
    """Settings, and for every key that is not at its default where its value came from."""

    settings: Settings
    origins: dict[str, str]


def load_settings(
    recipes: Sequence[Path] = (), overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> Settings:
    """Read, merge and check. `overrides` are "a.b=c". Raises `SettingsError`."""
    return resolve_settings(recipes, overrides, environ).settings


def resolve_settings(
    recipes: Sequence[Path | Layer] = (), overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> Resolved:
    """As `load_settings`, with the origin of each value; a recipe may be a table already. Raises `SettingsError`."""
    layers = [
        *(layer for recipe in recipes for layer in _layers_of(recipe)),
        *environment_layers(environ),
        *(override_layer(override) for override in overrides),
    ]
    tags = _tags(layers)
    merged = _defaults(tags)
    origins: dict[str, str] = {}
    for layer in layers:
        value = _Checker(layer, tags).section(layer.value, tree.ROOT, ())
        _merge(merged, value)
        for key in _leaf_keys(value):
            origins = {k: v for k, v in origins.items() if not k.startswith(f"{key}.")} | {key: layer.origin}
    _drop_removed(merged, tree.ROOT)
    try:
        return Resolved(Settings.model_validate(merged), origins)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentences(error, origins)) + ".") from None


def _layers_of(recipe: Path | Layer) -> list[Layer]:
    return [recipe] if isinstance(recipe, Layer) else recipe_layers(Path(recipe))


def public_settings(settings: Settings) -> dict[str, Any]:
    """The tree as JSON values without its secrets (null). As a `.json` recipe it gives the same settings again."""
    public = settings.model_dump(mode="json")
    for path, _ in _secrets(settings):
        _put(public, path, None)
    for name in Settings().feedback.sources:
        public["feedback"]["sources"].setdefault(name, None)
    return public


def secret_environment(settings: Settings) -> dict[str, str]:
    """The secrets that are set, as environment variables: what `public_settings` leaves out."""
    return {tree.env_name(path): secret.get_secret_value() for path, secret in _secrets(settings)}


# ------------------------------------------------------------------------------------------------------- checking


class _Checker:
    """Walks one layer along the tree: types raw text, refuses unknown keys."""

    def __init__(self, layer: Layer, tags: Mapping[tree.Path, str]) -> None:
        self._layer = layer
        self._tags = tags

    def section(self, value: Any, section: tree.Section, path: tree.Path) -> dict[str, Any]:
        table = self._table(value, path)
        chosen = section.variant(self._tags.get(path))
        children = chosen.children()
        for name, item in table.items():
            if name not in children:
                raise SettingsError(self._unknown((*path, name), item, list(children), self._tags.get(path)))
        return {name: self._any(item, children[name], (*path, name)) for name, item in table.items()}

    def _any(self, value: Any, node: tree.Node, path: tree.Path) -> Any:
        if isinstance(node, tree.Section):
            return self._section_or_none(value, node, path) if node.optional else self.section(value, node, path)
        if isinstance(node, tree.Mapping):
            table = self._table(value, path)
            return {name: self._section_or_none(item, node.value, (*path, name)) for name, item in table.items()}
        return self._leaf(value, node, path)

    def _section_or_none(self, value: Any, section: tree.Section, path: tree.Path) -> dict[str, Any] | None:
        plain = value.parsed() if isinstance(value, Raw) else value
        return None if plain in (None, _NONE) else self.section(value, section, path)

    def _leaf(self, value: Any, leaf: tree.Leaf, path: tree.Path) -> Any:
        if isinstance(value, Raw):
            parsed = value.parsed()
            value = value.text if leaf.textual and not isinstance(parsed, str) else parsed
        if isinstance(value, dict):
            inner = ".".join([*path, next(iter(value), "")])
            raise SettingsError(
                f"{self._layer.spell(path)} is one value, {leaf.expectation()}, so {inner} cannot be set "
                f"(from {self._layer.origin})."
            )
        return None if leaf.optional and value in (_NONE, "") else value

    def _table(self, value: Any, path: tree.Path) -> dict[str, Any]:
        plain = value.parsed() if isinstance(value, Raw) else value
        if isinstance(plain, dict):
            return plain
        where = self._layer.spell(path)
        example = self._layer.spell((*path, next(iter(_names_below(path)), "name")))
        raise SettingsError(
            f"{where} is a group of settings, set one of them, like {example} (from {self._layer.origin})."
        )

    def _unknown(self, path: tree.Path, value: Any, known: list[str], tag: str | None) -> str:
        origin = "" if self._layer.environment else f" (from {self._layer.origin})"
        owner = f" of {'.'.join(path[:-1])} {tag!r}" if tag else ""
        below = _only_keys(value)
        near = [
            name
            for name in difflib.get_close_matches(path[-1], known, n=3, cutoff=0.6)
            # A group of a near name that lacks what was set in it was not meant.
            if not below or {below[0], "NAME"} & set(_names_below((*path[:-1], name)))
        ]
        guess = (*path[:-1], near[0]) if near else None if tag else _guess((*path, *below))
        hint = f"did you mean {self._layer.spell(guess)}?" if guess else f"it can be {', '.join(known)}."
        shown = path if near else (*path, *below)
        return f"{self._layer.spell(shown)} is not a setting{owner}{origin}; {hint}"


def _only_keys(value: Any) -> tree.Path:
    """The keys down a chain of tables with one entry each, as flags and variables make them."""
    if isinstance(value, dict) and len(value) == 1:
        (name, inner), *_ = value.items()
        return (name, *_only_keys(inner))
    return ()


def _guess(path: tree.Path) -> tree.Path | None:
    """The key that was probably meant: the same name elsewhere, or a near key anywhere."""
    everywhere = list(tree.keys())
    same = [key for key in everywhere if key[-1] == path[-1]]
    if same:
        return same[0]
    by_text = {"_".join(key): key for key in everywhere}
    texts = difflib.get_close_matches("_".join(path), by_text, n=1, cutoff=0.7)
    return by_text[texts[0]] if texts else None


def _names_below(path: tree.Path) -> list[str]:
    node: tree.Node = tree.ROOT
    for name in path:
        node = node.children()[name] if isinstance(node, tree.Section) else getattr(node, "value", tree.ROOT)
    return list(node.children()) if isinstance(node, tree.Section) else ["NAME"]


def _sentences(error: ValidationError, origins: Mapping[str, str]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path, leaf = _locate(tuple(str(part) for part in problem["loc"]))
        key = ".".join(path)
        parent = key.rpartition(".")[0] if problem["type"] == "missing" else key
        near = sorted({origin for k, origin in origins.items() if k == key or k.startswith(f"{parent}.")})
        origin = f" (from {', '.join(near)})" if near else ""
        if problem["type"] == "value_error":
            # What concerns the whole tree has no key of its own; its sentence names the keys.
            where = f"{key}: " if key else ""
            yield f"{where}{problem['msg'].removeprefix('Value error, ')}{origin}"
        elif problem["loc"][-1] == "[key]":
            yield f"{key} must be named with at most 32 lower-case letters, digits and _, a letter first{origin}"
        elif problem["type"] == "missing":
            yield f"{key} must be set, it has no default{origin}"
        else:
            shown = "" if leaf is None or leaf.secret else f", not {problem['input']!r}"
            yield f"{key} must be {leaf.expectation() if leaf else problem['msg']}{shown}{origin}"


def _locate(loc: tree.Path) -> tuple[tree.Path, tree.Leaf | None]:
    """The key a pydantic location means (without the tags of unions), and its leaf if it is one."""
    node: tree.Node = tree.ROOT
    path: list[str] = []
    for part in loc:
        if isinstance(node, tree.Section) and len(node.models) > 1 and part in node.tags():
            node = node.variant(part)
        elif isinstance(node, tree.Section) and part in node.children():
            node = node.children()[part]
            path.append(part)
        elif isinstance(node, tree.Mapping):
            node = node.value
            path.append(part)
    return tuple(path), node if isinstance(node, tree.Leaf) else None


# -------------------------------------------------------------------------------------------------------- merging


def _tags(layers: Sequence[Layer]) -> dict[tree.Path, str]:
    """The member of each union that the strongest layer names, by the union's path."""
    tags: dict[tree.Path, str] = {}
    for name, node in tree.ROOT.children().items():
        if not isinstance(node, tree.Section) or node.discriminator is None:
            continue
        tag: Any = getattr(Settings.model_fields[name].default, node.discriminator)
        origin = ""
        for layer in layers:
            table = layer.value.get(name)
            plain = table.parsed() if isinstance(table, Raw) else table
            if isinstance(plain, dict) and node.discriminator in plain:
                given = plain[node.discriminator]
                tag, origin = (given.text.strip("\"'") if isinstance(given, Raw) else given), layer.origin
        if tag not in node.tags():
            near = difflib.get_close_matches(str(tag), node.tags(), n=1)
            hint = f", perhaps {near[0]}" if near else ""
            known = ", ".join(node.tags())
            raise SettingsError(
                f"{name}.{node.discriminator} must be one of {known}, not {tag!r} (from {origin}){hint}"
            )
        tags[(name,)] = tag
    return tags


def _defaults(tags: Mapping[tree.Path, str]) -> dict[str, Any]:
    defaults = Settings().model_dump()
    children = tree.ROOT.children()
    for (name,), tag in tags.items():
        section = children[name]
        if isinstance(section, tree.Section):
            defaults[name] = section.variant(tag).models[0]().model_dump()
    return defaults


def _merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _drop_removed(value: dict[str, Any], section: tree.Section) -> None:
    for name, child in section.children().items():
        if isinstance(child, tree.Mapping):
            value[name] = {key: entry for key, entry in value[name].items() if entry is not None}
        elif isinstance(child, tree.Section) and value.get(name) is not None:
            _drop_removed(value[name], child)


def _leaf_keys(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _leaf_keys(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _secrets(model: BaseModel, path: tree.Path = ()) -> Iterator[tuple[tree.Path, SecretStr]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretStr):
            yield (*path, name), value
        elif isinstance(value, BaseModel):
            yield from _secrets(value, (*path, name))
        elif isinstance(value, dict):
            for key, entry in value.items():
                yield from _secrets(entry, (*path, name, key))


def _put(target: dict[str, Any], path: tree.Path, value: Any) -> None:
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
