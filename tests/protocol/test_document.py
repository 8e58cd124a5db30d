"""docs/protocol.md against the code: its tables, its picture, and its worked examples byte for byte."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from protocol import codes
from protocol.codes import CloseCode, Kind
from protocol.credentials import registration_proof
from protocol.frames import encode, split
from protocol.schema import device_pb2
from protocol.states import TABLE, UPWARD, Side, State, on_received, on_sent

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SCHEMA = device_pb2.DESCRIPTOR
Row = dict[str, str]


def tables(text: str) -> Iterator[list[Row]]:
    """All markdown tables, each row under the names of its header."""
    for found in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, rule, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in found[0].splitlines()
        ]
        assert set("".join(rule)) == {"-"}
        yield [dict(zip(head, row, strict=True)) for row in rows]


def table(*columns: str) -> list[Row]:
    """The one table that begins with these columns."""
    (found,) = [rows for rows in tables(PAGE) if tuple(rows[0])[: len(columns)] == columns]
    return found


def way(kind: int) -> str:
    return "up" if kind in UPWARD else "down"


def message_of(kind: Kind) -> str:
    """RECEIPT_ACK -> ReceiptAck; the schema writes GoAway."""
    return "GoAway" if kind is Kind.GOAWAY else kind.name.title().replace("_", "")


# Tables


def test_kinds() -> None:
    rows = table("kind", "name", "way")
    assert {(row["kind"], row["name"], row["way"]) for row in rows} == {
        (f"0x{kind:02X}", kind.name, way(kind)) for kind in Kind
    }
    assert len(rows) == len(Kind)
    for row in rows:
        message = message_of(Kind[row["name"]])
        assert row["body"] == (
            f"`{message}`" if message in SCHEMA.message_types_by_name else "none"
        )


def test_limits() -> None:
    said = {
        row["name"]: float(int(row["value"].replace(",", ""), 0)) for row in table("name", "value")
    }
    assert said == {
        name: float(value)
        for name, value in vars(codes).items()
        if name.isupper() and isinstance(value, int | float)
    }


def test_close_codes() -> None:
    rows = table("code", "name", "verdict")
    assert [(int(row["code"]), row["name"], row["verdict"]) for row in rows] == [
        (code.value, code.name, code.verdict.name.lower()) for code in sorted(CloseCode)
    ]
    assert all(row["meaning"] and row["what to do"] for row in rows)


def test_door_bytes() -> None:
    (said,) = re.findall(r"The bytes (.*) are set aside for other doors", PAGE)
    named = re.findall(r"`(\w+)`", said)
    assert {ord(one) if len(one) == 1 else int(one, 0) for one in named} == codes.DOOR_BYTES


def test_states() -> None:
    assert [row["state"] for row in table("state", "meaning")] == [state.name for state in State]


def test_state_table() -> None:
    said = {}
    for row in table("state", "frame", "way"):
        sides = (
            list(Side) if row["on which side"] == "both" else [Side[row["on which side"].upper()]]
        )
        for name in row["frame"].split(", "):
            assert row["way"] == way(Kind[name])
            for side in sides:
                key = (side, State[row["state"]], Kind[name])
                assert key not in said
                said[key] = State[row["next state"]]
    assert said == TABLE


def test_picture() -> None:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    drawn = {
        (State[before], Kind[name], State[after])
        for before, after, names in re.findall(r"([A-Z]+) --> ([A-Z]+): (.*)", picture)
        for name in names.split(", ")
    }
    both = {
        (state, kind, after)
        for (side, state, kind), after in TABLE.items()
        if TABLE.get((Side(1 - side), state, kind)) is after
    }
    assert drawn == both


def field_type(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{field_type(key)}, {field_type(value)}>"
    named = field.message_type or field.enum_type
    plain = {
        value: name for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")
    }
    one = named.name if named is not None else plain[field.type][len("TYPE_") :].lower()
    return f"repeated {one}" if field.is_repeated else one


def section(heading: str) -> str:
    """Text under a heading of the third level, up to the next heading."""
    (found,) = re.findall(
        rf"^### {re.escape(heading)}\n(.*?)(?=^#)", PAGE, re.MULTILINE | re.DOTALL
    )
    return str(found)


@pytest.mark.parametrize("name", sorted(SCHEMA.message_types_by_name))
def test_fields(name: str) -> None:
    (rows,) = tables(section(f"`{name}`"))
    assert [(row["#"], row["field"], row["type"]) for row in rows] == [
        (str(field.number), field.name, field_type(field))
        for field in SCHEMA.message_types_by_name[name].fields
    ]
    assert all(row["meaning"] and row["if absent"] for row in rows)


@pytest.mark.parametrize("name", sorted(SCHEMA.enum_types_by_name))
def test_enums(name: str) -> None:
    (rows,) = tables(section(f"`{name}`"))
    enum: EnumDescriptor = SCHEMA.enum_types_by_name[name]
    assert [(row["value"], row["name"]) for row in rows] == [
        (str(value.number), value.name) for value in enum.values
    ]


# Worked examples


class Example(NamedTuple):
    way: str
    name: str
    data: bytes
    values: str


def unhex(block: str) -> bytes:
    return bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))


EXAMPLES = [
    Example(
        "up" if found[1] == "Device to edge" else "down", found[2], unhex(found[3]), found[4] or ""
    )
    for found in re.finditer(
        r"^\*\*(Device to edge|Edge to device): `(\w+)`\*\*\n\n"
        r"```hex\n(.*?)```\n(?:\n```textproto\n(.*?)```\n)?",
        PAGE,
        re.MULTILINE | re.DOTALL,
    )
]


def value_of(example: Example) -> Message | None:
    """What the page says the frame means."""
    if not example.values:
        return None
    empty: Message = getattr(device_pb2, message_of(Kind[example.name]))()
    return text_format.Parse(example.values, empty)


def test_there_are_examples_of_all_that_the_page_promises() -> None:
    names = ["HELLO", "WELCOME", "MESSAGE", "RECEIPTS", "RECEIPT_ACK", "RECALL"]
    names += ["PING", "PONG", "GOAWAY"]
    assert [example.name for example in EXAMPLES] == names
    assert PAGE.count("```hex") == len(names) + 2  # and the signed input and the proof


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example: Example) -> None:
    kind = Kind[example.name]
    assert example.way == way(kind)
    limit = codes.MAX_BODY_UP if kind in UPWARD else codes.MAX_BODY_DOWN
    frames, used = split(example.data, limit)
    assert used == len(example.data)
    ((got, body),) = frames
    assert got == kind
    value = value_of(example)
    if value is None:
        assert body == b""
    else:
        assert type(value).FromString(body) == value
        assert body == value.SerializeToString(deterministic=True)
    assert encode(kind, body) == example.data


def test_the_examples_are_one_session() -> None:
    states = {side: State.CONNECTED for side in Side}
    for example in EXAMPLES:
        kind = Kind[example.name]
        sender = Side.DEVICE if kind in UPWARD else Side.EDGE
        receiver = Side(1 - sender)
        states[sender] = on_sent(sender, states[sender], kind)
        after = on_received(receiver, states[receiver], kind)
        assert after is not None
        states[receiver] = after
    assert set(states.values()) == {State.LEAVING}


def bytes_under(title: str) -> bytes:
    (block,) = re.findall(rf"\*\*{title}\*\*\n\n```hex\n(.*?)```", PAGE, re.DOTALL)
    return unhex(block)


def test_the_proof_of_the_example() -> None:
    (key,) = re.findall(r"its access key is `(.*?)`", PAGE)
    hello = value_of(EXAMPLES[0])
    assert isinstance(hello, device_pb2.Hello)
    shown = hello.registration
    proof = registration_proof(key, hello.app, shown.installation_id, shown.time_ms, shown.nonce)
    assert proof == shown.proof == bytes_under("Proof")
    by_hand = hmac.digest(key.encode(), bytes_under("Signed input"), hashlib.sha256)
    assert proof == by_hand


def test_the_timeout_of_the_page() -> None:
    ((factor, slack),) = re.findall(
        r"^    ([\d.]+) × interval \+ (\d+) seconds$", PAGE, re.MULTILINE
    )
    for interval in (codes.HEARTBEAT_MIN_S, 210, codes.HEARTBEAT_MAX_S):
        assert codes.server_timeout_s(interval) == interval * float(factor) + float(slack)
    assert f"At 210 s that\nis after {codes.server_timeout_s(210):.0f} s" in PAGE
