"""One setting as a value: its name, its default, what it takes, and what it does."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from dbqueue.errors import ImproperlyConfigured
from dbqueue.settings.kinds import Kind

ENVIRONMENT_PREFIX: Final = "DBQUEUE_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: where None is the default it may also be set."""

    name: str
    default: Any
    kind: Kind
    doc: str
    unset: Any = None
    """What None, set by a program, stands for where it is not optional; None forbids it."""
    takes_none: bool = False
    """Whether None may be set although it is not the default."""

    @property
    def optional(self) -> bool:
        return self.default is None or self.takes_none

    @property
    def variable(self) -> str:
        """The environment variable that overrides what code sets."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    def fresh_default(self) -> Any:
        """The default as an object of its own: applications add to lists and dicts that they read."""
        return copy.copy(self.default)

    def check(self, value: Any) -> Any:
        """`value` in its one form. Raises ImproperlyConfigured that says what the setting takes."""
        if value is None:
            if self.optional:
                return None
            if self.unset is not None:
                return copy.copy(self.unset)
        try:
            return self.kind.check(value)
        except ValueError as exc:
            raise self._refusal(self.name, exc) from None

    def from_environment(self, text: str) -> Any:
        """The value that the text of its environment variable stands for; "none" is None where that may be set."""
        if self.optional and text.strip().lower() == "none":
            return None
        try:
            return self.kind.from_text(text)
        except ValueError as exc:
            raise self._refusal(f"the environment variable {self.variable}", exc) from None

    def _refusal(self, subject: str, reason: ValueError) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"{subject} must be {self.kind.description}, {reason}")
