"""Options behind the text of a MODEL specification: ``hf:PATH,dtype=bfloat16`` and ``openai:URL#MODEL,k=20``."""

from __future__ import annotations

import re
from collections.abc import Collection

from softlabels.errors import InvalidArgument
from softlabels.models.kind import ModelSpec, Option


def split_options(spec: ModelSpec, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the text of a specification without its options, and the options.

    Args:
        spec: Specification of a kind whose text is free.
        names: Names of the options.

    Raises:
        InvalidArgument: An option is unknown, or repeated.

    Example:
        >>> split_options(ModelSpec("hf", text="./model,dtype=float32"), ("dtype",))
        ('./model', {'dtype': 'float32'})
    """
    text, options = spec.text, dict[str, str]()
    while match := re.fullmatch(r"(.+),([a-z_]+)=([^,]*)", text, flags=re.DOTALL):
        text, name, value = match.groups()
        if name not in names or name in options:
            problem = "repeated" if name in options else "unknown"
            raise InvalidArgument(f"MODEL {str(spec)!r}: {problem} option {name!r}; expected {', '.join(names)}")
        options[name] = value
    return text, options


def check_number(spec: str, name: str, value: str | None, option: Option) -> int | float:
    """Return the value of a numeric option.

    Args:
        spec: MODEL specification that messages name.
        name: Name of the option.
        value: Text of the option; None: its default.
        option: Default and range.

    Raises:
        InvalidArgument: The value is no number in the range.
    """
    from softlabels.models.spec import check_option

    return check_option(option, option.default if value is None else value, f"MODEL {spec!r}: {name}")
