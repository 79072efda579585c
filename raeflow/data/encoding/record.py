"""How one column of a table enters the model, as a plain record that a detector keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

NUMBERS = ("number", "long_tail", "flag")
"""Roles that take one value of the encoded row."""
OTHER, GAP = "(other)", "(gap)"
"""Parts of a category that stand for no level of their own: rare levels together, and no value."""
RARE = "one of its values is rare"
"""Why a flag has the scale of a rare level rather than its own."""


@dataclass(frozen=True)
class Encoded:
    """One column: what it is, where it is stored, and what train showed of it."""

    name: str
    role: str
    """number, long_tail, flag, category, clock, constant, or ignored."""
    at: int
    """Its first stored value."""
    slots: int = 1
    """Stored values that it takes: two of a clock with date and time."""
    gaps: bool = False
    """Whether train had rows without a value."""
    parts: tuple[str, ...] = ()
    """Of a category its indicators, of a clock its circles: hour, weekday, season."""
    codes: tuple[int, ...] = ()
    """Of a category: the part of each level."""
    values: tuple[float | None, ...] = ()
    """Of a constant, or a number of one value and gaps, its one stored value (None where it never had one), of a flag its two."""
    why: str = ""
    """Of what is ignored: why it tells nothing; of a flag: why its scale is not its own."""

    @property
    def width(self) -> int:
        """Values of the encoded row that belong to the column, without that for its gaps."""
        if self.role in NUMBERS:
            return 1
        return {"category": 1, "clock": 2}.get(self.role, 0) * len(self.parts)

    @property
    def marks_gaps(self) -> bool:
        """Whether a value of the encoded row says that there is none; a category's gap is a part of its own."""
        return self.gaps and self.role in (*NUMBERS, "clock")

    def told(self) -> str:
        """What it is, in words."""
        gaps = ", gaps marked" if self.marks_gaps else ""
        if self.role == "category":
            pooled = sum(1 for part in self.codes if self.parts[part] == OTHER)
            rare = f", {pooled} of them rare and taken together" if pooled else ""
            return f"category of {len(self.codes)} level{'s' * (len(self.codes) != 1)}{rare}" + (", gaps a level" if self.gaps else "")
        if self.role == "clock":
            return f"clock: {', '.join(self.parts)}{gaps}"
        if self.role == "ignored":
            return f"not used: {self.why}"
        said = {"long_tail": "number with a long tail", "constant": "constant, watched"}.get(self.role, self.role)
        still = ", of one value, watched" if self.role == "number" and self.values else ""
        return said + (f", {self.why}" if self.why else "") + still + gaps

    def to_json(self) -> dict[str, Any]:
        """Plain values; defaults are left out."""
        return {name: value for name, value in asdict(self).items() if value or name in ("name", "role", "at", "slots")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Encoded:
        """What `to_json` made."""
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**plain)
