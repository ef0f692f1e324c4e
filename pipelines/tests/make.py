#!/usr/bin/env python3
"""Makes the inputs and the expected outputs of the golden tests, without Millstream.

What a pipeline should give is computed here a second time, in plain Python, so that the expected rows never come from
the program under test. Run it after changing a test: python3 pipelines/tests/make.py
"""

import json
import math
import pathlib
from collections import defaultdict
from datetime import datetime, timedelta

HERE = pathlib.Path(__file__).parent
START = datetime(2026, 3, 1, 12, 0, 0)


def stamp(time):
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def write(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (HERE / path).write_text(text)


def window(ts, seconds):
    """The window's end, as text, of a time given in seconds after START."""
    return stamp(START + timedelta(seconds=(ts // seconds + 1) * seconds))


def at(seconds):
    return stamp(START + timedelta(seconds=seconds))


def projection():
    orders = [
        {"id": 1, "customer": "Ann", "tags": ["new", "gift"], "total": 120.5, "note": '{"lang": "de", "items": [3, 4]}'},
        {"id": 2, "customer": "  bob ", "tags": [], "total": 20.0, "note": '{"lang": "fr", "items": []}'},
        {"id": 3, "customer": "Cem", "tags": ["vip"], "total": 50, "note": None},
        {"id": 4, "customer": None, "tags": None, "total": None, "note": '{"lang": 7}'},
        {"id": 5, "customer": "Zoë", "tags": ["new", "new", "x"], "total": -1.25, "note": '{"items": [9]}'},
    ]
    shaped, tags = [], []
    for order in orders:
        note = json.loads(order["note"]) if order["note"] else {}
        total, lang, items = order["total"], note.get("lang"), note.get("items", [])
        size = "unknown" if total is None else "large" if total >= 100 else "medium" if total >= 50 else "small"
        shaped.append({
            "id": order["id"],
            "customer": order["customer"].strip().upper() if order["customer"] else None,
            "size": size,
            "lang": lang if isinstance(lang, str) else "en",
            "first_item": items[0] if items else None,
            "tag_count": len(order["tags"]) if order["tags"] is not None else None,
        })
        tags += [{"id": order["id"], "tag": tag} for tag in order["tags"] or []]
    write("projection/input.jsonl", orders)
    write("projection/expected.jsonl", shaped)
    write("projection/expected-tags.jsonl", tags)


def table_join():
    sensors = {"s1": ("Hall A", 20.0), "s2": ("Hall B", 30.0), "s3": (None, None)}
    write("table-join/sensors.csv",
          ["sensor,hall,limit_c"] + [f"{key},{hall or ''},{limit or ''}" for key, (hall, limit) in sensors.items()])
    readings = [{"n": n, "sensor": f"s{n % 5}", "c": 15.0 + n} for n in range(20)] + [{"n": 20, "sensor": None, "c": 1.0}]
    write("table-join/input.jsonl", readings)
    known = [r for r in readings if r["sensor"] in sensors]
    write("table-join/expected.jsonl", [
        {"n": r["n"], "hall": sensors[r["sensor"]][0], "over": r["c"] - sensors[r["sensor"]][1]}
        for r in known if sensors[r["sensor"]][1] is not None and r["c"] > sensors[r["sensor"]][1]])
    write("table-join/expected-all.jsonl",
          [{"n": r["n"], "hall": sensors.get(r["sensor"], (None,))[0]} for r in readings])
    write("table-join/expected-unknown.jsonl", [{"n": r["n"]} for r in readings if r["sensor"] not in sensors])


def tumble():
    rows = []
    for n in range(120):
        # Up to 1.4 s of disorder; 2 s are allowed.
        ts = n * 0.5 - (1.4 if n % 4 == 3 else 0)
        value = None if n % 17 == 5 else (n * 37 % 101) / 4
        rows.append({"ts": at(ts), "k": "abc"[n % 3], "v": value, "ok": n % 7 != 0, "_ts": ts})
    groups = defaultdict(list)
    for row in rows:
        groups[(row["k"], window(row["_ts"], 10))].append(row)
    expected = []
    for (key, end), group in groups.items():
        values = [row["v"] for row in group if row["v"] is not None]
        mean = sum(values) / len(values)
        expected.append({
            "k": key, "window_end": end, "n": len(group), "with_value": len(values), "total": sum(values),
            "mean": mean, "least": min(values), "most": max(values), "different": len(set(values)),
            "stddev": math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)),
            "good": sum(row["ok"] for row in group),
        })
    for row in rows:
        del row["_ts"]
    write("tumble/input.jsonl", rows)
    write("tumble/expected.jsonl", expected)


def late():
    # The watermark is 2 s behind the newest row; a window of 10 s is closed when the watermark has reached its end.
    times = [1, 4, 9, 11.5, 9.9, 12.5, 8, 20, 13, 22.5, 19, 19.9, 21, 40, 21.5, 39, 3]
    newest, counted, too_late = None, defaultdict(int), []
    for n, ts in enumerate(times):
        end = (ts // 10 + 1) * 10
        if newest is not None and newest - 2 >= end:
            too_late.append({"n": n, "ts": at(ts)})
        else:
            counted[window(ts, 10)] += 1
        newest = ts if newest is None else max(newest, ts)
    write("late/input.jsonl", [{"n": n, "ts": at(ts)} for n, ts in enumerate(times)])
    write("late/expected.jsonl", [{"window_end": end, "n": n} for end, n in counted.items()])
    write("late/expected-late.jsonl", too_late)


def union_steps():
    web = [{"ts": at(n), "user": f"u{n % 4}", "amount": n} for n in range(30)]
    shop = [{"at": at(n + 0.5), "customer": f"u{n % 3}", "cents": n * 150} for n in range(30)]
    write("union-steps/web.jsonl", web)
    write("union-steps/shop.jsonl", shop)
    sales = [(n, f"u{n % 4}", float(n), "web") for n in range(30)]
    sales += [(n + 0.5, f"u{n % 3}", n * 1.5, "shop") for n in range(30)]
    sums, counts = defaultdict(float), defaultdict(int)
    for ts, user, amount, _ in sales:
        sums[(window(ts, 15), user)] += amount
        counts[(window(ts, 15), user)] += 1
    totals = [{"window_end": end, "user": user, "total": total, "sales": counts[(end, user)]}
              for (end, user), total in sums.items()]
    write("union-steps/expected.jsonl", [t for t in totals if t["total"] > 50])
    write("union-steps/expected-large.jsonl",
          [{"user": user, "amount": amount, "via": via} for _, user, amount, via in sales if amount >= 25])


def wasm_trap():
    pairs = [(10, 2), (7, 0), (-9, 2), (5, None), (1, 3), (0, 0)]
    write("wasm-trap/input.jsonl", [{"a": a, "b": b} for a, b in pairs])
    # WebAssembly's i64.div_s rounds towards zero and traps where the divisor is zero; NULL gives NULL.
    rows, letters = [], []
    for a, b in pairs:
        if b == 0:
            letters.append({"component": "step divided", "reason": "divide by zero", "row": {"a": a, "b": b}})
        else:
            rows.append({"a": a, "b": b, "quotient": None if b is None else int(a / b)})
    write("wasm-trap/expected.jsonl", rows)
    write("wasm-trap/expected-dead-letter.jsonl", letters)
    # (module (func (export "divide") (param i64 i64) (result i64) local.get 0 local.get 1 i64.div_s))
    name = b"divide"
    module = b"\0asm\x01\0\0\0"
    module += bytes([1, 7, 1, 0x60, 2, 0x7E, 0x7E, 1, 0x7E])
    module += bytes([3, 2, 1, 0])
    module += bytes([7, 4 + len(name), 1, len(name)]) + name + bytes([0, 0])
    module += bytes([10, 9, 1, 7, 0, 0x20, 0, 0x20, 1, 0x7F, 0x0B])
    (HERE / "wasm-trap/divide.wasm").write_bytes(module)


def csv():
    (HERE / "csv/input.csv").write_text(
        "day;shop;text;sold\n"
        "2026-03-01;Köln;\"a; b\";3\n"
        "2026-03-01;Bonn;\"say \"\"hi\"\"\";12\n"
        "2026-03-02;Köln;;\n"
        "2026-03-03;Trier;plain;many\n"
        "2026-03-04;;x,y;7\n")
    (HERE / "csv/expected.csv").write_text(
        "day,shop,text,double_sold\n"
        "2026-03-01,Köln,a; b,6\n"
        "2026-03-01,Bonn,\"say \"\"hi\"\"\",24\n"
        "2026-03-02,Köln,,\n"
        "2026-03-04,,\"x,y\",14\n")
    write("csv/expected-dead-letter.jsonl",
          [{"component": "source sales", "reason": "sold", "payload": "2026-03-03;Trier;plain;many"}])


def dew_point(celsius, humidity):
    gamma = math.log(humidity / 100) + 17.62 * celsius / (243.12 + celsius)
    return 243.12 * gamma / (17.62 - gamma)


def cold_chain():
    vehicles = {}
    for line in (HERE / "../data/vehicles.csv").read_text().splitlines()[1:]:
        vehicle, depot, cargo, cold, limit = line.split(",")
        vehicles[vehicle] = (depot, cargo, cold == "true", float(limit) if limit else None)
    rows, groups = [], defaultdict(list)
    for n in range(240):
        ts, vehicle = n * 0.125, f"truck-{n % 8 + 12:02d}"
        bay = round(4.00307 + (n % 8) + ts * 0.15371, 5)
        humidity = 50.0 + n % 40
        rows.append({"ts": at(ts), "vehicle": vehicle, "bay_c": bay, "humidity": humidity, "door_open": n % 9 == 0,
                     "speed_kmh": n % 90})
        groups[(vehicle, window(ts, 5))].append((bay, humidity))
    rows.insert(100, {"ts": at(12), "vehicle": "truck-13", "bay_c": "sensor fault"})
    rows.insert(200, {"ts": at(1), "vehicle": "truck-14", "bay_c": 30.0, "humidity": 50.0})
    expected = []
    for (vehicle, end), group in groups.items():
        depot, cargo, cold, limit = vehicles[vehicle]
        bay = sum(b for b, _ in group) / len(group)
        humidity = sum(h for _, h in group) / len(group)
        shown = round(bay, 1)
        assert abs(bay * 10 % 1 - 0.5) > 1e-6, "a tie: Python and SQL round it differently"
        if cold and shown > limit:
            expected.append({"at": end, "vehicle": vehicle, "depot": depot, "cargo": cargo, "bay_c": shown,
                             "max_c": limit, "dew_point_c": round(dew_point(bay, humidity), 1),
                             "level": "critical" if shown > limit + 2 else "warm"})
    write("cold-chain/input.jsonl", rows)
    write("cold-chain/expected.jsonl", expected)
    write("cold-chain/expected-dead-letter.jsonl", [
        {"component": "source readings", "reason": "bay_c", "payload": json.dumps(rows[100])},
        {"component": "step bays", "reason": "late", "row": {"vehicle": "truck-14", "bay_c": 30.0}}])


def web_shop():
    rows, groups = [], defaultdict(list)
    for n in range(60):
        ts, page = n * 0.4, ["/", "/shoes", "/cart"][n % 3 if n % 5 else 0]
        rows.append({"received_at": at(ts), "page": page, "visitor": f"v{n % 7}", "ms": 10.0 + n * 13 % 50})
        groups[(page, window(ts, 5))].append(rows[-1])
    write("web-shop/input.jsonl", rows)
    write("web-shop/expected.jsonl", [
        {"at": end, "page": page, "views": len(group), "visitors": len({row["visitor"] for row in group}),
         "ms": math.floor(sum(row["ms"] for row in group) / len(group) * 10 + 0.5) / 10,
         "slowest_ms": max(row["ms"] for row in group)}
        for (page, end), group in groups.items()])


for make in (projection, table_join, tumble, late, union_steps, wasm_trap, csv, cold_chain, web_shop):
    make()
