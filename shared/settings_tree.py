"""The settings tree as data: its keys, types, defaults and meanings, read off the models in `settings.py`.

Serves the loader (which keys exist, what a value should look like) and the documentation (the settings table).
Loads nothing: `load_settings.py` does.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shared.settings import Settings

Path: TypeAlias = tuple[str, ...]
Kind: TypeAlias = tuple[Any, tuple[Any, ...]]
"""One alternative of an annotation, and the constraints on it."""


@dataclass(frozen=True)
class Leaf:
    """One value: what it may be."""

    kinds: tuple[Kind, ...]

    @property
    def optional(self) -> bool:
        """Whether `none` is a value of it."""
        return any(kind in (None, type(None)) for kind, _ in self.kinds)

    @property
    def textual(self) -> bool:
        """Whether nothing but text fits, so that `12` is the text "12"."""
        return all(_is_text(kind) for kind, _ in self.kinds if kind not in (None, type(None)))

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown."""
        return any(kind is SecretStr for kind, _ in self.kinds)

    def expectation(self) -> str:
        """What a value must be, as a phrase: "an integer >= 1"."""
        return " or ".join(_phrase(kind, constraints) for kind, constraints in self.kinds)


@dataclass(frozen=True)
class Section:
    """A table of named settings. A union has several models, told apart by the value of `discriminator`; an `optional`
    table may also be `none`."""

    models: tuple[type[BaseModel], ...]
    discriminator: str | None = None
    optional: bool = False

    def variant(self, tag: str | None) -> Section:
        """The member of the union that `tag` names; the section itself where it is no union or the tag is unknown."""
        chosen = [model for model in self.models if self.tag_of(model) == tag]
        return Section((chosen[0],), self.discriminator) if self.discriminator and chosen else self

    def tag_of(self, model: type[BaseModel]) -> str | None:
        """The discriminator's value that selects `model`."""
        return model.model_fields[self.discriminator].default if self.discriminator else None

    def tags(self) -> list[str]:
        """The values of the discriminator, in the order of declaration."""
        return [str(self.tag_of(model)) for model in self.models]

    def children(self) -> dict[str, Node]:
        """Nodes by name; for a union of several models those of all of them."""
        return {name: node_of(field) for model in self.models for name, field in model.model_fields.items()}


@dataclass(frozen=True)
class Mapping:
    """A table whose keys the user chooses; every value is a `Section`."""

    value: Section


Node: TypeAlias = Leaf | Section | Mapping
ROOT = Section((Settings,))


@dataclass(frozen=True)
class SettingRow:
    """One line of the settings table; every cell is text for people."""

    key: str
    env: str
    type: str
    default: str
    meaning: str


def node_of(field: FieldInfo) -> Node:
    """What kind of node a model's field is."""
    discriminator = field.discriminator if isinstance(field.discriminator, str) else None
    return _node(field.annotation, tuple(field.metadata), discriminator)


def env_name(path: Iterable[str]) -> str:
    """The environment variable of a key: ("run", "steps") -> VPD_RUN__STEPS."""
    return "VPD_" + "__".join(path).upper()


def keys(node: Node = ROOT, path: Path = ()) -> Iterator[Path]:
    """Every leaf's path; the user's own part of a mapping is written NAME."""
    if isinstance(node, Leaf):
        yield path
    elif isinstance(node, Mapping):
        yield from keys(node.value, (*path, "NAME"))
    else:
        for name, child in node.children().items():
            yield from keys(child, (*path, name))


def describe_settings() -> list[SettingRow]:
    """One row per setting, in the order of declaration."""
    return list(_rows(ROOT, Settings(), ()))


def settings_table() -> str:
    """The rows as a Markdown table."""
    head = "| setting | environment | type | default | meaning |\n|---|---|---|---|---|\n"
    lines = (
        f"| `{row.key}` | `{row.env}` | {_cell(row.type)} | {_cell(row.default)} | {_cell(row.meaning)} |"
        for row in describe_settings()
    )
    return head + "\n".join(lines) + "\n"


def _node(annotation: Any, constraints: tuple[Any, ...], discriminator: str | None) -> Node:
    kinds = tuple(_kinds(annotation, constraints))
    models = tuple(kind for kind, _ in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    if models:
        return Section(models, discriminator, optional=any(kind in (None, type(None)) for kind, _ in kinds))
    container: Any = get_origin(kinds[0][0])
    if container is dict:
        value = _node(get_args(kinds[0][0])[1], (), None)
        if isinstance(value, Section):
            return Mapping(value)
    return Leaf(kinds)


def _kinds(annotation: Any, constraints: tuple[Any, ...] = ()) -> Iterator[Kind]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        unpacked = [item for one in extra for item in (one.metadata if isinstance(one, FieldInfo) else [one])]
        yield from _kinds(inner, (*unpacked, *constraints))
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _kinds(argument, constraints)
    else:
        yield annotation, constraints


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return kind in (str, SecretStr)


def _phrase(kind: Any, constraints: tuple[Any, ...]) -> str:
    if get_origin(kind) is Literal:
        values = [str(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    words: dict[Any, str] = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        SecretStr: "secret text",
        list[str]: "a list of text",
    }
    word = "none" if kind in (None, type(None)) else words.get(kind, str(kind))
    limits = [limit for constraint in constraints for limit in _limits(constraint)]
    return f"{word} {' and '.join(limits)}" if limits else word


def _limits(constraint: Any) -> Iterator[str]:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        bound = getattr(constraint, attribute, None)
        if bound is not None:
            yield f"{sign} {bound}"
    pattern = getattr(constraint, "pattern", None)
    if pattern is not None:
        yield f"matching `{pattern}`"


def _rows(section: Section, default: BaseModel, path: Path) -> Iterator[SettingRow]:
    for name, child in section.children().items():
        here = (*path, name)
        value = getattr(default, name, None)
        if isinstance(child, Section):
            union = len(child.models) > 1
            yield from _union_rows(child, here) if union else _rows(child, value or child.models[0](), here)
        elif isinstance(child, Mapping):
            yield from _mapping_rows(child, value or {}, here)
        else:
            field = next(model.model_fields[name] for model in section.models if name in model.model_fields)
            yield _row(here, child, _show(value), field.description or "")


def _union_rows(section: Section, path: Path) -> Iterator[SettingRow]:
    """One row per key, even where several members have it: its default is then given for each."""
    found: dict[str, dict[str, SettingRow]] = {}
    for tag in section.tags():
        member = section.variant(tag)
        for row in _rows(member, member.models[0](), path):
            found.setdefault(row.key, {})[tag] = row
    selector = ".".join((*path, section.discriminator or ""))
    for key, by_tag in found.items():
        row = next(iter(by_tag.values()))
        if key == selector:
            first = section.tags()[0]
            yield SettingRow(key, row.env, "one of " + ", ".join(section.tags()), first, "Which one is used.")
            continue
        defaults = {tag: one.default for tag, one in by_tag.items()}
        same = len(set(defaults.values())) == 1
        default = row.default if same else ", ".join(f"{value} ({tag})" for tag, value in defaults.items())
        only = "" if len(by_tag) == len(section.tags()) else f" Only for {' and '.join(by_tag)}."
        yield SettingRow(key, row.env, row.type, default, row.meaning + only)


def _mapping_rows(mapping: Mapping, default: dict[str, BaseModel], path: Path) -> Iterator[SettingRow]:
    """The rows of one entry, with the defaults of the entries that exist unless set otherwise."""
    model = mapping.value.models[0]
    for name, child in mapping.value.children().items():
        field = model.model_fields[name]
        shown = "required" if field.is_required() else _show(field.get_default(call_default_factory=True))
        special = [f"{_show(getattr(v, name))} ({k})" for k, v in default.items() if _show(getattr(v, name)) != shown]
        if isinstance(child, Leaf):
            yield _row((*path, "NAME", name), child, "; ".join([shown, *special]), field.description or "")


def _row(path: Path, leaf: Leaf, default: str, meaning: str) -> SettingRow:
    expected = leaf.expectation().removeprefix("an ").removeprefix("a ")
    return SettingRow(".".join(path), env_name(path), expected, default, " ".join(meaning.split()))


def _show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("'", '"') if isinstance(value, str) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
