"""Doctor: what `shmcache doctor` and `shmcache hot` find, as text or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shmcache import SegmentError, SegmentGone
from shmcache.inspect import Hot, Report, View, clean, clock_cost, names

WELL, FAULTS = 0, 1
_SHM = Path("/dev/shm")
_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_SLOW_CLOCK = 200.0
"""Nanoseconds: by the vDSO it is tens, by a system call hundreds."""
_TOLD = 10
"""Hot keys of each table that are printed."""
_NAMES = 10
"""Names that are told where none is the one that was given."""
_INCIDENTS = (
    *("locks_recovered", "shards_wiped", "lock_timeouts", "claims_full", "no_slot"),
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the host gives the cache."""

    clock_ns: float
    """Of one look at the clock."""
    clock_source: str
    shm_bytes: int
    shm_free_bytes: int
    huge_pages: str
    """Those of shared memory: always, within_size, advise, never, deny or force."""


def environment() -> Environment:
    """Measured and read now."""
    room = os.statvfs(_SHM)
    huge = _text(_HUGE_PAGES)
    return Environment(
        clock_ns=round(clock_cost(), 1),
        clock_source=_text(_CLOCK_SOURCE).strip(),
        shm_bytes=room.f_blocks * room.f_frsize,
        shm_free_bytes=room.f_bavail * room.f_frsize,
        huge_pages=huge[huge.find("[") + 1 : huge.find("]")],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# -- doctor


def examine(files: list[str], as_json: bool) -> tuple[str, int]:
    """What is found of these segments and of the host, and the exit code."""
    found = [told for file in files if (told := _examined(file)) is not None]
    code = FAULTS if any(told["faults"] for told in found) else WELL
    host = environment()
    if as_json:
        return _json({"environment": asdict(host), "segments": found}), code
    lines = [line for told in found for line in _segment_lines(told)]
    if not found:
        lines.append("no segment of this user in /dev/shm")
    return "\n".join([*lines, *_environment_lines(host)]), code


def _examined(file: str) -> dict[str, Any] | None:
    """None where it was removed meanwhile."""
    told: dict[str, Any] = {"file": file, "held_by": [], "why": None}
    try:
        view = View.open(file)
    except SegmentGone:
        return None
    except SegmentError as e:
        return told | asdict(Report(faults=[str(e)])) | {"bytes": 0, "regions": []}
    with view:
        report = view.check()
        return (
            told
            | asdict(report)
            | {
                "bytes": view.file_bytes,
                "held_by": view.holders(),
                "why": view.why,
                "geometry": view.geometry,
                "regions": [region._asdict() for region in view.regions()],
                "records": report.records,
                "live_bytes": report.live_bytes,
                "slots": [slot._asdict() for slot in report.slots],
            }
        )


def _segment_lines(told: dict[str, Any]) -> Iterator[str]:
    """A verdict, what stands, what happened, faults and notes."""
    pids, faults = told["held_by"], told["faults"]
    held = (
        f"held by {' '.join(map(str, pids))}" if pids else "left over, nobody holds it"
    )
    verdict = f"{len(faults)} fault{'s' * (len(faults) > 1)}" if faults else "well"
    if told["why"] and not faults:
        verdict = f"cannot be attached, {told['why']}"
    yield f"{told['file']}: {verdict}; {held}"
    if told["shards"]:
        yield from _occupancy_lines(told)
    yield from (f"  fault: {fault}" for fault in faults)
    yield from (f"  note: {note}" for note in told["notes"] if note != told["why"])


def _occupancy_lines(told: dict[str, Any]) -> Iterator[str]:
    shards, claims, counters = told["shards"], told["claims"], told["counters"]
    capacity, live = told["capacity_bytes"], told["live_bytes"]
    disabled = sum(shard["disabled"] for shard in shards)
    alive = sum(slot["alive"] for slot in told["slots"])
    yield (
        f"  {_mib(told['bytes'])}, {len(shards)} shards ({disabled} disabled), "
        f"{told['records']} records, live {_mib(live)} of {_mib(capacity)} "
        f"({100 * live / capacity:.0f} %)"
    )
    yield (
        f"  {alive} processes alive, {len(told['slots'])} slots ever taken; claims: "
        f"{claims['held']} held, {claims['tentative']} tentative, "
        f"{claims['dead']} of dead processes"
    )
    happened = [f"{name} {counters[name]}" for name in _INCIDENTS if counters[name]]
    yield f"  since it was made: {', '.join(happened) or 'no incident'}"


def _environment_lines(host: Environment) -> Iterator[str]:
    yield f"clock: {host.clock_ns:.0f} ns a look (source {host.clock_source or '?'})"
    if host.clock_ns > _SLOW_CLOCK:
        yield (
            "  note: that is a system call, which gets and stores pay: the kernel has "
            "no vDSO for this clock source; boot with clocksource=tsc if it is stable"
        )
    yield f"/dev/shm: {_mib(host.shm_bytes)}, {_mib(host.shm_free_bytes)} free"
    yield f"huge pages of shared memory: {host.huge_pages or 'unknown'}"
    if host.huge_pages in ("never", "deny"):
        yield (
            "  note: large segments read faster with them: "
            f"echo advise > {_HUGE_PAGES}, then restart"
        )


# -- clean


def sweep(files: list[str], as_json: bool) -> tuple[str, bool]:
    """Remove what nobody holds; what was removed and what was left, and whether any
    was left."""
    reasons = {file: clean(file) for file in files}
    removed = [file for file, why in reasons.items() if why is None]
    left = {file: why for file, why in reasons.items() if why is not None}
    if as_json:
        return _json({"removed": removed, "left": left}), bool(left)
    lines = [f"{file}: removed" for file in removed]
    lines += [f"{file}: left, {why}" for file, why in left.items()]
    return "\n".join(lines) or "no segment of this user in /dev/shm", bool(left)


# -- hot


def hottest(files: list[str], as_json: bool) -> str:
    """The keys of these segments that are hit most, and that cost most. `SegmentError`
    says why, where none of them can be read."""
    tables, unread = {}, []
    for file in files:
        try:
            with View.open(file) as view:
                if view.table is None:
                    raise SegmentError(f"segment {view.path}: {view.why}")
                tables[file] = view.hot()
        except SegmentGone:
            continue
        except SegmentError as e:
            unread.append(str(e))
    if unread and not tables:
        raise SegmentError("; ".join(unread))
    if as_json:
        return _json(
            {
                file: {
                    name: [{"key": _key(h), "weight": h.weight} for h in table]
                    for name, table in zip(
                        ("hits", "compute_seconds"), two, strict=True
                    )
                }
                for file, two in tables.items()
            }
        )
    lines = []
    for file, (hits, fills) in tables.items():
        lines += [f"{file}", "  hits (from a sample)", *_hot_lines(hits, ".0f")]
        lines += ["  seconds of computes", *_hot_lines(fills, ".3f")]
    lines += unread
    return "\n".join(lines) or "no segment of this user in /dev/shm"


def _hot_lines(table: list[Hot], form: str) -> list[str]:
    lines = [f"    {format(h.weight, form):>12}  {_key(h)}" for h in table[:_TOLD]]
    return lines or ["    none yet"]


def _key(hot: Hot) -> str:
    """A key as a terminal may show it; one that stands no more, by its hash."""
    if hot.key is None:
        return f"(gone, hash {hot.hash:08x}...)"
    text = hot.key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def segments(name: str | None) -> list[str]:
    """The files that a command is about. `LookupError` where `name` is none's."""
    found = names(name)
    if name is not None and not found:
        raise LookupError(
            f"no segment {name!r} of this user in /dev/shm; {_others(name)}"
        )
    return found


def _others(name: str) -> str:
    """The names that begin so, else that hold it, else all that there are."""
    there = sorted({file.split(".", 2)[2] for file in names()})  # whatever the layout
    for words, fits in (
        ("these begin so", str.startswith),
        ("these hold it", str.__contains__),
        ("there are", lambda other, name: True),
    ):
        if near := [other for other in there if fits(other, name)]:
            more = f" and {len(near) - _NAMES} more" if len(near) > _NAMES else ""
            return f"{words}: {', '.join(near[:_NAMES])}{more}"
    return "there is none at all"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _json(what: object) -> str:
    return json.dumps(what, indent=2, sort_keys=True)
