"""The plan: where a float graph will be quantized, how, and why not elsewhere.

    Site       a place on a wire: a value as all its readers see it, or as one input of one node sees it
    Quantizer  the scheme and the reason; the parameters once they are known. Parameters set before calibration
               are pinned: calibration leaves them alone
    Plan       groups (one scale each), sites (which group), floats (node -> why it stays float)

A plan is plain data: JSON out, JSON in, equal again; it can be reviewed, edited, compared and given back.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from halfeven.errors import BadOption
from halfeven.graph.files import write_text
from halfeven.numerics.scheme import QParams, Scheme

VERSION = 1
Role = Literal["activation", "weight", "bias"]


@dataclass(frozen=True, order=True)
class Site:
    """A place on a wire. An empty consumer: as all readers see the value."""

    value: str
    consumer: str = ""
    port: int = 0

    def __str__(self) -> str:
        """`value`, or `value -> consumer[port]`."""
        return f"{self.value} -> {self.consumer}[{self.port}]" if self.consumer else self.value


@dataclass(frozen=True)
class Quantizer:
    """How one group of sites is quantized, and by which rule."""

    scheme: Scheme
    reason: str
    role: Role = "activation"
    params: QParams | None = None
    method: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        out: dict[str, Any] = {"role": self.role, "scheme": self.scheme.to_json(), "reason": self.reason}
        if self.method:
            out["method"] = self.method
        if self.params is not None:
            out["params"] = self.params.to_json()
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Quantizer":
        """The inverse of `to_json`."""
        scheme = Scheme.from_json(data["scheme"])
        params = QParams.from_json(scheme, data["params"]) if "params" in data else None
        return cls(scheme, data["reason"], data.get("role", "activation"), params, data.get("method", ""))


@dataclass(frozen=True)
class Plan:
    """Which sites share which quantizer, and which nodes stay float for what reason."""

    groups: Mapping[int, Quantizer] = field(default_factory=dict)
    sites: Mapping[Site, int] = field(default_factory=dict)
    floats: Mapping[str, str] = field(default_factory=dict)

    def at(self, site: Site) -> Quantizer | None:
        """The quantizer of a site, if it has one."""
        group = self.sites.get(site)
        return None if group is None else self.groups[group]

    def seen_by(self, value: str, consumer: str, port: int) -> Quantizer | None:
        """The quantizer through which one input of one node sees a value."""
        return self.at(Site(value, consumer, port)) or self.at(Site(value))

    def members(self, group: int) -> list[Site]:
        """The sites of a group, sorted."""
        return sorted(site for site, g in self.sites.items() if g == group)

    def with_group(self, group: int, quantizer: Quantizer) -> "Plan":
        """The plan with one quantizer replaced."""
        return replace(self, groups={**self.groups, group: quantizer})

    def reading(self, consumer: str, port: int, value: str) -> "Plan":
        """The plan after one input of one node has been given another constant: its site follows."""
        old = next((s for s in self.sites if s.consumer == consumer and s.port == port), None)
        if old is None or old.value == value:
            return self
        sites = {Site(value, consumer, port) if site == old else site: g for site, g in self.sites.items()}
        return replace(self, sites=sites)

    def to_json(self) -> dict[str, Any]:
        """Plain values: groups in order, each with its sites beside its quantizer."""
        members: dict[int, list[list[str | int]]] = {g: [] for g in self.groups}
        for site in sorted(self.sites):
            entry: list[str | int] = [site.value, site.consumer, site.port] if site.consumer else [site.value]
            members[self.sites[site]].append(entry)
        groups = [{"id": g, "sites": members[g], **q.to_json()} for g, q in sorted(self.groups.items())]
        return {"halfeven_plan": VERSION, "groups": groups, "floats": dict(sorted(self.floats.items()))}

    @classmethod
    def from_json(cls, data: Any) -> "Plan":
        """The inverse of `to_json`.

        Raises:
            BadOption: the text is no plan, or of another version, or malformed.
        """
        if not isinstance(data, dict) or data.get("halfeven_plan") != VERSION:
            raise BadOption(f'Not a plan: expected a JSON object with "halfeven_plan": {VERSION}.')
        groups, sites = {}, {}
        try:
            for entry in data["groups"]:
                groups[int(entry["id"])] = Quantizer.from_json(entry)
                for site in entry["sites"]:
                    sites[Site(*site)] = int(entry["id"])
            return cls(groups, sites, {str(k): str(v) for k, v in data["floats"].items()})
        except (KeyError, TypeError, ValueError) as error:
            raise BadOption(f"Plan: a group is malformed ({type(error).__name__}: {error}).") from error

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, beside and then renamed."""
        write_text(Path(path), json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan.

        Raises:
            BadOption: the file is missing, no JSON, or no plan.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise BadOption(f"Plan '{path}' cannot be read: {error}. Give a file made with --save-plan.") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's JSON, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def difference(before: Plan, after: Plan) -> list[str]:
    """What changed between two plans, a sentence each, in the order of sites and nodes."""
    lines = []
    for site in sorted(set(before.sites) | set(after.sites)):
        old, new = before.at(site), after.at(site)
        if old is None or new is None:
            lines.append(f"{site}: {'was not quantized, now ' + str(new.scheme) if new else 'no longer quantized'}")
        elif old.scheme != new.scheme:
            lines.append(f"{site}: {old.scheme} became {new.scheme}")
        elif (a := old.params) and (b := new.params) and a.to_json() != b.to_json():
            lines.append(f"{site}: scale {a.scale.ravel()[0]:.6g} became {b.scale.ravel()[0]:.6g}")
    for node in sorted(set(before.floats) ^ set(after.floats)):
        now = "stays float: " + after.floats[node] if node in after.floats else "is now quantized"
        lines.append(f"node '{node}' {now}")
    return lines
