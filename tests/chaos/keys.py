"""The few keys that chaos works on, with lives and tags; the checker knows them."""

from __future__ import annotations

from typing import NamedTuple


class Spec(NamedTuple):
    """One key, with what every fill and set of it bears."""

    name: str
    ttl: float
    grace: float
    tags: tuple[str, ...] = ()
    namespace: str = ""

    @property
    def full(self) -> str:
        """As the journals name it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


SPECS = (
    Spec("a", 0.3, 0.3),
    Spec("b", 1.0, 2.0, ("even",)),
    Spec("c", 60.0, 0.0),
    Spec("d", 60.0, 60.0, ("even", "all")),
    Spec("e", 60.0, 60.0),
    Spec("f", 5.0, 60.0, ("all",)),
    Spec("g", 60.0, 60.0, (), "part"),
    Spec("h", 60.0, 60.0, ("even",), "part"),
)
TAGS = ("even", "all")
BY_NAME = {spec.full: spec for spec in SPECS}


def tagged(tag: str, namespace: str = "") -> tuple[str, ...]:
    """The keys that bear a tag; tags belong to their namespace."""
    return tuple(s.full for s in SPECS if tag in s.tags and s.namespace == namespace)


def within(namespace: str) -> tuple[str, ...]:
    """The keys of a namespace; "" has them all."""
    return tuple(s.full for s in SPECS if namespace in ("", s.namespace))
