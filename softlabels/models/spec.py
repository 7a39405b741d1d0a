"""Parser of MODEL specifications: ``KIND:option=value,option=value`` or ``KIND:TEXT``."""

from __future__ import annotations

import re
from pathlib import Path

from softlabels.errors import InvalidArgument
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.models.kinds import kinds
from softlabels.suggestions import suggest


def parse(text: str) -> ModelSpec:
    """Parse a MODEL specification.

    Args:
        text: Specification, e.g. ``cnn:width=64,depth=3``, ``run:DIR`` or ``python:MODULE:NAME``.

    Returns:
        The kind, and its options.

    Raises:
        InvalidArgument: The kind or an option is unknown, or a value is out of range; lists what exists.

    Example:
        >>> str(parse("mlp:width=64"))
        'mlp:width=64,depth=2'
    """
    kind = kind_of(text)
    _, _, rest = text.partition(":")
    if kind.options is None:
        if not rest:
            raise InvalidArgument(f"MODEL {text!r}: the text after the colon is missing; expected {kind.form}")
        return ModelSpec(kind.name, {}, rest)
    options = kind.defaults()
    for item in filter(None, rest.split(",")):
        name, _, value = item.partition("=")
        if name not in kind.options:
            raise InvalidArgument(f"MODEL {text!r}: unknown option {name!r}; expected {', '.join(kind.options)}")
        options[name] = check_option(kind.options[name], value, f"MODEL {text!r}: {name}")
    omitted = {name for name, option in kind.options.items() if option.omit_default and options[name] == option.default}
    return ModelSpec(kind.name, {name: value for name, value in options.items() if name not in omitted})


def kind_of(text: str) -> Kind:
    """Return the kind that a specification names.

    Args:
        text: MODEL specification.

    Raises:
        InvalidArgument: There is no such kind; names the nearest one.
    """
    name = text.partition(":")[0]
    if name in kinds():
        return kinds()[name]
    forms = ", ".join(kind.form for kind in kinds().values())
    raise InvalidArgument(f"MODEL {text!r}: unknown kind, got {name!r}; expected {forms}{_hint(text)}")


def _hint(text: str) -> str:
    """Return a question for a specification that lacks its kind: a directory, a file of code, or MODULE:NAME."""
    if (Path(text) / "run.json").is_file():
        return f". Did you mean 'run:{text}'?"
    if (Path(text) / "config.json").is_file():
        return f". Did you mean 'hf:{text}'?"
    module, _, name = text.partition(":")
    module = module.removesuffix(".py")
    if Path(f"{module}.py").is_file():
        return f". Did you mean 'python:{module}:{name or 'NAME'}'?"
    if near := suggest(module, kinds()):
        return near
    return f". Did you mean 'python:{text}'?" if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) else ""


def check_option(option: Option, value: object, subject: str) -> int | float:
    """Return the value of an option as a number.

    Args:
        option: Default and range.
        value: Text from a specification, or a number from a document.
        subject: First words of the message.

    Raises:
        InvalidArgument: The value is not a number of the option's type, or is out of range.
    """
    try:
        number = type(option.default)(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    # By exact type: True is no width, and 2.5 no whole number.
    exact = isinstance(number, int | float) and type(number) is type(option.default)
    if isinstance(number, int | float) and exact and option.minimum <= number <= option.maximum:
        return number
    noun = "a whole number" if isinstance(option.default, int) else "a number"
    raise InvalidArgument(
        f"{subject} is out of range, got {value!r}; expected {noun} from {option.minimum} to {option.maximum}"
    )
