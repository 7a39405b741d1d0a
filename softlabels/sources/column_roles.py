"""The choice of columns: which are inputs, label, id and split, and why the others are not used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import pyarrow as pa

from softlabels.errors import ColumnMissing, InvalidArgument, InvalidData
from softlabels.sources.arrow_types import is_image_struct, is_list, is_number, is_tensor, is_text, value_type
from softlabels.sources.protocol import LABEL_HEAD, Columns, TargetColumn, TargetKind, UnusedColumn
from softlabels.suggestions import suggest

INPUT_NAMES = ("image", "input", "inputs", "x", "features", "pixels")
LABEL_NAMES = ("label", "labels", "target", "y", "class")
SPLIT_NAME = "split"
ID_NAME = "id"

INDEX_NAME = re.compile(r"(__index_level_\d+__|Unnamed: \d+|)")
"""Names of the columns that pandas makes of an index: in Parquet, in a CSV that was read back, in a CSV."""

ALIKE_NAMES = 5
"""Columns named in a message."""

InputOption = str | Sequence[str] | None
LabelOption = str | Literal[False] | None
TargetsOption = Mapping[str, str] | None


def choose_columns(
    schema: pa.Schema,
    name: str,
    *,
    input_columns: InputOption = None,
    label_column: LabelOption = None,
    id_column: str | None = None,
    target_columns: TargetsOption = None,
    odd: Mapping[str, str] | None = None,
) -> Columns:
    """Return the roles of the columns of ``schema``: as named, else by the names that are common.

    The input is the first column named as one of INPUT_NAMES that holds lists, or that is the only number. Otherwise
    it is all numeric columns without another role, in file order. Names are compared without case and blanks.

    Args:
        schema: Names and types of the columns.
        name: Name of the data, for messages.
        input_columns: Column of inputs, or several numeric ones (also as one text, separated by commas).
        label_column: Column of hard labels; False if there is none; None to look for one of LABEL_NAMES.
        id_column: Column that names rows; None to name them by content.
        target_columns: Columns of targets by head, each with its kind behind a colon where its type does not show it
            (``angle:regression``). That of ``logits`` is the column of hard labels.
        odd: Columns that cannot be used as they are, with the reason; an error if they would be inputs by default.

    Raises:
        ColumnMissing: A named column is not there, or nothing can be the input; lists the columns.
        InvalidArgument: Several columns could have one role; lists them.
        InvalidData: Two columns have one name, or a column that looks like an input cannot be used as one.

    Example:
        >>> schema = pa.schema([("a", pa.float32()), ("note", pa.string()), ("Label", pa.int64())])
        >>> columns = choose_columns(schema, "data.parquet")
        >>> columns.inputs, columns.label, [column.name for column in columns.unused]
        (('a',), 'Label', ['note'])
    """
    names = schema.names
    check_unique(names, name)
    chosen = _input_names(input_columns, names, name)
    for option in (*chosen, label_column, id_column):
        if option is not None and option is not False:
            require_column(option, names, name)
    targets = target_roles(target_columns or {}, names, name)
    if LABEL_HEAD in targets:
        label_column = _one_label(label_column, targets.pop(LABEL_HEAD), name)
    columns_of_targets = [target.column for target in targets.values()]
    _check_roles([*chosen, *columns_of_targets], label_column, id_column, name)
    named = {*chosen, *columns_of_targets, id_column}
    free = [column for column in names if column not in named]
    default_label = None if isinstance(label_column, str) else _named_like(LABEL_NAMES, free, name)
    label = default_label if label_column is None else label_column or None
    split = _named_like((SPLIT_NAME,), [column for column in free if column != label], name)
    reasons = _unused_by_name(free, default_label if label_column is False else None, has_ids=id_column is not None)
    roles = {label, id_column, split}
    candidates = [column for column in free if column not in roles and column not in reasons]
    stacked = len(chosen) > 1
    if not chosen:
        chosen, stacked = _default_inputs(schema, candidates, name, odd or {})
    used = {*chosen, *columns_of_targets, *roles}
    unused = tuple(
        UnusedColumn(column, reasons.get(column) or _reason(schema.field(column).type, chosen))
        for column in names
        if column not in used
    )
    return Columns(
        inputs=chosen,
        label=label,
        id=id_column,
        split=split,
        unused=unused,
        stacked=stacked,
        targets=tuple(targets.values()),
    )


def _unused_by_name(columns: Sequence[str], label: str | None, *, has_ids: bool) -> dict[str, str]:
    """Return the columns that are no input because of their name, each with the reason.

    Args:
        columns: Columns that have no role by an option.
        label: Column named like a label in data without labels; None if there is none.
        has_ids: True if another column names the rows.
    """
    reasons = {}
    for column in columns:
        if column == label:
            reasons[column] = "named like a label; use it with label= or input="
        elif INDEX_NAME.fullmatch(column):
            reasons[column] = "index of a pandas frame"
        elif not has_ids and _plain(column) == ID_NAME:
            reasons[column] = "names rows; use it with id= or input="
    return reasons


def target_roles(options: Mapping[str, str], names: Sequence[str], name: str) -> dict[str, TargetColumn]:
    """Return the columns of targets by head.

    Args:
        options: Column of each head, with its kind behind a colon or without.
        names: Names of all columns.
        name: Name of the data, for messages.

    Raises:
        ColumnMissing: A column is not there.
        InvalidArgument: A head has no name.

    Example:
        >>> target_roles({"steering": "angle:regression"}, ["image", "angle"], "drive")["steering"].kind
        'regression'
    """
    roles = {}
    for head, option in options.items():
        if not head:
            raise InvalidArgument(f"{name}: a target needs the name of its head, got {option!r}; expected NAME=COLUMN")
        column, _, ending = option.rpartition(":")
        kind: TargetKind | None = next((kind for kind in get_args(TargetKind) if kind == ending), None)
        if option in names or kind is None:
            column, kind = option, None
        require_column(column, names, name)
        roles[head] = TargetColumn(head=head, column=column, kind=kind)
    return roles


def _one_label(option: LabelOption, target: TargetColumn, name: str) -> str:
    """Return the column of hard labels that a target names."""
    if option not in {None, target.column}:
        raise InvalidArgument(
            f"{name}: hard labels are the target {LABEL_HEAD!r}, got column {target.column!r} for it and label "
            f"{option!r}; expected one. Leave out label= or targets="
        )
    if target.kind not in {None, "classes"}:
        raise InvalidArgument(
            f"{name}: the target {LABEL_HEAD!r} has classes, got kind {target.kind}; expected another name of the head"
        )
    return target.column


def require_column(column: str, names: Sequence[str], name: str) -> None:
    """Check that a column is there.

    Raises:
        ColumnMissing: ``column`` is not one of ``names``; names the most similar one.
    """
    if column not in names:
        raise ColumnMissing(f"{name}: no column {column!r}; it has: {', '.join(names)}{suggest(column, names)}")


def check_unique(names: Sequence[str], name: str) -> None:
    """Check that columns have different names.

    Raises:
        InvalidData: Two columns have one name.
    """
    repeated = [column for column, count in Counter(names).items() if count > 1]
    if repeated:
        raise InvalidData(
            f"{name}: column names must be unique, got {repeated[0]!r} more than once. Rename the columns"
        )


def _check_roles(inputs: Sequence[str], label: LabelOption, id_column: str | None, name: str) -> None:
    options = [*inputs, *(column for column in (label, id_column) if isinstance(column, str))]
    repeated = [column for column, count in Counter(options).items() if count > 1]
    if repeated:
        raise InvalidArgument(
            f"{name}: a column has one role, got {repeated[0]!r} for several of input=, label=, id= and targets="
        )


def _input_names(option: InputOption, names: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the input columns that an option names; empty for the default."""
    if option is None:
        return ()
    if not isinstance(option, str):
        columns = tuple(option)
    elif option in names or "," not in option:
        columns = (option,)
    else:
        columns = tuple(column.strip() for column in option.split(","))
    if not columns or len({*columns}) < len(columns):
        raise InvalidArgument(f"{name}: input must name one or more different columns, got {option!r}")
    return columns


def _plain(column: str) -> str:
    return column.strip().casefold()


def _named_like(known: Sequence[str], columns: Sequence[str], name: str) -> str | None:
    """Return the column that has the first of the ``known`` names that occurs.

    Raises:
        InvalidArgument: Several columns have that name but for case and blanks.
    """
    for known_name in known:
        alike = [column for column in columns if _plain(column) == known_name]
        if len(alike) > 1 and known_name not in alike:
            raise InvalidArgument(
                f"{name}: several columns could be the {known_name}, got {', '.join(map(repr, alike))}. "
                "Name one, or rename the others"
            )
        if alike:
            return known_name if known_name in alike else alike[0]
    return None


def _default_inputs(
    schema: pa.Schema, candidates: Sequence[str], name: str, odd: Mapping[str, str]
) -> tuple[tuple[str, ...], bool]:
    """Return the inputs where none are named, and whether they are scalar columns to be stacked."""
    kinds = {column: schema.field(column).type for column in candidates}
    first = _named_like(INPUT_NAMES, candidates, name)
    images = [column for column in candidates if is_image_struct(kinds[column])]
    if len(images) == 1:
        return (images[0],), False
    if first is not None and not is_number(kinds[first]):
        return (first,), False
    numbers = [column for column in candidates if is_number(kinds[column])]
    tensors = [column for column in candidates if is_tensor(kinds[column])]
    if first is not None and (numbers == [first] or tensors):
        return (first,), False
    if len(tensors) + bool(numbers) > 1:
        raise InvalidArgument(
            f"{name}: several columns could be the model's input, got {', '.join(map(repr, tensors + numbers))}. "
            "Name one with input=, or several scalar ones separated by commas"
        )
    if tensors:
        return (tensors[0],), False
    for column in candidates:
        reason = "it holds no values" if pa.types.is_null(kinds[column]) else odd.get(column)
        if reason is not None:
            raise InvalidData(
                f"{name}, column {column!r}: looks like an input that cannot be used: {reason}. Correct or remove the "
                "column, or name the inputs with input="
            )
    if not numbers:
        raise ColumnMissing(
            f"{name}: no column can be a model's input; expected one named {', '.join(INPUT_NAMES)}, or numeric ones; "
            f"it has: {', '.join(schema.names)}. Name one with input="
        )
    return tuple(numbers), True


def _reason(kind: pa.DataType, inputs: Sequence[str]) -> str:
    """Return why a column of a type is not an input, where ``inputs`` are."""
    if is_number(kind) or is_tensor(kind):
        listed = ", ".join(inputs[:ALIKE_NAMES]) + (", ..." if len(inputs) > ALIKE_NAMES else "")
        return f"the input is {listed}"
    if is_text(kind):
        return "text"
    return "lists of other values than numbers" if is_list(kind) else str(value_type(kind))
