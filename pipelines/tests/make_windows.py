#!/usr/bin/env python3
"""Makes the inputs and the expected outputs of the golden tests of window functions, without Millstream.

Every model here goes by the definitions only: a list of all windows that hold a time, a watermark that is so far behind
the newest row, sessions that are found anew from all rows for each row. Run it after changing a test:
python3 pipelines/tests/make_windows.py
"""

import json
import pathlib
import random
from collections import defaultdict
from datetime import datetime, timedelta

HERE = pathlib.Path(__file__).parent
EPOCH = datetime(1970, 1, 1)
START = datetime(2026, 3, 1, 12, 0, 0)


def stamp(seconds):
    time = EPOCH + timedelta(seconds=seconds)
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def write(path, rows):
    (HERE / path).parent.mkdir(exist_ok=True)
    (HERE / path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def made(seed, count, mean, disorder, late, keys="abc"):
    """Rows every `mean` seconds or so: some within the allowed disorder, some far behind."""
    draw = random.Random(seed)
    base = (START - EPOCH).total_seconds()
    rows, now = [], base
    for n in range(count):
        now += draw.choice([0.5, 1, 1, 2]) * mean
        behind = draw.random()
        ts = now - (draw.uniform(0, disorder) if behind < 0.3 else draw.uniform(disorder, late) if behind < 0.4 else 0)
        rows.append({"n": n, "ts": round(ts * 4) / 4, "k": draw.choice(keys), "v": draw.randrange(1, 40) / 2})
    return rows


def watermarks(rows, delay):
    """With each row the watermark before it."""
    newest = None
    for row in rows:
        yield row, None if newest is None else newest - delay
        newest = row["ts"] if newest is None else max(newest, row["ts"])


def shown(row):
    return {**row, "ts": stamp(row["ts"])}


def assigned(rows, delay, windows):
    """The pairs of row and window that are on time, and the rows that are in none because all had closed."""
    pairs, late = [], []
    for row, watermark in watermarks(rows, delay):
        all_windows = windows(row["ts"])
        open_windows = [w for w in all_windows if watermark is None or w[1] > watermark]
        pairs += [(row, window) for window in open_windows]
        if all_windows and not open_windows:
            late.append(row)
    return pairs, late


def grouped(pairs, key=lambda row: (row["k"],)):
    groups = defaultdict(list)
    for row, window in pairs:
        groups[(*key(row), *window)].append(row)
    return groups


def hops(slide, size, offset=0):
    def windows(ts):
        first = int((ts - size - offset) // slide) - 1
        starts = [number * slide + offset for number in range(first, first + int(size / slide) + 4)]
        return [(start, start + size) for start in starts if start <= ts < start + size]
    return windows


def hop():
    rows = made(1, 160, 1.3, 4, 30)
    pairs, late = assigned(rows, 4, hops(2, 10))
    write("hop/input.jsonl", map(shown, rows))
    write("hop/expected.jsonl", [
        {"k": k, "window_start": stamp(start), "window_end": stamp(end), "n": len(group),
         "total": sum(row["v"] for row in group), "most": max(row["v"] for row in group)}
        for (k, start, end), group in grouped(pairs).items()])
    write("hop/expected-late.jsonl", map(shown, late))
    # Rows one by one, with their windows.
    pairs, _ = assigned(rows, 4, hops(4, 10, 1))
    write("hop/expected-rows.jsonl", [
        {"n": row["n"], "window_start": stamp(start), "window_end": stamp(end)} for row, (start, end) in pairs])


def hop_gaps():
    rows = made(2, 120, 1.1, 3, 25)
    pairs, late = assigned(rows, 3, hops(10, 4, 1))
    write("hop-gaps/input.jsonl", map(shown, rows))
    write("hop-gaps/expected.jsonl", [
        {"k": k, "window_start": stamp(start), "window_end": stamp(end), "n": len(group)}
        for (k, start, end), group in grouped(pairs).items()])
    write("hop-gaps/expected-late.jsonl", map(shown, late))


def cumulate():
    step, longest = 5, 20

    def windows(ts):
        start = ts // longest * longest
        ends = [start + step * (number + 1) for number in range(longest // step)]
        return [(start, end) for end in ends if ts < end]
    rows = made(3, 150, 1.2, 4, 40)
    pairs, late = assigned(rows, 4, windows)
    write("cumulate/input.jsonl", map(shown, rows))
    write("cumulate/expected.jsonl", [
        {"k": k, "window_start": stamp(start), "window_end": stamp(end), "n": len(group),
         "mean": sum(row["v"] for row in group) / len(group)}
        for (k, start, end), group in grouped(pairs).items()])
    write("cumulate/expected-late.jsonl", map(shown, late))


def islands(times, gap):
    """Sessions as (first, last) of sorted times."""
    sessions = []
    for time in sorted(times):
        if sessions and time - sessions[-1][1] < gap:
            sessions[-1] = (sessions[-1][0], time)
        else:
            sessions.append((time, time))
    return sessions


def sessions_of(rows, delay, gap, key):
    """On-time rows and late ones by the rule of docs/sql/windows.md, from all rows so far for each row."""
    on_time, late = defaultdict(list), []
    for row, watermark in watermarks(rows, delay):
        mark = float("-inf") if watermark is None else watermark
        ts, mine = row["ts"], on_time[key(row)]
        near, closed = [], False
        for first, last in islands([other["ts"] for other, _ in mine], gap):
            if ts < last + gap and first < ts + gap:
                closed |= last + gap <= mark
                near.append(min(begun for other, begun in mine if first <= other["ts"] <= last))
        if closed or (ts + gap <= mark and not any(begun < ts + gap for begun in near)):
            late.append(row)
        else:
            mine.append((row, max(mark, ts)))
    return {key: [row for row, _ in rows] for key, rows in on_time.items()}, late


def session():
    rows = [row for row in made(4, 260, 1.0, 4, 40) if row["n"] % 40 < 28 or row["k"] == "a"]
    gap = 5
    on_time, late = sessions_of(rows, 4, gap, lambda row: row["k"])
    expected = []
    for k, mine in on_time.items():
        for first, last in islands([row["ts"] for row in mine], gap):
            group = [row for row in mine if first <= row["ts"] <= last]
            expected.append({"k": k, "window_start": stamp(first), "window_end": stamp(last + gap), "n": len(group),
                             "total": sum(row["v"] for row in group)})
    assert len(late) > 5 and len(expected) > 20
    write("session/input.jsonl", map(shown, rows))
    write("session/expected.jsonl", expected)
    write("session/expected-late.jsonl", map(shown, late))


def tumbles(size, offset=0):
    return hops(size, size, offset)


def date_bin():
    rows = made(5, 150, 3.1, 6, 60)
    pairs, late = assigned(rows, 6, tumbles(30))
    write("date-bin/input.jsonl", map(shown, rows))
    write("date-bin/expected.jsonl", [
        {"at": stamp(start), "k": k, "n": len(group), "total": sum(row["v"] for row in group)}
        for (k, start, _), group in grouped(pairs).items()])
    write("date-bin/expected-late.jsonl", map(shown, late))
    pairs, late = assigned(rows, 6, tumbles(60))
    write("date-bin/expected-minutes.jsonl", [
        {"minute": stamp(start), "n": len(group)} for (start, _), group in grouped(pairs, lambda row: ()).items()])


def flink_spelling():
    rows = made(6, 150, 1.3, 4, 30)
    write("flink-spelling/input.jsonl", map(shown, rows))
    pairs, late = assigned(rows, 4, tumbles(10))
    write("flink-spelling/expected-tumble.jsonl", [
        {"window_start": stamp(start), "window_end": stamp(end), "n": len(group)}
        for (start, end), group in grouped(pairs, lambda row: ()).items()])
    pairs, late = assigned(rows, 4, hops(5, 10))
    write("flink-spelling/expected-hop.jsonl", [
        {"window_start": stamp(start), "window_end": stamp(end), "n": len(group)}
        for (start, end), group in grouped(pairs, lambda row: ()).items()])
    pairs, late = assigned(rows, 4, lambda ts: [
        (ts // 15 * 15, ts // 15 * 15 + end) for end in (5, 10, 15) if ts < ts // 15 * 15 + end])
    write("flink-spelling/expected-cumulate.jsonl", [
        {"window_start": stamp(start), "window_end": stamp(end), "n": len(group)}
        for (start, end), group in grouped(pairs, lambda row: ()).items()])
    on_time, late = sessions_of(rows, 4, 3, lambda row: row["k"])
    write("flink-spelling/expected-session.jsonl", [
        {"k": k, "window_start": stamp(first), "window_end": stamp(last + 3),
         "n": sum(first <= row["ts"] <= last for row in mine)}
        for k, mine in on_time.items() for first, last in islands([row["ts"] for row in mine], 3)])


def window_of_window():
    rows = made(7, 300, 1.7, 4, 50)
    pairs, late = assigned(rows, 4, tumbles(10))
    per_10 = [(k, start, end, sum(row["v"] for row in group)) for (k, start, end), group in grouped(pairs).items()]
    # The most of each 10 seconds, over all keys; then by the minute, once by start and once by end.
    peaks = defaultdict(list)
    for k, start, end, total in per_10:
        peaks[(start, end)].append(total)
    write("window-of-window/input.jsonl", map(shown, rows))
    write("window-of-window/expected-peaks.jsonl", [
        {"window_start": stamp(start), "window_end": stamp(end), "peak": max(totals)}
        for (start, end), totals in peaks.items()])
    by_start, by_end = defaultdict(list), defaultdict(list)
    for k, start, end, total in per_10:
        by_start[(k, start // 60 * 60)].append(total)
        by_end[(k, end // 60 * 60)].append(total)
    write("window-of-window/expected.jsonl", [
        {"k": k, "minute": stamp(start), "tens": len(totals), "total": sum(totals)}
        for (k, start), totals in by_start.items()])
    write("window-of-window/expected-by-end.jsonl", [
        {"k": k, "minute_end": stamp(start + 60), "total": sum(totals)} for (k, start), totals in by_end.items()])
    write("window-of-window/expected-late.jsonl", map(shown, late))


def month():
    draw = random.Random(8)
    day = 86_400
    now, rows = (datetime(2023, 11, 20) - EPOCH).total_seconds(), []
    for n in range(160):
        now += draw.choice([1, 3, 5, 9]) * day / 2
        behind = draw.random()
        ts = now - (draw.uniform(0, 3) if behind < 0.3 else draw.uniform(3, 60) if behind < 0.4 else 0) * day
        rows.append({"n": n, "ts": float(round(ts)), "k": draw.choice("ab"), "v": draw.randrange(1, 40) / 2})

    def months(count):
        def windows(ts):
            time = EPOCH + timedelta(seconds=ts)
            first = (time.year * 12 + time.month - 1) // count * count
            bounds = [datetime(m // 12, m % 12 + 1, 1) for m in (first, first + count)]
            return [tuple((bound - EPOCH).total_seconds() for bound in bounds)]
        return windows
    write("month/input.jsonl", map(shown, rows))
    pairs, late = assigned(rows, 3 * day, months(1))
    write("month/expected.jsonl", [
        {"k": k, "window_start": stamp(start), "window_end": stamp(end), "n": len(group),
         "total": sum(row["v"] for row in group)} for (k, start, end), group in grouped(pairs).items()])
    write("month/expected-late.jsonl", map(shown, late))
    pairs, _ = assigned(rows, 3 * day, months(3))
    write("month/expected-quarters.jsonl", [
        {"quarter": stamp(start), "n": len(group)} for (start, _), group in grouped(pairs, lambda row: ()).items()])


def processing_time():
    """All rows come at about the same time, so that each key has one session."""
    rows = [{"k": row["k"], "v": row["v"]} for row in made(9, 40, 1.0, 0, 1)]
    write("processing-time/input.jsonl", rows)
    keys = sorted({row["k"] for row in rows})
    of = {k: [row["v"] for row in rows if row["k"] == k] for k in keys}
    write("processing-time/expected.jsonl", [{"k": k, "clicks": len(of[k]), "total": sum(of[k])} for k in keys])
    write("processing-time/expected-plausible.jsonl", [row | {"after_2025": True} for row in rows])


for make in (hop, hop_gaps, cumulate, session, date_bin, flink_spelling, window_of_window, month, processing_time):
    make()
