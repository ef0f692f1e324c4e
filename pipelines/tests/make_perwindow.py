#!/usr/bin/env python3
"""Makes the inputs and the expected outputs of the golden tests of queries per window, without Millstream: joins of
windows, Top-N, ranks, DISTINCT, aggregates over sorted rows. Run it after changing a test:
python3 pipelines/tests/make_perwindow.py
"""

import json
import pathlib
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import product

HERE = pathlib.Path(__file__).parent
START = datetime(2026, 3, 1, 12, 0, 0)
# The watermark is 2 s behind the newest row.
DELAY = 2


def at(seconds):
    time = START + timedelta(seconds=seconds)
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def write(path, rows):
    (HERE / path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def split(rows, size):
    """The rows that are on time for windows of `size` seconds, by the window's end in seconds; and the late ones."""
    newest, windows, late = None, defaultdict(list), []
    for row in rows:
        ts = row["_ts"]
        end = (ts // size + 1) * size
        if newest is not None and newest - DELAY >= end:
            late.append(row)
        else:
            windows[end].append(row)
        newest = ts if newest is None else max(newest, ts)
    return windows, late


def shown(rows):
    return [{key: value for key, value in row.items() if key != "_ts"} for row in rows]


def disordered(count, step, columns, late_every):
    """Rows about `step` seconds apart, some out of order by up to 1.5 s, and every so often one that is far too late."""
    rows = []
    for n in range(count):
        ts = n * step - (1.5 if n % 4 == 3 else 0)
        if n % late_every == late_every - 1:
            ts -= 25
        rows.append({"n": n, "ts": at(ts), "_ts": ts, **columns(n)})
    return rows


def bounds(end, size):
    return {"window_start": at(end - size), "window_end": at(end)}


def orders():
    return disordered(60, 0.9, lambda n: {"city": ["Bern", "Graz", "Lyon", None][n * 7 % 4], "total": n * 37 % 50}, 19)


def trips():
    return disordered(40, 1.3, lambda n: {"city": ["Graz", "Bern", "Oslo", None][n * 5 % 4], "free": n * 3 % 5}, 13)


def window_join():
    left, right = orders(), trips()
    write("window-join/orders.jsonl", shown(left))
    write("window-join/trips.jsonl", shown(right))
    of_left, late_left = split(left, 10)
    of_right, late_right = split(right, 10)
    inner = []
    for end in of_left:
        for a, b in product(of_left[end], of_right.get(end, [])):
            if a["city"] is not None and a["city"] == b["city"] and b["free"] > 0 and a["total"] < 40:
                inner.append({"window_end": at(end), "city": a["city"], "order_n": a["n"], "trip_n": b["n"]})
    write("window-join/expected.jsonl", inner)
    write("window-join/expected-late.jsonl", [
        {"n": row["n"], "ts": row["ts"], "city": row["city"], "total": row.get("total", 0), "free": row.get("free", 0)}
        for row in late_left + late_right])
    without = []
    for end, rows in of_left.items():
        cities = {b["city"] for b in of_right.get(end, [])} - {None}
        without += [{"n": a["n"], **bounds(end, 10)} for a in rows if a["city"] not in cities]
    write("window-join/expected-without.jsonl", without)


def window_join_full():
    left, right = orders(), trips()
    write("window-join-full/orders.jsonl", shown(left))
    write("window-join-full/trips.jsonl", shown(right))
    # Counts by city of each window, and of both together.
    of_left, late_left = split(left, 15)
    of_right, late_right = split(right, 15)
    counts = [defaultdict(int), defaultdict(int)]
    for count, windows in zip(counts, (of_left, of_right)):
        for end, rows in windows.items():
            for row in rows:
                if row["city"] is not None:
                    count[(end, row["city"])] += 1
    expected = []
    for end, city in sorted(set(counts[0]) | set(counts[1])):
        expected.append({"window_end": at(end), "city": city, "orders": counts[0].get((end, city)),
                         "trips": counts[1].get((end, city))})
    write("window-join-full/expected.jsonl", expected)
    write("window-join-full/expected-dead-letter.jsonl",
          [{"component": "step ordered", "reason": "late", "row": {"ts": row["ts"]}} for row in late_left]
          + [{"component": "step driven", "reason": "late", "row": {"ts": row["ts"]}} for row in late_right])


def window_topn():
    rows = orders()
    write("window-topn/input.jsonl", shown(rows))
    windows, late = split(rows, 10)
    expected = []
    for end, of_window in windows.items():
        best = sorted(of_window, key=lambda row: (-row["total"], row["n"]))[:3]
        expected += [{**bounds(end, 10), "place": place + 1, "n": row["n"], "total": row["total"]}
                     for place, row in enumerate(best)]
    write("window-topn/expected.jsonl", expected)
    write("window-topn/expected-late.jsonl", shown(late))


def window_distinct():
    rows = orders()
    write("window-distinct/input.jsonl", shown(rows))
    windows, late = split(rows, 10)
    distinct, newest = [], []
    for end, of_window in windows.items():
        cities = {row["city"] for row in of_window}
        distinct += [{**bounds(end, 10), "city": city} for city in cities]
        for city in cities:
            last = max((row for row in of_window if row["city"] == city), key=lambda row: (row["_ts"], row["n"]))
            newest.append({"window_end": at(end), "city": city, "n": last["n"], "total": last["total"]})
    write("window-distinct/expected.jsonl", distinct)
    write("window-distinct/expected-newest.jsonl", newest)
    # Both steps read the rows in windows of their own.
    write("window-distinct/expected-dead-letter.jsonl", [
        {"component": f"step {step}", "reason": "late", "row": {"n": row["n"]}}
        for step in ("cities", "newest") for row in late])


def window_rank_qualify():
    rows = orders()
    write("window-rank-qualify/input.jsonl", shown(rows))
    windows, late = split(rows, 20)
    expected = []
    for end, of_window in windows.items():
        by_city = defaultdict(list)
        for row in of_window:
            by_city[row["city"]].append(row)
        for city, of_city in by_city.items():
            for row in of_city:
                rank = 1 + sum(other["total"] > row["total"] for other in of_city)
                if rank > 2:
                    continue
                before = [other for other in of_city if (other["_ts"], other["n"]) < (row["_ts"], row["n"])]
                previous = max(before, key=lambda other: (other["_ts"], other["n"]))["n"] if before else None
                expected.append({"window_end": at(end), "city": city, "n": row["n"], "rank": rank,
                                 "previous": previous, "of_city": sum(other["total"] for other in of_city)})
    write("window-rank-qualify/expected.jsonl", expected)
    write("window-rank-qualify/expected-late.jsonl", shown(late))


def sorted_aggregate():
    rows = orders()
    write("sorted-aggregate/input.jsonl", shown(rows))
    windows, late = split(rows, 10)
    lists, sets = [], []
    for end, of_window in windows.items():
        groups = defaultdict(list)
        for row in of_window:
            groups[row["city"]].append(row)
        for city, of_city in groups.items():
            ordered = sorted(of_city, key=lambda row: (-row["total"], row["n"]))
            lists.append({"window_end": at(end), "city": city, "orders": [row["n"] for row in ordered],
                          "totals": "/".join(str(row["total"]) for row in sorted(of_city, key=lambda row: row["n"])),
                          "sum": sum(row["total"] for row in of_city)})
            sets.append({"window_end": at(end), "city": city, "all_cities": 0, "orders": len(of_city)})
        sets.append({"window_end": at(end), "city": None, "all_cities": 1, "orders": len(of_window)})
    write("sorted-aggregate/expected.jsonl", lists)
    write("sorted-aggregate/expected-sets.jsonl", sets)
    write("sorted-aggregate/expected-dead-letter.jsonl", [
        {"component": f"step {step}", "reason": "late", "row": {"n": row["n"]}}
        for step in ("lists", "sets") for row in late])


def window_order():
    rows = orders()
    write("window-order/input.jsonl", shown(rows))
    windows, late = split(rows, 10)
    expected = []
    for end in sorted(windows):
        expected += [{"window_end": at(end), "total": row["total"], "n": row["n"]}
                     for row in sorted(windows[end], key=lambda row: (-row["total"], row["n"]))]
    write("window-order/expected.jsonl", expected)
    write("window-order/expected-late.jsonl", shown(late))


def window_set_operations():
    left, right = orders(), trips()
    write("window-set-operations/orders.jsonl", shown(left))
    write("window-set-operations/trips.jsonl", shown(right))
    of_left, _ = split(left, 10)
    of_right, _ = split(right, 10)
    union, only_left, both = [], [], []
    for end in sorted(set(of_left) | set(of_right)):
        a = {row["city"] for row in of_left.get(end, [])}
        b = {row["city"] for row in of_right.get(end, [])}
        for result, cities in ((union, a | b), (only_left, a - b), (both, a & b)):
            result += [{**bounds(end, 10), "city": city} for city in cities]
    write("window-set-operations/expected.jsonl", union)
    write("window-set-operations/expected-only.jsonl", only_left)
    write("window-set-operations/expected-both.jsonl", both)


if __name__ == "__main__":
    window_join()
    window_join_full()
    window_topn()
    window_distinct()
    window_rank_qualify()
    sorted_aggregate()
    window_order()
    window_set_operations()
