"""docs/audiences.md against the code: every example, every table, every limit."""

import json
import re
from pathlib import Path

import pytest

from gateway import audience, audience_foreign, audience_text
from gateway.audience import Audience, AudienceError
from gateway.audience_foreign import from_request
from gateway.audience_json import from_json, to_json
from gateway.audience_notes import describe
from gateway.audience_text import parse_text, to_text
from protocol.codes import MAX_TAG_BYTES

PAGE = (Path(__file__).parents[2] / "docs" / "audiences.md").read_text()
BLOCKS = re.findall(r"^```(\w+) (\w+)\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
"""(language, what it is, text) of each example."""
PAIRS = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


def rows(*header: str) -> list[list[str]]:
    """The one table with this header, without backticks."""
    line = f"| {' | '.join(header)} |"
    (found,) = re.findall(rf"^{re.escape(line)}\n\|[-|]+\|\n((?:\|.*\|\n)+)", PAGE, re.MULTILINE)
    cells = [re.split(r"(?<!\\)\|", row.strip("|")) for row in found.splitlines()]
    return [[cell.strip().replace(r"\|", "|") for cell in row] for row in cells]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def read(language: str, text: str) -> Audience:
    return from_json(json.loads(text)) if language == "json" else parse_text(text, "audience")


def test_every_block_is_an_example_or_the_grammar() -> None:
    assert PAGE.count("```") == 2 * (len(BLOCKS) + 1)
    assert {(first[1], second[1]) for first, second in PAIRS} == {
        ("same", "same"),
        ("wrong", "error"),
        ("foreign", "means"),
    }


@pytest.mark.parametrize("first, second", [p for p in PAIRS if p[0][1] == "same"])
def test_the_same(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    assert read(first[0], first[2]) == read(second[0], second[2])


@pytest.mark.parametrize("wrong, error", [p for p in PAIRS if p[0][1] == "wrong"])
def test_errors(wrong: tuple[str, str, str], error: tuple[str, str, str]) -> None:
    with pytest.raises(AudienceError) as raised:
        read(wrong[0], wrong[2])
    assert str(raised.value) == error[2]


@pytest.mark.parametrize("foreign, means", [p for p in PAIRS if p[0][1] == "foreign"])
def test_foreign(foreign: tuple[str, str, str], means: tuple[str, str, str]) -> None:
    assert to_text(from_request(json.loads(foreign[2]))) == means[2]


def test_leaves_and_operators() -> None:
    kinds = set()
    for table in ("leaf", "operator"):
        for _, written, texts, _ in rows(table, "JSON", "text", "devices"):
            (value,) = code(written)
            tree = from_json(json.loads(value))
            kinds.add(type(tree))
            assert to_json(tree) == json.loads(value)
            assert {parse_text(text) for text in code(texts)} == {tree}
            assert code(texts)[0] == to_text(tree)
    operators = {audience.And, audience.Or, audience.Not}
    assert kinds == set(audience.Leaf.__args__) - {audience.Bound} | operators


def test_states() -> None:
    (listed,) = re.findall(r"The states of a push are (.*?), as in its counts", PAGE, re.DOTALL)
    assert tuple(code(listed)) == audience.STATES


def test_limits() -> None:
    assert [int(row[1]) for row in rows("what", "at most", "why")] == [
        audience.MAX_DEPTH,
        audience.MAX_LEAVES,
        audience.MAX_ACCOUNTS,
        MAX_TAG_BYTES,
        audience.MAX_ACCOUNT_BYTES,
        audience.MAX_NAME_BYTES,
    ]


def test_grammar() -> None:
    (grammar,) = re.findall(r"^```\n(expression .*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    in_code = "\n".join(line.strip() for line in (audience_text.__doc__ or "").splitlines())
    assert grammar in in_code


def test_characters_of_words() -> None:
    (listed,) = re.findall(r"control characters and ((?:`.`\s*)+)\.", PAGE)
    for sign in code(listed):
        tree = audience.Tag(f"a{sign}b")
        assert to_text(tree).startswith('"')
        assert parse_text(to_text(tree)) == tree


def test_notes_of_what_the_page_warns_of() -> None:
    assert describe(parse_text("!vip")) and describe(parse_text("city:gz | !vip"))


def test_tag_types() -> None:
    said = {
        code(kind)[0]: "".join(code(prefix))
        for kind, prefix in rows("`tag_type`", "begins here with")
    }
    assert said == audience_foreign._TAG_TYPES
