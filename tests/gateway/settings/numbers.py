"""Every number that can be configured, as pydantic knows it: key, default, smallest and largest value."""

from collections.abc import Iterator
from dataclasses import dataclass

import annotated_types
from pydantic import BaseModel

from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Number:
    """A key whose value is a number: a count, a size, a rate, or a duration in seconds."""

    key: str
    default: float
    smallest: float | None
    """None where there is no bound."""
    largest: float | None


def _numbers(model: type[BaseModel], prefix: str = "") -> Iterator[Number]:
    for name, field in model.model_fields.items():
        kind, key = field.annotation, prefix + name
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _numbers(kind, f"{key}.")
        elif kind in {int, float}:
            bounds = field.metadata
            at_least = [float(str(each.ge)) for each in bounds if isinstance(each, annotated_types.Ge)]
            above = [float(str(each.gt)) for each in bounds if isinstance(each, annotated_types.Gt)]
            at_most = [float(str(each.le)) for each in bounds if isinstance(each, annotated_types.Le)]
            # A duration is not below zero: `units.seconds` has checked it.
            smallest = max([*at_least, *above], default=0.0 if kind is float else None)
            yield Number(key, field.default, smallest, min(at_most, default=None))


NUMBERS = list(_numbers(Settings))
