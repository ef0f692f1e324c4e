#!/usr/bin/env python3
"""Makes the inputs and the expected outputs of the golden tests of MATCH_RECOGNIZE, without Millstream.

A pattern is tried here as SQL defines it: from each row on, all ways in the order of preference, until one fits.
Run it after changing a test: python3 pipelines/tests/make_match.py
"""

import json
import pathlib
import random
from collections import defaultdict
from datetime import datetime, timedelta

HERE = pathlib.Path(__file__).parent
START = datetime(2026, 3, 1, 12, 0, 0)


def at(seconds):
    time = START + timedelta(seconds=seconds)
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def write(path, rows):
    (HERE / path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def shuffled(rows, disorder, seed):
    """The rows in an order in which most are at most so many seconds behind the newest, and a few are later."""
    chance = random.Random(seed)
    delay = lambda: disorder * 4 if chance.random() < 0.06 else chance.random() * disorder
    return [row for _, row in sorted(((row["t"] + delay(), row) for row in rows), key=lambda pair: pair[0])]


def split(rows, watermark):
    """The rows that are on time, and those that come when the watermark has passed them."""
    newest, on_time, late = None, [], []
    for row in rows:
        (late if newest is not None and row["t"] < newest - watermark else on_time).append(row)
        newest = row["t"] if newest is None else max(newest, row["t"])
    return on_time, late


def out(row):
    return {"ts": at(row["t"]), **{key: value for key, value in row.items() if key != "t"}}


def partitions(rows, key):
    by_key = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["t"]):
        by_key[row[key]].append(row)
    return by_key


def ways(pattern, rows, start, taken, define, within):
    """Every way to match `pattern` after `taken` (a list of variables), the preferred first."""
    kind = pattern[0]
    if kind == "var":
        row = start + len(taken)
        if row < len(rows) and rows[row]["t"] - rows[start]["t"] < within:
            more = taken + [pattern[1]]
            if define.get(pattern[1], lambda *_: True)(rows, start, more, row):
                yield more
    elif kind == "seq":
        if len(pattern) == 1:
            yield taken
        else:
            for first in ways(pattern[1], rows, start, taken, define, within):
                yield from ways(("seq", *pattern[2:]), rows, start, first, define, within)
    elif kind == "or":
        for part in pattern[1:]:
            yield from ways(part, rows, start, taken, define, within)
    else:
        _, inner, least, most, greedy = pattern
        if least == 0 and not greedy:
            yield taken
        if most is None or most > 0:
            for first in ways(inner, rows, start, taken, define, within):
                rest = ("repeat", inner, max(least - 1, 0), None if most is None else most - 1, greedy)
                yield from ways(rest, rows, start, first, define, within)
        if least == 0 and greedy:
            yield taken


def matches(pattern, rows, define, within, skip=lambda taken: len(taken)):
    """The matches: the starting row, and the variable of each row."""
    found, start = [], 0
    while start < len(rows):
        taken = next(ways(pattern, rows, start, [], define, within), None)
        if taken:
            found.append((start, taken))
        start += skip(taken) if taken else 1
    return found


def var(name):
    return ("var", name)


def repeat(inner, least, most, greedy=True):
    return ("repeat", inner, least, most, greedy)


def previous(rows, row, within):
    """The row before, where it is less than the interval away."""
    return rows[row - 1] if row > 0 and rows[row]["t"] - rows[row - 1]["t"] < within else None


def prices(seed, count):
    chance = random.Random(seed)
    price, rows = {"AAA": 50.0, "BBB": 80.0, "CCC": 20.0}, []
    for n in range(count):
        symbol = chance.choice(list(price))
        price[symbol] += chance.choice([-4, -2, -1, -1, 1, 1.5, 2, 4])
        rows.append({"t": n + chance.randrange(1000) / 1000, "symbol": symbol, "price": price[symbol]})
    return rows


def of(rows, start, taken, name):
    return [rows[start + index] for index, variable in enumerate(taken) if variable in name]


def one_row():
    rows = shuffled(prices(1, 240), 3, 2)
    on_time, late = split(rows, 3)
    before = lambda rows, row: previous(rows, row, 60)
    falls = lambda rows, _, __, row: before(rows, row) is not None and rows[row]["price"] < before(rows, row)["price"]
    rises = lambda rows, _, __, row: before(rows, row) is not None and rows[row]["price"] > before(rows, row)["price"]
    pattern = ("seq", var("HIGH"), repeat(var("DOWN"), 2, None), repeat(var("UP"), 1, None))
    expected = []
    for symbol, part in partitions(on_time, "symbol").items():
        found = matches(pattern, part, {"DOWN": falls, "UP": rises}, 60)
        for number, (start, taken) in enumerate(found):
            all_rows = part[start:start + len(taken)]
            expected.append({
                "symbol": symbol,
                "since": at(all_rows[0]["t"]),
                "lowest": of(part, start, taken, ["DOWN"])[-1]["price"],
                "recovered": of(part, start, taken, ["UP"])[-1]["price"],
                "steps_down": taken.count("DOWN"),
                "mean": sum(row["price"] for row in all_rows) / len(all_rows),
                "number": number + 1,
            })
    write("match-one-row/input.jsonl", map(out, rows))
    write("match-one-row/expected.jsonl", expected)
    write("match-one-row/expected-late.jsonl", map(out, late))


def all_rows():
    rows = shuffled(prices(3, 240), 3, 4)
    on_time, late = split(rows, 3)

    def rise(rows, row):
        before = previous(rows, row, 30)
        return rows[row]["price"] - before["price"] if before else 0

    define = {
        "SMALL": lambda rows, _, __, row: 0 < rise(rows, row) < 3,
        "LARGE": lambda rows, _, __, row: rise(rows, row) > 0,
    }
    pattern = ("seq", var("BASE"), repeat(("or", var("SMALL"), var("LARGE")), 2, 4))
    expected, counted = [], defaultdict(int)
    for symbol, part in partitions(on_time, "symbol").items():
        for start, taken in matches(pattern, part, define, 30):
            whole = part[start:start + len(taken)]
            for index, row in enumerate(whole):
                risen = of(part, start, taken[:index + 1], ["SMALL", "LARGE"])
                expected.append({
                    "symbol": symbol, "ts": at(row["t"]), "price": row["price"], "variable": taken[index],
                    "so_far": index + 1, "highest": max(row["price"] for row in whole),
                    "gain": risen[-1]["price"] - whole[0]["price"] if risen else None,
                })
                counted[at((row["t"] // 20 + 1) * 20)] += 1
    write("match-all-rows/input.jsonl", map(out, rows))
    write("match-all-rows/expected.jsonl", expected)
    write("match-all-rows/expected-counted.jsonl", [{"window_end": end, "n": n} for end, n in counted.items()])
    write("match-all-rows/expected-late.jsonl", map(out, late))


def skip():
    chance = random.Random(5)
    rows = [{"t": n / 2, "k": chance.choice("xyz"), "n": chance.randrange(9)} for n in range(200)]
    rows = shuffled(rows, 2, 6)
    on_time, late = split(rows, 2)

    def rises(rows, _, __, row):
        before = previous(rows, row, 12)
        return before is not None and rows[row]["n"] > before["n"]

    define = {"B": rises, "C": lambda rows, _, __, row: rows[row]["n"] < 3}
    pattern = ("seq", var("A"), repeat(var("B"), 1, None), repeat(var("C"), 0, 1))
    skips = {
        "past_last": lambda taken: len(taken),
        "to_next": lambda taken: 1,
        "to_first": lambda taken: taken.index("B"),
        "to_last": lambda taken: len(taken) - 1 - taken[::-1].index("B"),
    }
    for name, mode in skips.items():
        expected = []
        for k, part in partitions(on_time, "k").items():
            for start, taken in matches(pattern, part, define, 12, mode):
                last = part[start + len(taken) - 1]
                expected.append({"k": k, "first": part[start]["n"], "last": last["n"], "c": len(taken)})
        write(f"match-skip/expected-{name}.jsonl", expected)
    write("match-skip/input.jsonl", map(out, rows))
    write("match-skip/expected-late.jsonl", map(out, late))


def within():
    chance = random.Random(7)
    rows = [{"t": n * 1.5, "login": chance.choice(["ann", "bob"]), "ok": chance.random() < 0.2} for n in range(160)]
    # To the millisecond: 20 seconds are too many, a little less are not.
    rows += [{"t": 300 + t, "login": "eve", "ok": t > 15} for t in (0, 5, 10, 20)]
    rows += [{"t": 400 + t, "login": "eve", "ok": t > 15} for t in (0, 5, 10, 19.999)]
    rows = shuffled(rows, 5, 8)
    on_time, late = split(rows, 5)
    define = {"FAILED": lambda rows, _, __, row: not rows[row]["ok"], "GOOD": lambda rows, _, __, row: rows[row]["ok"]}
    pattern = ("seq", repeat(var("FAILED"), 3, None), var("GOOD"))
    expected = []
    for login, part in partitions(on_time, "login").items():
        for start, taken in matches(pattern, part, define, 20):
            last = part[start + len(taken) - 1]
            expected.append({"login": login, "first_try": at(part[start]["t"]), "last_try": at(last["t"]),
                             "tries": len(taken)})
    write("match-within/input.jsonl", map(out, rows))
    write("match-within/expected.jsonl", expected)
    write("match-within/expected-late.jsonl", map(out, late))


def reluctant():
    chance = random.Random(9)
    rows = [{"t": n * 0.7, "machine": chance.choice(["m1", "m2"]), "load": chance.randrange(20)} for n in range(160)]
    rows = shuffled(rows, 2, 10)
    on_time, late = split(rows, 2)
    loads = lambda rows, start, taken: [row["load"] for row in of(rows, start, taken, ["A"])]
    define = {
        "A": lambda rows, start, taken, _: sum(loads(rows, start, taken)) < 40,
        "B": lambda rows, start, taken, row: rows[row]["load"] > loads(rows, start, taken)[0],
    }
    for name, greedy in {"greedy": True, "reluctant": False}.items():
        pattern = ("seq", repeat(var("A"), 1, None, greedy), var("B"))
        expected = []
        for machine, part in partitions(on_time, "machine").items():
            for start, taken in matches(pattern, part, define, 15):
                values = loads(part, start, taken)
                expected.append({"machine": machine, "first": values[0], "last": part[start + len(taken) - 1]["load"],
                                 "n": len(taken), "total": sum(values)})
        write(f"match-reluctant/expected-{name}.jsonl", expected)
    write("match-reluctant/input.jsonl", map(out, rows))
    write("match-reluctant/expected-late.jsonl", map(out, late))


for make in (one_row, all_rows, skip, within, reluctant):
    make()
