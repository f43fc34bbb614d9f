"""How a dataset's arrays were made from what its source stores.

A policy trained on the dataset must treat live observations and its own actions in the same way,
so this travels with the dataset and with every run that is trained on it.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Parts = tuple[tuple[str, int], ...]
MAX_JSON = 2**20
"""Bytes; what is longer was not written by us."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The empty description says that nothing is known beyond the arrays."""

    source: str = ""
    """Label of the dataset that this one was converted from."""
    observations: Parts = ()
    """The source's columns, joined in this order, each with its number of dimensions."""
    actions: Parts = ()
    """Likewise for the actions."""
    action_low: tuple[float, ...] = ()
    """What the source calls -1, per dimension; empty where it stores actions in [-1, 1]."""
    action_high: tuple[float, ...] = ()
    """What the source calls 1."""
    rewards: str = "recorded"
    """Or "zero": the source has none, and zeros were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dict(json.loads(json.dumps(asdict(self))))  # lists, as a file has them

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> "Description":
        """The inverse of `to_json`, for text that anybody may have written.

        Raises:
            ValueError: it is no description.
        """
        if len(text) > MAX_JSON:
            raise ValueError(f"a description of {len(text):,} bytes")
        try:
            values = json.loads(text)
        except RecursionError as error:
            raise ValueError("JSON nested too deep") from error
        if not isinstance(values, Mapping) or set(values) - set(cls.__dataclass_fields__):
            raise ValueError("no description of a dataset")
        done = cls(
            source=plain_name(_text(values.get("source", ""))),
            observations=_parts(values.get("observations", ())),
            actions=_parts(values.get("actions", ())),
            action_low=_numbers(values.get("action_low", ())),
            action_high=_numbers(values.get("action_high", ())),
            rewards=_text(values.get("rewards", "recorded")),
        )
        if done.rewards not in ("recorded", "zero"):
            raise ValueError(f"rewards {done.rewards!r}")
        if len(done.action_low) != len(done.action_high):
            raise ValueError("action_low and action_high differ in length")
        return done

    def check_widths(self, observation_dim: int, action_dim: int) -> None:
        """Raises ValueError unless it describes arrays of these widths."""
        for what, parts, width in (
            ("observations", self.observations, observation_dim),
            ("actions", self.actions, action_dim),
        ):
            if parts and sum(n for _, n in parts) != width:
                raise ValueError(f"{what} described with another number of dimensions than {width}")
        if len(self.action_low) not in (0, action_dim):
            raise ValueError(f"bounds of {len(self.action_low)} actions, there are {action_dim}")


def plain_name(text: str) -> str:
    """A name from a file, fit for a terminal, a page of HTML or a line of a log."""
    return re.sub(r"[^\w .,:;/()+=@-]", "_", text)[:200]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where text is expected")
    return value


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not all(type(x) in (int, float) for x in value):
        raise ValueError("bounds are no numbers")
    try:
        numbers = tuple(float(x) for x in value)
    except OverflowError as error:
        raise ValueError("bounds are no numbers") from error
    if not all(math.isfinite(x) for x in numbers):
        raise ValueError("bounds are not finite")
    return numbers


def _parts(value: Any) -> Parts:
    if not isinstance(value, (list, tuple)):
        raise ValueError("columns are no list")
    parts = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError("a column is no pair of a name and a width")
        name, width = pair
        if type(width) is not int or width < 0:
            raise ValueError(f"a column of {type(width).__name__} dimensions")
        parts.append((plain_name(_text(name)), width))
    return tuple(parts)
