#!/usr/bin/env python3
"""Makes the golden tests of results that are given out before they are final, and of what a time-to-live bounds, without
Millstream: python3 pipelines/tests/make_updating.py
"""

import json
import pathlib
from collections import defaultdict
from datetime import datetime, timedelta

HERE = pathlib.Path(__file__).parent
START = datetime(2026, 3, 1, 12, 0, 0)
DISORDER = 2


def at(seconds):
    return (START + timedelta(seconds=seconds)).isoformat()


def write(path, rows):
    (HERE / path).parent.mkdir(exist_ok=True)
    (HERE / path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def arrivals():
    """Rows as they come: the seconds after START go up, with disorder, and some rows are late."""
    rows = []
    for n in range(60):
        seconds = n - (n % 3 == 1) * 2
        if n in (25, 44):
            seconds -= 12
        rows.append({"n": n, "s": seconds, "k": "abcd"[(n * 7 // 3) % 4] if n % 11 else None, "v": (n * 37) % 50})
    return rows


def shown(row):
    return {"n": row["n"], "ts": at(row["s"]), "k": row["k"], "v": row["v"]}


def with_watermark(rows):
    """Each row with the watermark before it."""
    newest = None
    for row in rows:
        yield row, None if newest is None else newest - DISORDER
        newest = row["s"] if newest is None else max(newest, row["s"])


def late(rows):
    return [row["n"] for row, watermark in with_watermark(rows) if watermark is not None and row["s"] < watermark]


def emit_changes(rows):
    groups, too_late = defaultdict(list), []
    for row, watermark in with_watermark(rows):
        end = (row["s"] // 10 + 1) * 10
        if watermark is not None and end <= watermark:
            too_late.append(shown(row))
        else:
            groups[(row["k"], end)].append(row["v"])
    write("emit-changes/input.jsonl", map(shown, rows))
    write("emit-changes/expected.jsonl", [
        {"k": k, "window_end": at(end), "n": len(vs), "total": sum(vs), "mean": sum(vs) / len(vs)}
        for (k, end), vs in groups.items()])
    write("emit-changes/expected-late.jsonl", too_late)


def group_by_ttl(rows):
    """A key is freed after 8 seconds without a row: what comes later is a new group."""
    rows = [row for row in rows if not (row["k"] == "b" and 12 <= row["s"] < 40)]
    rows = [row for row in rows if row["n"] not in late(rows)]
    groups, newest, done = {}, {}, []
    for row in rows:
        k = row["k"]
        if k in newest and row["s"] > newest[k] + 8:
            done.append((k, groups.pop(k)))
        groups.setdefault(k, []).append(row["v"])
        newest[k] = max(newest.get(k, row["s"]) if k in groups and len(groups[k]) > 1 else row["s"], row["s"])
    done += groups.items()
    assert len(done) > len(groups)
    write("group-by-ttl/input.jsonl", map(shown, rows))
    write("group-by-ttl/expected.jsonl", [{"k": k, "n": len(vs), "most": max(vs)} for k, vs in done])


def distinct(rows):
    write("distinct/input.jsonl", map(shown, rows))
    write("distinct/expected.jsonl", [
        {"k": k, "odd": odd} for k, odd in {(row["k"], row["v"] % 2) for row in rows}])


def dedup_first(rows):
    """The first row per key in the order of time, of those in time; a key is kept for 15 seconds."""
    too_late = late(rows)
    first, newest = [], {}
    for row in sorted((row for row in rows if row["n"] not in too_late), key=lambda row: (row["s"], row["n"])):
        k = row["k"]
        if k not in newest or row["s"] > newest[k] + 15:
            first.append({"k": k, "n": row["n"], "v": row["v"]})
        newest[k] = row["s"]
    write("dedup-first/input.jsonl", map(shown, rows))
    write("dedup-first/expected.jsonl", first)
    write("dedup-first/expected-on.jsonl", first)
    write("dedup-first/expected-late.jsonl", [
        {"k": row["k"], "n": row["n"], "v": row["v"]} for row in rows if row["n"] in too_late])


def topn_changes(rows):
    by_key = defaultdict(list)
    for row in rows:
        by_key[row["k"]].append(row)
    top = []
    for k, members in by_key.items():
        best = sorted(members, key=lambda row: (-row["v"], row["n"]))[:3]
        top += [{"k": k, "place": place, "n": row["n"], "v": row["v"]} for place, row in enumerate(best, 1)]
    write("topn-changes/input.jsonl", map(shown, rows))
    write("topn-changes/expected.jsonl", top)
    newest = [max(members, key=lambda row: (row["s"], row["n"])) for members in by_key.values()]
    write("topn-changes/expected-newest.jsonl", [{"k": row["k"], "n": row["n"], "v": row["v"]} for row in newest])


for make in (emit_changes, group_by_ttl, distinct, dedup_first, topn_changes):
    make(arrivals())
