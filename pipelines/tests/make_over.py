#!/usr/bin/env python3
"""Makes the inputs and the expected outputs of the golden tests of OVER windows, without Millstream.

Run it after changing a test: python3 pipelines/tests/make_over.py
"""

from collections import defaultdict

from make import at, write

# Rows may come so many seconds after newer ones.
ALLOWED = 2


def readings():
    """Rows that are out of order, some of them too late: what comes in, what is on time, what is late."""
    rows, newest = [], None
    on_time, late = [], []
    for n in range(60):
        ts = n * 0.5
        if n % 5 == 2:
            ts -= 1.5
        if n % 13 == 7:
            ts -= 6
        row = {"id": n, "ts": at(ts), "k": "abc"[n % 3], "v": None if n % 11 == 4 else (n * 37 % 23) / 2, "_ts": ts}
        rows.append(row)
        (late if newest is not None and ts < newest - ALLOWED else on_time).append(row)
        newest = ts if newest is None else max(newest, ts)
    assert late and len(late) < 10
    return rows, on_time, late


def plain(rows):
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def by_key(rows, key="k"):
    """The rows of each key in the order of time; those of the same time in the order of arrival."""
    groups = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["_ts"], row["id"])):
        groups[row[key] if key else None].append(row)
    return list(groups.values())


def make(folder, compute, read, key="k"):
    """`compute(group, index)` gives the expected row, or None; `read` are the columns that a late row has."""
    rows, on_time, late = readings()
    expected = [compute(group, index) for group in by_key(on_time, key) for index in range(len(group))]
    write(f"{folder}/input.jsonl", plain(rows))
    write(f"{folder}/expected.jsonl", [row for row in expected if row is not None])
    write(f"{folder}/expected-late.jsonl", [{column: row[column] for column in read} for row in late])


def base(row, **more):
    return {"id": row["id"], "ts": row["ts"], "k": row["k"], **more}


def over_lag():
    def compute(group, i):
        before = [row["v"] for row in group[:i] if row["v"] is not None]
        return base(group[i], v=group[i]["v"],
                    last=group[i - 1]["v"] if i else None,
                    two_ago=group[i - 2]["v"] if i >= 2 else -1,
                    last_known=before[-1] if before else None)
    make("over-lag", compute, ["id", "ts", "k", "v"])


def mean(values):
    return sum(values) / len(values) if values else None


def over_rolling_rows():
    def compute(group, i):
        frame = [row["v"] for row in group[max(0, i - 3):i + 1] if row["v"] is not None]
        so_far = [row["v"] for row in group[:i + 1] if row["v"] is not None]
        return base(group[i], mean=mean(frame), most=max(frame) if frame else None, known=len(frame),
                    total=sum(so_far) if so_far else None)
    make("over-rolling-rows", compute, ["id", "ts", "k", "v"])


def over_rolling_range():
    def compute(group, i):
        now = group[i]["_ts"]
        near = [row for row in group if now - 5 <= row["_ts"] <= now]
        around = [row for row in group if now - 1 <= row["_ts"] <= now + 2]
        values = [row["v"] for row in near if row["v"] is not None]
        return base(group[i], readings=len(near), least=min(values) if values else None, around=len(around))
    make("over-rolling-range", compute, ["id", "ts", "k", "v"])


def over_rank():
    def compute(group, i):
        now = group[i]["_ts"]
        earlier = [row["_ts"] for row in group if row["_ts"] < now]
        return base(group[i], number=i + 1, rank=len(earlier) + 1, dense=len(set(earlier)) + 1,
                    first_k=group[0]["k"])
    make("over-rank", compute, ["id", "ts", "k"], key=None)


def over_lead():
    def compute(group, i):
        frame = [row["v"] for row in group[max(0, i - 1):i + 3] if row["v"] is not None]
        return base(group[i], next=group[i + 1]["v"] if i + 1 < len(group) else None,
                    next_id=group[i + 2]["id"] if i + 2 < len(group) else -1, smooth=mean(frame))
    make("over-lead", compute, ["id", "ts", "k", "v"])


def over_qualify():
    def compute(group, i):
        last = group[i - 1]["v"] if i else None
        v = group[i]["v"]
        if last is None or v is None or not v > last:
            return None
        return base(group[i], v=v, rise=v - last, number=i + 1)
    make("over-qualify", compute, ["id", "ts", "k", "v"])


if __name__ == "__main__":
    over_lag()
    over_rolling_rows()
    over_rolling_range()
    over_rank()
    over_lead()
    over_qualify()
