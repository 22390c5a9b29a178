"""The state of some hospitals of a shard, cut out of its snapshot's tables, and put together with another shard's.

Rows of a shard point at each other by number (a channel at its device, a patient at a chart, a rule at its channel). Cut
out, rows keep their order and are numbered anew; put together, the newcomer's stand behind those that are there. Both are
pure, so a replay cuts and joins alike. What belongs to no hospital: the memory of recent readings goes along whole (an
identity says nothing of its hospital, and one too many does no harm), stream time and counts stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

State = dict[str, pa.Table]  # as `actors.shard.ShardCell.snapshot`
Numbers = NDArray[np.int64]
_ROWS_OF: Final[Mapping[str, tuple[str, ...]]] = {  # tables whose rows lie side by side
    "devices": ("devices", "device_texts"), "channels": ("channels", "scorer"), "patients": ("patients", "patient_texts"),
    "hospitals": ("hospitals", "hospital_texts"),
}  # fmt: skip
_POINTERS: Final = (  # table, its column, whose rows it numbers; a negative number points at none
    ("devices", "hospital", "hospitals"), ("channels", "device", "devices"), ("channels", "ruled_patient", "patients"),
    ("patients", "device", "devices"), ("patients", "hospital", "hospitals"), ("patients", "preset_slot", "slots"),
    ("presets", "slot", "slots"), ("rule_states", "channel", "channels"), ("device_conditions", "device", "devices"),
    ("security_alarms", "device", "devices"),
    ("isolations", "device", "devices"),
)  # fmt: skip
_SPARSE: Final = (
    ("presets", "slot", "slots"),
    ("rule_states", "channel", "channels"),
    ("device_conditions", "device", "devices"),
    ("security_alarms", "device", "devices"),
    ("isolations", "device", "devices"),
)
_JOINED: Final = (
    *(name for names in _ROWS_OF.values() for name in names), *(name for name, *_ in _SPARSE), "spans", "ward_windows",
)  # fmt: skip
_RECENT: Final = ("recent_young", "recent_old")
_NOWHERE: Final = -1


def part_of(state: State, hospital_ids: Collection[str]) -> State:
    """The state of these hospitals alone, as a shard would hold it that never had others."""
    state = _with_whole_scorer(state)
    kept = _kept_rows(state, hospital_ids)
    part = dict(state)
    for kind, names in _ROWS_OF.items():
        part |= {name: state[name].take(pa.array(kept[kind])) for name in names}
    handles = part["devices"]["handle"].to_numpy()
    part["spans"] = state["spans"].filter(pa.array(np.isin(state["spans"]["handle"].to_numpy(), handles)))
    is_kept = [one in hospital_ids for one in state["ward_windows"]["hospital"].to_pylist()]
    part["ward_windows"] = state["ward_windows"].filter(pa.array(is_kept, pa.bool_()))
    for name, column, kind in _SPARSE:
        part[name] = state[name].filter(pa.array(np.isin(state[name][column].to_numpy(), kept[kind])))
    part["preset_slots"] = pa.table({"count": [len(kept["slots"])]})
    numbers = {kind: _numbers(rows, _size(state, kind)) for kind, rows in kept.items()}

    def renumber(kind: str, old: Numbers) -> Numbers:
        there = old >= 0
        fresh = old.copy()
        fresh[there] = numbers[kind][old[there]]
        return fresh

    return _laid_out(_pointing(part, renumber))


def together(own: State, other: State) -> State:
    """The state of a shard with `other`'s hospitals, none of which it has, behind its own."""
    own, other = _with_whole_scorer(own), _with_whole_scorer(other)
    offsets = {kind: _size(own, kind) for kind in (*_ROWS_OF, "slots")}
    moved = _pointing(other, lambda kind, old: np.where(old >= 0, old + offsets[kind], old))
    joined = dict(own)
    for name in _JOINED:
        joined[name] = pa.concat_tables([own[name], moved[name].cast(own[name].schema)]).combine_chunks()
    for name in _RECENT:
        both = np.concatenate([own[name]["identity"].to_numpy(), other[name]["identity"].to_numpy()])
        joined[name] = pa.table({"identity": np.unique(both)})
    joined["preset_slots"] = pa.table({"count": [offsets["slots"] + _size(other, "slots")]})
    return _laid_out(joined)


def _kept_rows(state: State, hospital_ids: Collection[str]) -> dict[str, Numbers]:
    hospitals = np.flatnonzero([one in hospital_ids for one in state["hospital_texts"]["id"].to_pylist()])
    devices = np.flatnonzero(np.isin(state["devices"]["hospital"].to_numpy(), hospitals))
    patients = np.flatnonzero(np.isin(state["patients"]["hospital"].to_numpy(), hospitals))
    slots = state["patients"]["preset_slot"].to_numpy()[patients]
    return {
        "hospitals": hospitals, "devices": devices, "patients": patients, "slots": np.sort(slots[slots >= 0]),
        "channels": np.flatnonzero(np.isin(state["channels"]["device"].to_numpy(), devices)),
    }  # fmt: skip


def _numbers(rows: Numbers, size: int) -> Numbers:
    """The new number of each old row; _NOWHERE for one that is not kept."""
    numbers = np.full(size, _NOWHERE, dtype=np.int64)
    numbers[rows] = np.arange(len(rows))
    return numbers


def _pointing(state: State, renumber: Callable[[str, Numbers], Numbers]) -> State:
    """The tables with each pointer numbered anew."""
    pointed = dict(state)
    for name, column, kind in _POINTERS:
        old = pointed[name][column].to_numpy().astype(np.int64)
        pointed[name] = _with(pointed[name], column, renumber(kind, old))
    return pointed


def _laid_out(state: State) -> State:
    """Where each device's channels begin: they lie side by side, in the order of the devices."""
    counts = state["devices"]["channels"].to_numpy().astype(np.int64)
    return {**state, "devices": _with(state["devices"], "base", np.cumsum(counts) - counts)}


def _with(table: pa.Table, column: str, values: Numbers) -> pa.Table:
    at = table.schema.get_field_index(column)
    return table.set_column(at, table.schema.field(at), pa.array(values).cast(table.schema.field(at).type))


def _with_whole_scorer(state: State) -> State:
    """The scorer's rows are those of channels, as far as it has come: let there be as many as channels."""
    scorer, missing = state["scorer"], state["channels"].num_rows - state["scorer"].num_rows
    if missing <= 0:
        return dict(state)
    blank = pa.table({name: pa.array(np.zeros(missing)).cast(scorer.schema.field(name).type) for name in scorer.column_names})
    return {**state, "scorer": pa.concat_tables([scorer, blank]).combine_chunks()}


def _size(state: State, kind: str) -> int:
    return int(state["preset_slots"]["count"][0].as_py()) if kind == "slots" else int(state[kind].num_rows)
