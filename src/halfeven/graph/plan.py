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
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from halfeven.errors import BadOption, QuantError
from halfeven.files import write_text
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import QParams, Scheme

VERSION = 1
REMEDY = "Give a file made with --save-plan."
Role = Literal["activation", "weight", "bias"]
DYNAMIC = "dynamic"
"""The `method` of an activation whose parameters are found anew in each run: it has none in the plan, ever."""
FOUND = ("bytes", "empty")
"""Methods that say how parameters came about, and that nobody can choose: of bytes, and of what was always empty."""
LPBQ = "lpbq"
"""The `method` of a weight whose block scales are whole multiples of a channel's: it comes with parameters."""
KEYS = {
    "the plan": ("halfeven_plan", "scaling", "groups", "floats"),
    "the group": ("id", "sites", "role", "scheme", "bits", "reason", "method", "params"),
    "the scheme": ("grid", "tiles", "scale", "zero_point"),
    "params": ("shape", "scale", "zero_point", "threshold"),
}


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
    bits: int | None = None
    """Of a weight: it has the codes of so many bits alone, fewer than its scheme's, in which a file stores them."""

    @property
    def codes(self) -> Scheme:
        """The scheme with the codes that there may be: of `bits` bits, all of them."""
        own = self.scheme
        return own if self.bits is None else replace(own, grid=IntGrid(self.bits, own.grid.signed))

    @property
    def rounding(self) -> QParams | None:
        """The parameters by which values are rounded to `codes`; None before calibration."""
        return self.params and replace(self.params, scheme=self.codes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        out: dict[str, Any] = {"role": self.role, "scheme": self.scheme.to_json(), "reason": self.reason}
        out |= {} if self.bits is None else {"bits": self.bits}
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
        role = data.get("role", "activation")
        if role not in get_args(Role):
            raise ValueError(f"role {role!r} is none of {', '.join(get_args(Role))}")
        bits = None if data.get("bits") is None else _whole(data["bits"], "bits")
        if bits is not None and not (role == "weight" and 2 <= bits < scheme.grid.bits):
            raise ValueError(f"bits {bits}: a weight may have 2 bits or more, and fewer than its grid's")
        return cls(scheme, _text(data["reason"]), role, params, _text(data.get("method", "")), bits)


@dataclass(frozen=True)
class Plan:
    """Which sites share which quantizer, and which nodes stay float for what reason."""

    groups: Mapping[int, Quantizer] = field(default_factory=dict)
    sites: Mapping[Site, int] = field(default_factory=dict)
    floats: Mapping[str, str] = field(default_factory=dict)
    scaling: str | None = None
    """Of a calibrated plan, the digest of the factors by which channels were equalized: its scales hold for these."""

    def uncalibrated(self) -> "Plan":
        """The plan without the scales that data or weights gave; those that placing pinned stay."""
        groups = {
            g: replace(q, params=None, method="") if q.method and q.params is not None else q
            for g, q in self.groups.items()
        }
        return replace(self, groups=groups, scaling=None)

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
        floats = dict(sorted(self.floats.items()))
        return {"halfeven_plan": VERSION, "scaling": self.scaling, "groups": groups, "floats": floats}

    @classmethod
    def from_json(cls, data: Any, where: str = "The plan") -> "Plan":
        """The inverse of `to_json`; `where` begins the sentence of an error.

        Raises:
            BadOption: the text is no plan, or of another version, or malformed; names the entry, what was found there
                and what was expected.
        """
        if not isinstance(data, dict) or data.get("halfeven_plan") != VERSION:
            expected = f'expected a JSON object with "halfeven_plan": {VERSION}, found {_shown(data)}'
            raise BadOption(f"{where} is no plan: {expected}. {REMEDY}")
        groups: dict[int, Quantizer] = {}
        sites: dict[Site, int] = {}
        at = "it"
        try:
            _known(data, "the plan")
            for number, entry in enumerate(_of_kind(data["groups"], list, "groups")):
                at = f"entry {number} of groups"
                _known(_of_kind(entry, dict, "the entry"), "the group")
                _known(entry.get("scheme"), "the scheme")
                _known(entry.get("params"), "params")
                group = _whole(_of_kind(entry, dict, "the entry")["id"], "id")
                if group in groups:
                    raise ValueError(f"group {group} stands twice")
                groups[group] = Quantizer.from_json(entry)
                for place in _of_kind(entry["sites"], list, "sites"):
                    site = _site(place)
                    if site in sites:
                        raise ValueError(f"site {site} is in two groups")
                    sites[site] = group
            at = "it"
            floats = {_text(k): _text(v) for k, v in _of_kind(data["floats"], dict, "floats").items()}
            scaling = None if data.get("scaling") is None else _text(data["scaling"])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, QuantError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise BadOption(f"{where} is malformed, in {at}: {why}. {REMEDY}") from error
        return cls(groups, sites, floats, scaling)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, beside and then renamed."""
        write_text(Path(path), json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan.

        Raises:
            BadOption: the file is missing, no JSON, or no plan; it is named.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8-sig"))
        except OSError as error:
            raise BadOption(f"Plan '{path}' cannot be read: {error.strerror or error}. {REMEDY}") from error
        except (ValueError, RecursionError) as error:
            raise BadOption(f"Plan '{path}' cannot be read: JSON was expected, but {error}. {REMEDY}") from error
        return cls.from_json(data, f"'{path}'")

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's JSON, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def _shown(data: Any) -> str:
    """What stands where a plan was expected, in few words."""
    if not isinstance(data, dict):
        return f"{data!r:.40}"
    if "halfeven_plan" in data:
        return f'"halfeven_plan": {data["halfeven_plan"]!r:.40}'
    return f"one with {', '.join(repr(key) for key in list(data)[:3])}" if data else "an empty one"


def _known(entry: Any, what: str) -> None:
    """Refuse a key that nothing reads: most likely it is misspelt."""
    for key in entry if isinstance(entry, dict) else ():
        if key not in KEYS[what]:
            near = get_close_matches(str(key), KEYS[what], 1)
            hint = f"did you mean '{near[0]}'" if near else f"there are {', '.join(KEYS[what])}"
            raise ValueError(f"{what} has no key {key!r:.40}; {hint}")


def _of_kind(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        expected = "a list" if kind is list else "an object"
        raise TypeError(f"{what}: {expected} was expected, found {value!r:.40}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, found {value!r}")
    return value


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}: a whole number was expected, found {value!r}")
    return value


def _site(place: Any) -> Site:
    if not isinstance(place, list) or len(place) not in (1, 3):
        raise TypeError(f"a site is [value] or [value, consumer, port], found {place!r}")
    return (
        Site(_text(place[0])) if len(place) == 1 else Site(_text(place[0]), _text(place[1]), _whole(place[2], "port"))
    )


@dataclass(frozen=True)
class Change:
    """One difference between two plans: at a site, of these groups (None: not quantized), or of a node's fate."""

    kind: Literal["quantized", "scheme", "scale", "zero point", "node"]
    where: str
    text: str
    groups: tuple[int | None, int | None] = (None, None)


def changes(before: Plan, after: Plan) -> list[Change]:
    """What changed between two plans, in the order of sites and nodes.

    A value quantized for all readers in one plan and for single readers, alike, in the other is the same place.
    """
    found, told = [], set()
    sides = [(plan, _by_value(plan)) for plan in (before, after)]
    for site in sorted(set(before.sites) | set(after.sites)):
        old, new = (_group_at(plan, values, site) for plan, values in sides)
        if (site.value, old, new) in told and not (site in before.sites and site in after.sites):
            continue
        told.add((site.value, old, new))
        was, now = (None if g is None else plan.groups[g] for g, plan in ((old, before), (new, after)))
        for kind, text in _between(was, now):
            found.append(Change(kind, str(site), text, (old, new)))
    for node in sorted(set(before.floats) | set(after.floats)):
        reasons = before.floats.get(node), after.floats.get(node)
        if reasons[0] != reasons[1]:
            text = "is now quantized" if reasons[1] is None else f"stays float: {reasons[1]}"
            found.append(Change("node", node, text))
    return found


def difference(before: Plan, after: Plan) -> list[str]:
    """What changed between two plans, a sentence each, in the order of sites and nodes."""
    found = changes(before, after)
    return [f"node '{c.where}' {c.text}" if c.kind == "node" else f"{c.where}: {c.text}" for c in found]


def _by_value(plan: Plan) -> dict[str, set[int]]:
    """The groups of a value's sites."""
    found: dict[str, set[int]] = {}
    for site, group in plan.sites.items():
        found.setdefault(site.value, set()).add(group)
    return found


def _group_at(plan: Plan, values: Mapping[str, set[int]], site: Site) -> int | None:
    """The group of a site: its own, that of all readers, or the one that all single readers have."""
    if site in plan.sites:
        return plan.sites[site]
    if site.consumer:
        return plan.sites.get(Site(site.value))
    groups = values.get(site.value, set())
    return next(iter(groups)) if len(groups) == 1 else None


def _between(was: Quantizer | None, now: Quantizer | None) -> list[tuple[Any, str]]:
    """Kinds and sentences of what differs between two quantizers."""
    if was is None or now is None:
        if was is now:
            return []
        return [("quantized", "no longer quantized" if now is None else f"was not quantized, now {now.scheme}")]
    if (was.scheme, was.bits) != (now.scheme, now.bits):
        both = was.params is not None and now.params is not None
        scales = _changes(was.params, now.params) if both else []
        return [("scheme", f"{was.codes} became {now.codes}"), *(c for c in scales if c[0] == "scale")]
    return _changes(was.params, now.params)


def _changes(old: QParams | None, new: QParams | None) -> list[tuple[Any, str]]:
    """Where two sets of parameters differ; of many channels the first that does, and how many."""
    if old is None or new is None:
        if old is new:
            return []
        text = "has no scale any more" if new is None else f"scale {new.scale.ravel()[0]:.6g} is new"
        return [("scale", text)]
    found = []
    for name, a, b in (("scale", old.scale, new.scale), ("zero point", old.zero_point, new.zero_point)):
        if a.size != b.size:
            found.append((name, f"{name} of shape {a.shape} became one of {b.shape}"))
            continue
        where = np.flatnonzero(a.ravel() != b.ravel())
        if where.size:
            more = f" (channel {where[0]}, one of {where.size} that changed)" if a.size > 1 else ""
            found.append((name, f"{name} {a.ravel()[where[0]]:.6g} became {b.ravel()[where[0]]:.6g}{more}"))
    return found
