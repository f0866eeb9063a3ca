"""What the tables of the configuration have in common: the base of their models, and the types of several keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from flows.values import UrlRule, non_empty

__all__ = ["HttpBase", "HttpUrl", "Mistake", "SocketUrl", "Table", "Text", "no_mistake"]

Text = Annotated[str, AfterValidator(non_empty)]
HttpUrl = Annotated[str, AfterValidator(UrlRule(("http", "https")))]
HttpBase = Annotated[str, AfterValidator(UrlRule(("http", "https"), base=True))]
SocketUrl = Annotated[str, AfterValidator(UrlRule(("ws", "wss")))]


class Table(BaseModel):
    """A table of the configuration, immutable.

    A file says what it means: "50" is no number, and a misspelt key no key. Variables are converted before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Mistake:
    """Stands for a value that is wrong because of what another table says, or that is missing because of it."""

    text: str


def no_mistake(value: object) -> object:
    """The value itself. Raises ValueError if a mistake stands in its place."""
    if isinstance(value, Mistake):
        raise ValueError(value.text)
    return value
