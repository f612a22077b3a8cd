"""What every part of a recipe is made of: frozen data, no unknown keys, and shares or counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

# A float in (0, 1) is a share of the run or of the rows; an integer >= 1 is steps or rows.
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
ShareOrCount = Annotated[Count | Share, Field(union_mode="left_to_right")]


class Section(BaseModel):
    """Part of a recipe: data only, frozen, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, values: Any) -> Any:
        """To pydantic true is 1 and 1.0 a count: neither is what its writer meant."""
        if not isinstance(values, dict):
            return values
        return {key: cls._as_meant(key, value) for key, value in values.items()}

    @classmethod
    def _as_meant(cls, key: Any, value: Any) -> Any:
        field = cls.model_fields.get(key)
        wanted = set(_leaves(field.annotation)) if field and isinstance(value, bool | float) else set()
        if isinstance(value, bool) and bool not in wanted and (word := "on" if value else "off") in wanted:
            return word  # YAML 1.1 reads both words as a yes or no
        if isinstance(value, bool) and bool not in wanted and wanted & {int, float}:
            return "yes" if value else "no"
        if value == 1 and {int, float} <= wanted and isinstance(value, float):
            raise ValueError(
                f"{key} 1.0 is neither a share nor a count; write a share below 1, such as 0.1, or a count, such as 1"
            )
        return value


def _leaves(annotation: Any) -> Iterator[Any]:
    """The plain types named anywhere in a type."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for one in inner:
        yield from _leaves(one)


def steps_of(value: int | float, total: int) -> int:
    """A share or a count, as steps of a run of `total` steps; at least 1 unless it is 0."""
    return value if isinstance(value, int) else max(1, round(value * total))
