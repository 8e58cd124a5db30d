"""The partitions in `columba status`."""

from typing import Any

from gateway.cli import partitions


def answered(of: dict[int, list[int]], partitions: int, **differing: Any) -> dict[str, Any]:
    """/v1/status where each node has these partitions; partition p has (p + 1) times what the first has."""
    one = {
        "devices": 1_000.0, "online": 10.0, "tags": 7.0, "pushes": 2.0, "bytes": float(1 << 20),
        "log_length": 500.0, "replay_records": 3.0, "snapshot_age_seconds": 50.0,
    } | differing  # fmt: skip
    nodes = [
        {
            "number": number,
            "answered": True,
            "stats": {"columba_records_total": 5.0}
            | {
                f"columba_partition_{name}{{partition={p}}}": value * (p + 1)
                for p in mine
                for name, value in one.items()
            },
        }
        for number, mine in of.items()
    ]
    nodes.append({"number": 99, "answered": False, "stats": {}})
    return {"partitions": partitions, "processes": {"edge": [], "node": nodes}}


def test_a_row_for_each_and_the_sums() -> None:
    status = answered({1: [1], 2: [0, 2]}, 3)
    assert list(partitions.lines(status)) == [
        "partition  node  devices  online  tags  pushes  memory  log length  snapshot age",
        "        0     2    1,000      10     7       2   1 MiB         500          50 s",
        "        1     1    2,000      20    14       4   2 MiB       1,000         100 s",
        "        2     2    3,000      30    21       6   3 MiB       1,500         2 min",
        "      all          6,000      60            12   6 MiB       3,000         2 min",
    ]


def test_as_json_all_of_them_as_plain_numbers() -> None:
    found = partitions.rows(answered({1: [1, 0]}, 2))
    assert found[1] == {
        "partition": 1, "node": 1, "devices": 2000, "online": 20, "tags": 14, "pushes": 4,
        "bytes": 2 << 20, "log_length": 1000, "snapshot_age_seconds": 100.0,
    }  # fmt: skip
    assert partitions.total(found) == {
        "partitions": 2, "devices": 3000, "online": 30, "pushes": 6, "bytes": 3 << 20,
        "log_length": 1500, "snapshot_age_seconds": 100.0,
    }  # fmt: skip


def test_of_a_great_many_the_largest_and_the_sums_of_all() -> None:
    status = answered({1: list(range(1024))}, 1024)
    told = list(partitions.lines(status))
    assert len(told) == 1 + partitions.MOST + 2
    assert [int(line.split()[0]) for line in told[1:4]] == [1023, 1022, 1021]
    assert told[-2] == "… and 1,008 smaller ones: --partitions shows all"
    assert f"{1000 * 1024 * 1025 // 2:,}" in told[-1]
    everything = list(partitions.lines(status, None))
    assert [int(line.split()[0]) for line in everything[1:-1]] == list(range(1024))


def test_partitions_that_nobody_answers_for_are_named() -> None:
    *_, last = partitions.lines(answered({1: [0, 2]}, 16))
    assert last == "14 without an owner that answers: 1, 3, 4, 5, 6, 7, 8, 9, …"
    assert not any("owner" in line for line in partitions.lines(answered({1: [0]}, 1)))


def test_no_table_where_nothing_is_known() -> None:
    assert list(partitions.lines({"error": "away"})) == []
    assert list(partitions.lines(answered({}, 16))) == []


def test_units() -> None:
    status = answered({1: [0]}, 1, bytes=float(3 << 30), snapshot_age_seconds=10_800.0)
    assert list(partitions.lines(status))[1].endswith("  3.0 GiB         500           3 h")
