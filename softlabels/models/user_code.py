"""Identity of a model that is code of the user.

Weights alone do not name such a model: the same weights behind other preprocessing give other labels. So the digest
covers the source text of the function or class, of the user's functions it refers to, and the weights of every network
it can reach: as an attribute, in a closure, or as a global variable. Installed packages and files are not covered.
"""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from softlabels.models.digest import digest_of, tensors_of

MAX_DEPTH = 8
"""Steps from the model to what it refers to."""

MAX_ENTRIES = 1_000
"""Entries of a list or mapping that are looked at."""

NOT_COVERED = "not covered: installed packages, files, and tensors outside of networks"


@dataclass(frozen=True)
class CodeIdentity:
    """Digest of a model that is code of the user.

    Attributes:
        digest: BLAKE3, 64 hexadecimal digits.
        covers: Parts that the digest covers, in words.
    """

    digest: str
    covers: tuple[str, ...]


def identify(value: object, spec: str) -> CodeIdentity:
    """Return the identity of a network or function of the user.

    Args:
        value: The network or function.
        spec: MODEL specification; ``python:MODULE:NAME`` covers the text of the whole module.

    Example:
        >>> identify(nn.Linear(3, 2), "python:net").covers[1]
        'parameters and buffers of model (2 tensors)'
    """
    references = _References()
    references.visit(value, "model", 0)
    kind, _, rest = spec.partition(":")
    module = sys.modules.get(rest.partition(":")[0]) if kind == "python" else None
    if module is not None and (text := _text(module)) is not None and _is_of_user(module):
        references.sources[f"module {module.__name__}"] = text
    tensors: dict[str, Tensor] = {}
    covers = [f"specification {spec}"]
    covers += [f"source text of {name}" for name in sorted(references.sources)]
    for name, network in sorted(references.networks.items()):
        state = tensors_of(network)
        covers.append(f"parameters and buffers of {name} ({len(state)} tensors)")
        tensors |= {f"{name}/{key}": tensor for key, tensor in state.items()}
    covers += [f"not covered: source text of {name}, which is not available" for name in sorted(references.unreadable)]
    return CodeIdentity(digest_of({"spec": spec}, tensors, references.sources), (*covers, NOT_COVERED))


@dataclass
class _References:
    """Everything that a model refers to, as far as it can be followed."""

    sources: dict[str, str] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    _seen: dict[int, object] = field(default_factory=dict)

    def visit(self, value: object, name: str, depth: int) -> None:
        """Add a value and what it refers to; ``name`` says how it was reached."""
        if depth > MAX_DEPTH or id(value) in self._seen or isinstance(value, types.ModuleType | str | bytes | Tensor):
            return
        self._seen[id(value)] = value  # a reference, so that no other object can get this id
        if isinstance(value, nn.Module):
            self.networks[name] = value
            for layer in value.modules():
                self._add_source(type(layer))
        elif isinstance(value, types.FunctionType | type):
            self._add_source(value)
        else:
            self._add_source(type(value))
        for child_name, child in _children(value, name):
            self.visit(child, child_name, depth + 1)

    def _add_source(self, value: type | types.FunctionType) -> None:
        """Add the source text of a class with its bases, or of a function, if the user wrote it."""
        for code in value.__mro__ if isinstance(value, type) else (value,):
            if not _is_of_user(code):
                continue
            name = f"{code.__module__}.{code.__qualname__}"
            text = _text(code)
            if text is None:
                self.unreadable.add(name)
            else:
                self.sources[name] = text


def _children(value: object, name: str) -> Iterator[tuple[str, object]]:
    """Yield what a value refers to, each with the way it was reached."""
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", entry) for key, entry in islice(value.items(), MAX_ENTRIES))
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{index}]", entry) for index, entry in enumerate(value[:MAX_ENTRIES]))
    elif isinstance(value, functools.partial):
        yield from ((f"{name}.{key}", getattr(value, key)) for key in ("func", "args", "keywords"))
    elif isinstance(value, types.MethodType):
        yield from ((f"{name}.self", value.__self__), (f"{name}.function", value.__func__))
    elif isinstance(value, types.FunctionType):
        yield from _variables(value) if _is_of_user(value) else ()
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from _attributes(value, name)


def _attributes(value: object, name: str) -> Iterator[tuple[str, object]]:
    """Yield the attributes of an object: all if its class is the user's, networks and functions in other cases."""
    layers = value.named_modules() if isinstance(value, nn.Module) else [("", value)]
    everything = _is_of_user(type(value)) and not isinstance(value, nn.Module)
    for path, layer in layers:
        for key, entry in vars(layer).items():
            if everything or isinstance(entry, nn.Module | types.FunctionType | types.MethodType | functools.partial):
                yield ".".join(filter(None, (name, path, key))), entry


def _variables(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the variables of enclosing scopes and of the module that a function refers to."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{function.__qualname__}.{name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f"{function.__module__}.{name}", function.__globals__[name]
    yield from ((f"{function.__qualname__} default {i}", value) for i, value in enumerate(function.__defaults__ or ()))


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Return the folders of the standard library and of installed packages."""
    return tuple({Path(path).resolve() for name, path in sysconfig.get_paths().items() if "lib" in name})


def _is_of_user(value: Any) -> bool:
    """Return True if a module, class or function was written by the user, not installed."""
    name = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
    if name.partition(".")[0] in {"builtins", "torch", "numpy", "softlabels"}:
        return False
    module = value if isinstance(value, types.ModuleType) else sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        return name not in sys.builtin_module_names
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed()) and "site-packages" not in path.parts


def _text(value: Any) -> str | None:
    """Return the source text of a module, class or function; None if it is not available."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError, SyntaxError):
        return None
