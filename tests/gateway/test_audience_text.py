"""Audiences as text: both ways, precedence, quoting, and where an error points."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audience import (
    MAX_DEPTH,
    MAX_ID,
    MAX_LEAVES,
    Account,
    All,
    And,
    Audience,
    AudienceError,
    Devices,
    Not,
    Or,
    PushState,
    Sample,
    Segment,
    Tag,
    any_of,
    devices,
)
from gateway.audience_text import parse_text, to_text
from tests.gateway.audience_trees import AWKWARD, trees

A, B, C = Tag("a"), Tag("b"), Tag("c")


@pytest.mark.parametrize(
    "text, tree",
    [
        ("city:gz & sex:male & !vip", And((Tag("city:gz"), Tag("sex:male"), Not(Tag("vip"))))),
        ("a | b & c", Or((A, And((B, C))))),
        ("a & b | c", Or((And((A, B)), C))),
        ("(a | b) & c", And((Or((A, B)), C))),
        ("!a & b", And((Not(A), B))),
        ("!(a & b)", Not(And((A, B)))),
        ("!a | b", Or((Not(A), B))),
        ("!!a", A),
        ("! ! ! a", Not(A)),
        ("((a))", A),
        ("(a & b) & (c & a)", And((A, B, C))),
        ("a AND b OR NOT c", Or((And((A, B)), Not(C)))),
        ("NOT(a)AND(b)", And((Not(A), B))),
        ("and", Tag("and")),
        ("  a\t&\n b ", And((A, B))),
        ("a&b|c", Or((And((A, B)), C))),
        ('"a b" & "all"', And((Tag("a b"), Tag("all")))),
        (r'"say \"hi\" \\ \\"', Tag('say "hi" \\ \\')),
        ('"NOT"', Tag("NOT")),
        ("城市:广州", Tag("城市:广州")),
        (
            "a.b-c_d/e#f@g*h+i=j<k>l[m]{n}~o^p`q%r;s?",
            Tag("a.b-c_d/e#f@g*h+i=j<k>l[m]{n}~o^p`q%r;s?"),
        ),
        ("all", All()),
        ("All", Tag("All")),
        ("account", Tag("account")),
        ("account(u1)", Account("u1")),
        ("account(u1, all)", Account("u1")),
        ("account ( u1 ,latest )", Account("u1", "latest")),
        ('account("u, (1)", "latest")', Account("u, (1)", "latest")),
        ("account(all)", Account("all")),
        ("devices()", Devices(())),
        ("devices( )", Devices(())),
        ("devices(1)", Devices((1,))),
        (f"devices( 2 ,1,{MAX_ID} , 2)", Devices((2, 1, MAX_ID))),
        ("push(123, displayed)", PushState(123, "displayed")),
        ("segment(vips)", Segment("vips")),
        ('segment("all the vips")', Segment("all the vips")),
        ("sample(0.01)", Sample(0.01)),
        ("sample(1e-2, salt)", Sample(0.01, "salt")),
        ('sample(1, "")', Sample(1.0)),
    ],
)
def test_text(text: str, tree: Audience) -> None:
    assert parse_text(text) == tree
    assert parse_text(to_text(tree)) == tree


@pytest.mark.parametrize(
    "tree, text",
    [
        (And((A, Or((B, C)))), "a & (b | c)"),
        (Or((A, And((B, C)))), "a | b & c"),
        (Not(Or((A, B))), "!(a | b)"),
        (Not(And((A, B))), "!(a & b)"),
        (And((Not(A), B)), "!a & b"),
        (Tag("a b"), '"a b"'),
        (Tag('"\\'), r'"\"\\"'),
        (Tag("o'brien"), '"o\'brien"'),
        (Tag("AND"), '"AND"'),
        (Tag("all"), '"all"'),
        (All(), "all"),
        (Account("u1"), "account(u1)"),
        (Account("u 1", "latest"), 'account("u 1", latest)'),
        (Devices((2, 1)), "devices(2, 1)"),
        (Devices(()), "devices()"),
        (PushState(7, "received"), "push(7, received)"),
        (Sample(1.0), "sample(1)"),
        (Sample(0.25, "x y"), 'sample(0.25, "x y")'),
        (Sample(1e-9), "sample(1e-09)"),
    ],
)
def test_canonical_text(tree: Audience, text: str) -> None:
    assert to_text(tree) == text


@settings(max_examples=300, deadline=None)
@given(trees())
def test_both_ways(tree: Audience) -> None:
    text = to_text(tree)
    assert parse_text(text) == tree
    assert len(text.splitlines()) == 1


expressions = st.lists(
    st.sampled_from(
        [
            "a",
            "b:1",
            '"c d"',
            r'"\""',
            "all",
            "account(u)",
            "devices(1,2)",
            "sample(.5)",
            "push(1,failed)",
            *("&", "|", "!", "(", ")", " ", "AND", "OR", "NOT", ",", '"', "\\", "segment(", "'"),
        ]
    ),
    max_size=12,
).map(" ".join) | st.text(AWKWARD, max_size=12)


@settings(max_examples=1000, deadline=None)
@given(expressions)
def test_any_text_is_a_tree_or_an_audience_error(text: str) -> None:
    try:
        tree = parse_text(text)
    except AudienceError as error:
        assert error.position is not None and 0 <= error.position <= len(text)
        points_at(error, text)
        return
    canonical = to_text(tree)
    assert parse_text(canonical) == tree
    assert to_text(parse_text(canonical)) == canonical


# Errors


def points_at(error: AudienceError, text: str) -> None:
    """The caret stands under the position."""
    said, line, caret = str(error).split("\n")
    assert f"at position {error.position}: " in said
    assert caret.strip() == "^"
    assert error.position is not None
    if text.isascii() and "…" not in line:
        shown = "".join(" " if c.isspace() or c < " " else c for c in text)
        assert line == f"  {shown}"
        assert caret.index("^") == 2 + error.position


WRONG = {
    "nothing": ("", 0, "expected a tag", "got the end"),
    "spaces": ("   ", 3, "expected a tag", "got the end"),
    "after an operator": (
        "a & ",
        4,
        "expected a tag, `(`, `!`, `all` or a function",
        "got the end",
    ),
    "two operators": ("a & | b", 4, "expected a tag", "got `|`"),
    "doubled": ("a && b", 3, "expected a tag", "got `&`"),
    "two words": ("a b", 2, "expected `&`, `|` or the end (a tag with spaces", "got `b`"),
    "two groups": ("(a) (b)", 4, "expected `&`, `|` or the end", "got `(`"),
    "open": ("(a", 2, "expected `)`, `&` or `|`", "got the end"),
    "closed": ("a)", 1, "expected `&`, `|` or the end", "got `)`"),
    "empty group": ("()", 1, "expected a tag", "got `)`"),
    "word operator alone": ("AND", 0, "expected a tag", "got `AND`"),
    "word operator twice": ("a AND OR b", 6, "expected a tag", "got `OR`"),
    "not at the end": ("a & !", 5, "expected a tag", "got the end"),
    "quote": ('a & "b', 6, 'expected a closing `"`', "got the end"),
    "quote after a backslash": ('"a\\"', 4, 'expected a closing `"`', "got the end"),
    "escape": (r'a & "b\n"', 6, r"expected `\"` or `\\` after a backslash", r"got `\n`"),
    "single quote": ("o'brien", 1, "expected a character that may stand outside quotes", "got `'`"),
    "backslash": ("\\", 0, "expected a character that may stand outside quotes", "got `\\`"),
    "null byte": ("a\0b", 1, "that may stand outside quotes", "got `\ufffd`"),
    "control in quotes": ('"a\nb"', 0, "without control characters", "got U+000A"),
    "empty tag": ('a & ""', 4, "expected 1 to 128 bytes", "got 0"),
    "long tag": ("a & " + "b" * 129, 4, "expected 1 to 128 bytes", "got 129"),
    "function": ("a & vip(1)", 4, "one of the functions devices(...), account(...)", "got `vip`"),
    "all as a function": ("all()", 3, "expected `&`, `|` or the end", "got `(`"),
    "quoted function": ('"account"(u)', 9, "expected `&`, `|` or the end", "got `(`"),
    "account of nothing": ("account()", 8, "expected a value", "got `)`"),
    "account without an end": ("account(u", 9, "expected `)`", "got the end"),
    "account of three": ("account(u, latest, x)", 17, "expected `)`", "got `,`"),
    "account of a group": ("account((u))", 8, "expected a value", "got `(`"),
    "which": ("account(u, last)", 11, "expected `all` or `latest`", "got `last`"),
    "devices": ("devices(1, x)", 11, "expected a device id", "got `x`"),
    "devices first": ("devices(x)", 8, "expected a device id or `)`", "got `x`"),
    "devices quoted": ('devices("1")', 8, "expected a device id or `)`", "got `1`"),
    "devices comma": ("devices(1, )", 11, "expected a device id", "got `)`"),
    "devices spaces": ("devices(1 2)", 10, "expected `,` or `)`", "got `2`"),
    "devices word": ("devices(1x)", 9, "expected `,` or `)`", "got `x`"),
    "device too large": (
        f"devices(1, {MAX_ID + 1}, 2)",
        11,
        f"up to {MAX_ID}",
        f"got `{MAX_ID + 1}`",
    ),
    "device far too large": ("devices(" + "9" * 21 + ")", 8, "expected a device id or `)`", "got"),
    "push": ("push(x, failed)", 5, "expected a push id", "got `x`"),
    "push alone": ("push(1)", 6, "expected push(id, state), and so one more value", "got `)`"),
    "state": ("push(1, seen)", 8, "expected one of the states targeted", "got `seen`"),
    "segment of two": ("segment(a, b)", 11, "expected one name", "got `b`"),
    "sample": ("sample(1.1)", 7, "expected a number from 0 to 1", "got `1.1`"),
    "sample of a word": ("sample(nan)", 7, "expected a number from 0 to 1", "got `nan`"),
    "sample below": ("sample(-1)", 7, "expected a number from 0 to 1", "got `-1`"),
    "sample huge": ("sample(1e999)", 7, "expected a number from 0 to 1", "got `1e999`"),
}


@pytest.mark.parametrize("text, position, expected, got", WRONG.values(), ids=WRONG.keys())
def test_wrong_text(text: str, position: int, expected: str, got: str) -> None:
    with pytest.raises(AudienceError) as error:
        parse_text(text)
    assert error.value.position == position
    assert expected in str(error.value)
    assert got in str(error.value)
    assert error.value.path == ""
    points_at(error.value, text)


def test_the_path_of_a_request_stands_before_the_position() -> None:
    with pytest.raises(AudienceError) as error:
        parse_text("a &", "audience")
    assert str(error.value).startswith("audience at position 3: expected a tag")


def test_only_the_place_of_a_long_text_is_shown() -> None:
    text = " & ".join(["tag"] * 100) + " ? ? " + " & ".join(["tag"] * 100)
    with pytest.raises(AudienceError) as error:
        parse_text(text)
    _, line, caret = str(error.value).split("\n")
    assert line.startswith("  …") and line.endswith("…") and len(line) < 100
    assert line[caret.index("^")] == text[error.value.position or 0] == "?"


def test_wide_characters_move_the_caret() -> None:
    with pytest.raises(AudienceError) as error:
        parse_text("城市:广州 )")
    assert str(error.value).endswith("\n  城市:广州 )\n  " + " " * 10 + "^")
    assert error.value.position == 6


# Limits


@pytest.mark.parametrize("text", ["(" * 100_000, "!" * 100_000, "!(" * 50_000, "(a & " * 100_000])
def test_nesting_is_refused_without_recursion(text: str) -> None:
    with pytest.raises(AudienceError, match=f"at most {MAX_DEPTH} operators"):
        parse_text(text)


def test_depth() -> None:
    for opening, closing in (("!", ""), ("(", ")")):
        parse_text(opening * MAX_DEPTH + "a" + closing * MAX_DEPTH)
        with pytest.raises(AudienceError, match="nested too deeply"):
            parse_text(opening * (MAX_DEPTH + 1) + "a" + closing * (MAX_DEPTH + 1))


def test_the_deepest_tree_can_be_written() -> None:
    for flip in (0, 1):
        tree: Audience = A
        for level in range(MAX_DEPTH):
            tree = Or((B, tree)) if level % 2 == flip else And((C, tree))
        assert parse_text(to_text(tree)) == tree
        tree = A
        for level in range(MAX_DEPTH):
            tree = Not(tree) if level % 2 == flip else And((C, tree))
        assert parse_text(to_text(tree)) == tree


def test_a_tree_can_be_deeper_than_its_parentheses() -> None:
    text = "a"
    for _ in range(MAX_DEPTH // 2 + 1):
        text = f"b | c & ({text})"
    with pytest.raises(AudienceError, match="nested too deeply"):
        parse_text(text)


def test_leaves() -> None:
    parse_text(" | ".join(["a"] * MAX_LEAVES))
    with pytest.raises(AudienceError, match=f"at most {MAX_LEAVES}") as error:
        parse_text("|".join(["a"] * (MAX_LEAVES + 1)))
    assert error.value.position == 2 * MAX_LEAVES


def cpu_s(text: str) -> float:
    began = time.process_time()
    try:
        parse_text(text)
    except AudienceError:
        pass
    return time.process_time() - began


@pytest.mark.parametrize(
    "unit, around",
    [
        ("1,", ("devices(", "1)")),
        ("1, ", ("devices(", "x)")),
        (" ", ("a", "b")),
        ("a", ("", "")),
        ("\\\\", ('"', "")),
        ('"', ("", "")),
        ('"1",', ("account(", ")")),
    ],
)
def test_a_megabyte_of_anything_is_quick(unit: str, around: tuple[str, str]) -> None:
    # 0.2 s at most where this was written; quadratic would be minutes.
    assert cpu_s(around[0] + unit * (1_000_000 // len(unit)) + around[1]) < 5


def test_long_lists_both_ways() -> None:
    tree = any_of([devices(range(50_000)), Tag("a")])
    assert parse_text(to_text(tree)) == tree
