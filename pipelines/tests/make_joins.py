#!/usr/bin/env python3
"""Makes the inputs and the expected outputs of the golden tests of joins of two streams, without Millstream.

Run it after changing a test: python3 pipelines/tests/make_joins.py
"""

import json
import pathlib
import random
from datetime import datetime, timedelta

HERE = pathlib.Path(__file__).parent
START = datetime(2026, 3, 1, 12, 0, 0)


def at(seconds):
    return (START + timedelta(seconds=seconds)).isoformat()


def write(folder, name, rows):
    (HERE / folder).mkdir(exist_ok=True)
    (HERE / folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def disordered(random_, count, step, delay):
    """Times in seconds: mostly within `delay` of order, some of them later than that."""
    now, times = 0, []
    for _ in range(count):
        now += random_.randrange(step + 1)
        behind = random_.choice([0, 0, 0, random_.randrange(delay + 1), 4 * delay])
        times.append(max(0, now - behind))
    return times


def split_late(rows, time, delay):
    """The rows that are on time, and the late ones: below the newest time before them less the delay."""
    newest, on_time, late = None, [], []
    for row in rows:
        if newest is not None and row[time] < newest - delay:
            late.append(row)
        else:
            on_time.append(row)
        newest = row[time] if newest is None else max(newest, row[time])
    return on_time, late


def shown(rows, time):
    return [{**row, time: at(row[time])} for row in rows]


def letters(step, rows, time):
    return [{"component": f"step {step}", "reason": "late", "row": {**row, time: at(row[time]) + "Z"}} for row in rows]


def orders_and_payments(folder, kind, seed):
    random_ = random.Random(seed)
    orders = [{"order_id": n % 23, "customer": f"c{n % 5}", "ts": ts}
              for n, ts in enumerate(disordered(random_, 60, 40, 30))]
    payments = [{"order_id": random_.choice([None, *range(26)]), "amount": 10 + n, "paid_at": ts}
                for n, ts in enumerate(disordered(random_, 60, 40, 30))]
    write(folder, "orders.jsonl", shown(orders, "ts"))
    write(folder, "payments.jsonl", shown(payments, "paid_at"))
    orders, late_orders = split_late(orders, "ts", 60)
    payments, late_payments = split_late(payments, "paid_at", 60)
    rows, paid, used = [], set(), set()
    for o, order in enumerate(orders):
        for p, payment in enumerate(payments):
            near = order["ts"] <= payment["paid_at"] <= order["ts"] + 300
            if near and order["order_id"] == payment["order_id"]:
                rows.append({"order_id": order["order_id"], "customer": order["customer"], "ts": at(order["ts"]),
                             "amount": payment["amount"], "paid_at": at(payment["paid_at"])})
                paid.add(o)
                used.add(p)
    if kind in ("left", "full"):
        rows += [{"order_id": order["order_id"], "customer": order["customer"], "ts": at(order["ts"]),
                  "amount": None, "paid_at": None} for o, order in enumerate(orders) if o not in paid]
    if kind == "full":
        rows += [{"order_id": None, "customer": None, "ts": None, "amount": payment["amount"],
                  "paid_at": at(payment["paid_at"])} for p, payment in enumerate(payments) if p not in used]
    assert late_orders and late_payments and rows
    write(folder, "expected.jsonl", rows)
    write(folder, "expected-dead-letter.jsonl",
          letters("paid", late_orders, "ts") + letters("paid", late_payments, "paid_at"))


def versions_of(rows, time, key, value):
    """By key, the versions by time; of those with one time the greatest value counts."""
    by_key = {}
    for row in rows:
        versions = by_key.setdefault(row[key], {})
        versions[row[time]] = max(versions.get(row[time], row[value]), row[value])
    return by_key


def newest(versions, ts):
    times = [time for time in versions if time <= ts]
    return (max(times), versions[max(times)]) if times else None


def temporal_join():
    random_ = random.Random(7)
    orders = [{"id": n, "currency": random_.choice(["EUR", "USD", "CHF", None]), "price": 100 + n, "ts": ts}
              for n, ts in enumerate(disordered(random_, 60, 20, 10))]
    rates = [{"currency": random_.choice(["EUR", "USD", "GBP"]), "rate": 1 + n / 8, "since": ts}
             for n, ts in enumerate(disordered(random_, 40, 30, 10))]
    write("temporal-join", "orders.jsonl", shown(orders, "ts"))
    write("temporal-join", "rates.jsonl", shown(rates, "since"))
    orders, late_orders = split_late(orders, "ts", 20)
    rates, late_rates = split_late(rates, "since", 20)
    by_currency = versions_of(rates, "since", "currency", "rate")
    rows = []
    for order in orders:
        version = newest(by_currency.get(order["currency"], {}), order["ts"])
        if version:
            rows.append({"id": order["id"], "in_dollars": order["price"] * version[1]})
    assert late_orders and late_rates and rows
    write("temporal-join", "expected.jsonl", rows)
    write("temporal-join", "expected-dead-letter.jsonl",
          letters("priced", late_orders, "ts") + letters("priced", late_rates, "since"))


def asof_join():
    random_ = random.Random(11)
    trades = [{"id": n, "symbol": random_.choice(["AAA", "BBB", "CCC"]), "size": n % 9, "ts": ts}
              for n, ts in enumerate(disordered(random_, 60, 8, 5))]
    quotes = [{"symbol": random_.choice(["AAA", "BBB"]), "bid": 20 + n / 4, "ts": ts}
              for n, ts in enumerate(disordered(random_, 60, 8, 5))]
    write("asof-join", "trades.jsonl", shown(trades, "ts"))
    write("asof-join", "quotes.jsonl", shown(quotes, "ts"))
    trades, late_trades = split_late(trades, "ts", 10)
    quotes, late_quotes = split_late(quotes, "ts", 10)
    by_symbol = versions_of(quotes, "ts", "symbol", "bid")
    rows = []
    for trade in trades:
        version = newest(by_symbol.get(trade["symbol"], {}), trade["ts"])
        rows.append({"id": trade["id"], "symbol": trade["symbol"], "size": trade["size"],
                     "bid": version and version[1], "quoted_at": version and at(version[0])})
    assert late_trades and late_quotes
    write("asof-join", "expected.jsonl", rows)
    write("asof-join", "expected-dead-letter.jsonl",
          letters("quoted", late_trades, "ts") + letters("quoted", late_quotes, "ts"))


orders_and_payments("interval-join", "inner", 1)
orders_and_payments("interval-join-left", "left", 2)
orders_and_payments("interval-join-full", "full", 3)
temporal_join()
asof_join()
