"""The audience language as one line of text, both ways.

    expression  = conjunction { ("|" | "OR") conjunction }
    conjunction = negation { ("&" | "AND") negation }
    negation    = { "!" | "NOT" } primary
    primary     = "(" expression ")" | "all" | function | tag
    function    = name "(" [ value { "," value } ] ")"
    tag, value  = word | quoted

A word has no space, control character or any of & | ! ( ) , " ' \\ in it. Quoted text stands in double
quotes; a backslash stands before a double quote or a backslash in it, and before nothing else.

Read in one pass and linear time: the lexer never goes back, and nesting is refused at MAX_DEPTH before
it is entered.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple, NoReturn

from gateway.audience import (
    MAX_ACCOUNT_BYTES,
    MAX_ACCOUNTS,
    MAX_DEPTH,
    MAX_ID,
    MAX_LEAVES,
    MAX_NAME_BYTES,
    STATES,
    UNFIT,
    WHICH,
    Account,
    All,
    And,
    Audience,
    AudienceError,
    Bound,
    Devices,
    Leaf,
    Not,
    Or,
    PushState,
    Sample,
    Segment,
    Tag,
    Which,
    all_of,
    any_of,
    check_limits,
    devices,
    flaw,
    negate,
    shown,
    too_deep,
    too_many,
    too_many_accounts,
    u64,
)
from protocol.codes import MAX_TAG_BYTES

_WORD: Final = rf"""[^\s&|!(),"'\\{UNFIT}]++"""
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
_PLAIN: Final = re.compile(_WORD)
_RESERVED: Final = frozenset({"all", "AND", "OR", "NOT"})
_FRACTION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_AROUND: Final = 40
"""Characters shown on either side of the place of an error."""


class Token(NamedTuple):
    kind: str
    """`word`, `quoted`, `sign` or `end`."""
    text: str
    """As it is meant: without quotes and backslashes."""
    at: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"`{shown(self.text)}`"


class Parser:
    """Reads `and`, `or`, `not` and parentheses over leaves that a subclass reads.

    `path` is where the text stands in a request, for errors.
    """

    pattern: ClassVar[re.Pattern[str]]
    """Its groups are the kinds of tokens. It is tried where no space is."""
    and_signs: ClassVar[frozenset[str]]
    or_signs: ClassVar[frozenset[str]]
    not_signs: ClassVar[frozenset[str]]
    quotes: ClassVar[str]
    primary: ClassVar[str]
    """What to expect where a leaf may stand, in words."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path
        self._leaves = 0
        self._accounts = 0
        self.token = self._lex(0)

    def whole(self) -> Audience:
        """The tree of the whole text. Raises AudienceError."""
        tree = self.either(0)
        if self.token.kind != "end":
            self.fail(self.after_a_term())
        check_limits(tree, self._path)
        return tree

    def after_a_term(self) -> str:
        return f"{_sign(self.and_signs)}, {_sign(self.or_signs)} or the end"

    def either(self, depth: int) -> Audience:
        terms = [self.both(depth)]
        while self.took(self.or_signs):
            terms.append(self.both(depth))
        return any_of(terms)

    def both(self, depth: int) -> Audience:
        terms = [self.negation(depth)]
        while self.took(self.and_signs):
            terms.append(self.negation(depth))
        return all_of(terms)

    def negation(self, depth: int) -> Audience:
        negative = False
        start = self.token
        while self.took(self.not_signs):
            negative = not negative
            depth = self._deeper(depth, start)
            start = self.token
        if self.took(_OPEN):
            inner = self.either(self._deeper(depth, start))
            if not self.took(_CLOSE):
                self.fail(f"`)`, {_sign(self.and_signs)} or {_sign(self.or_signs)}")
        else:
            inner = self._leaf()
        return negate(inner) if negative else inner

    def _deeper(self, depth: int, token: Token) -> int:
        if depth >= MAX_DEPTH:
            self.refuse(too_deep(self._path).said, token.at)
        return depth + 1

    def _leaf(self) -> Leaf:
        if self.token.kind in ("sign", "end"):
            self.fail(self.primary)
        at = self.token.at
        leaf = self.leaf()
        if isinstance(leaf, Account):
            self._accounts += 1
        else:
            self._leaves += 1
        if self._leaves > MAX_LEAVES:
            self.refuse(too_many(self._path).said, at)
        if self._accounts > MAX_ACCOUNTS:
            self.refuse(too_many_accounts(self._path).said, at)
        return leaf

    def leaf(self) -> Leaf:
        """The leaf that begins with the token here, which is a word or quoted."""
        raise NotImplementedError

    # Tokens

    def took(self, signs: frozenset[str]) -> bool:
        """Goes on to the next token if the one here is one of these signs or words."""
        if self.token.kind not in ("word", "sign") or self.token.text not in signs:
            return False
        self.next()
        return True

    def next(self) -> Token:
        """The token that was here; the one after it is here now."""
        token = self.token
        self.token = self._lex(self._end)
        return token

    def _lex(self, at: int) -> Token:
        space = _SPACE.match(self._text, at)
        at = space.end() if space else at
        self._end = at
        if at == len(self._text):
            return Token("end", "", at)
        found = self.pattern.match(self._text, at)
        if found is None or found.lastgroup is None:
            self._unreadable(at)
        self._end = found.end()
        text = found[0]
        if found.lastgroup == "quoted":
            text = _ESCAPE.sub(lambda escape: self._unescaped(escape, at), text[1:-1])
        return Token(found.lastgroup, text, at)

    def _unescaped(self, escape: re.Match[str], at: int) -> str:
        if escape[1] not in ('"', "\\"):
            self.fail(
                '`\\"` or `\\\\` after a backslash',
                Token("word", escape[0], at + 1 + escape.start()),
            )
        return escape[1]

    def _unreadable(self, at: int) -> NoReturn:
        """No token begins here."""
        sign = self._text[at]
        if sign in self.quotes:
            self.fail(f"a closing `{sign}`", Token("end", "", len(self._text)))
        self.fail("a character that may stand outside quotes", Token("sign", sign, at))

    def fail(self, expected: str, token: Token | None = None) -> NoReturn:
        token = token or self.token
        self.refuse(f"expected {expected}, got {token}", token.at)

    def refuse(self, said: str, at: int) -> NoReturn:
        raise AudienceError(self._path, f"{said}\n{_pointed(self._text, at)}", at)


_OPEN: Final = frozenset("(")
_CLOSE: Final = frozenset(")")
_SPACE: Final = re.compile(r"\s++")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def _sign(signs: frozenset[str]) -> str:
    """The shortest of them: the words need not be told."""
    return f"`{min(signs, key=len)}`"


def _pointed(text: str, at: int) -> str:
    """The text around a place, and below it a caret under that place."""
    start, end = max(0, at - _AROUND), at + _AROUND
    before = "…" * (start > 0) + _one_line(text[start:at])
    after = _one_line(text[at:end]) + "…" * (end < len(text))
    # Terminals show Chinese characters two columns wide.
    columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in before)
    return f"  {before}{after}\n  {' ' * columns}^"


def _one_line(text: str) -> str:
    return re.sub(rf"[\s{UNFIT}]", " ", text)


class _Text(Parser):
    """Our own expressions."""

    pattern = re.compile(rf"(?P<word>{_WORD})|(?P<quoted>{_QUOTED})|(?P<sign>[&|!(),])", re.DOTALL)
    and_signs = frozenset({"&", "AND"})
    or_signs = frozenset({"|", "OR"})
    not_signs = frozenset({"!", "NOT"})
    quotes = '"'
    primary = "a tag, `(`, `!`, `all` or a function such as account(...)"

    def after_a_term(self) -> str:
        if self.token.kind in ("word", "quoted"):
            return f"{super().after_a_term()} (a tag with spaces stands in double quotes)"
        return super().after_a_term()

    def leaf(self) -> Leaf:
        if self.token.kind == "word" and self.token.text in _RESERVED - {"all"}:
            self.fail(self.primary)
        token = self.next()
        if token.kind == "word" and token.text == "all":
            return All()
        if token.kind == "word" and self.took(_OPEN):
            return self._function(token)
        return Tag(self._name(token, MAX_TAG_BYTES))

    def _function(self, name: Token) -> Leaf:
        """From behind its opening parenthesis on."""
        if name.text == "devices":
            made: Leaf = self._devices()
        elif name.text in _FUNCTIONS:
            form, least, make = _FUNCTIONS[name.text]
            values = self._values()
            if len(values) < least:
                self.fail(f"{form}, and so one more value")
            made = make(self, values)
        else:
            known = ", ".join(f"{known}(...)" for known in ("devices", *_FUNCTIONS))
            self.fail(f"one of the functions {known}", name)
        if not self.took(_CLOSE):
            self.fail("`,` or `)`" if isinstance(made, Devices) else "`)`")
        return made

    def _values(self) -> list[Token]:
        """One or two: no function but `devices` takes more."""
        values: list[Token] = []
        while len(values) < 2 and (not values or self.took(_COMMA)):
            if self.token.kind in ("sign", "end"):
                self.fail("a value")
            values.append(self.next())
        return values

    def _devices(self) -> Leaf:
        """In one match, since a list may have as many ids as a request has room for."""
        start = self.token.at
        found = _IDS.match(self._text, start)
        if found is None:
            if self.token.text != ")" or self.token.kind != "sign":
                self.fail("a device id or `)`")
            return Devices(())
        ids = [int(id) for id in found[0].split(",")]
        self._end = found.end()
        self.token = self._lex(self._end)
        if self.took(_COMMA):
            self.fail("a device id")
        if max(ids) > MAX_ID:
            at = next(one for one in _DIGITS.finditer(found[0]) if int(one[0]) > MAX_ID)
            self.fail(f"a device id up to {MAX_ID}", Token("word", at[0], start + at.start()))
        return devices(ids)

    def _name(self, token: Token, limit: int, least: int = 1) -> str:
        wrong = flaw(token.text, limit, least)
        if wrong is not None:
            self.refuse(f"expected {wrong}", token.at)
        return token.text

    def _account(self, values: list[Token]) -> Leaf:
        which: Which = "all"
        if len(values) > 1:
            options: dict[str, Which] = {option: option for option in WHICH}
            if values[1].text not in options:
                self.fail("`all` or `latest`", values[1])
            which = options[values[1].text]
        return Account(self._name(values[0], MAX_ACCOUNT_BYTES), which)

    def _push(self, values: list[Token]) -> Leaf:
        push_id = u64(values[0].text)
        if push_id is None:
            self.fail("a push id (decimal)", values[0])
        for state in STATES:
            if state == values[1].text:
                return PushState(push_id, state)
        self.fail(f"one of the states {', '.join(STATES)}", values[1])

    def _segment(self, values: list[Token]) -> Leaf:
        if len(values) > 1:
            self.fail("one name", values[1])
        return Segment(self._name(values[0], MAX_NAME_BYTES))

    def _sample(self, values: list[Token]) -> Leaf:
        said = values[0].text
        if not _FRACTION.fullmatch(said) or not 0 <= float(said) <= 1:
            self.fail("a number from 0 to 1", values[0])
        salt = self._name(values[1], MAX_NAME_BYTES, least=0) if len(values) > 1 else ""
        return Sample(float(said), salt)


_COMMA: Final = frozenset(",")
_ID: Final = r"[0-9]{1,20}+(?![0-9])\s*+"
_IDS: Final = re.compile(rf"{_ID}(?:,\s*+{_ID})*+")
_DIGITS: Final = re.compile(r"[0-9]++")

_FUNCTIONS: Final[dict[str, tuple[str, int, Callable[[_Text, list[Token]], Leaf]]]] = {
    "account": ("account(id) or account(id, latest)", 1, _Text._account),
    "push": ("push(id, state)", 2, _Text._push),
    "segment": ("segment(name)", 1, _Text._segment),
    "sample": ("sample(fraction) or sample(fraction, salt)", 1, _Text._sample),
}
"""Name -> how it is written, how many values it needs, what reads them."""


def parse_text(text: str, path: str = "") -> Audience:
    """The tree of an expression. Raises AudienceError with the position and a caret below the line."""
    return _Text(text, path).whole()


def to_text(tree: Audience) -> str:
    """The expression in canonical form: `parse_text` of it gives the tree again."""
    match tree:
        case Or(terms):
            return " | ".join(to_text(term) for term in terms)
        case And(terms):
            return " & ".join(_inside(term, (Or,)) for term in terms)
        case Not(term):
            return "!" + _inside(term, (Or, And))
        case Tag(name):
            return _quoted(name)
        case Account(id, which) | Bound(id, _, which):
            return f"account({_quoted(id)}{', latest' * (which == 'latest')})"
        case Devices(ids):
            return f"devices({', '.join(map(str, ids))})"
        case PushState(push_id, state):
            return f"push({push_id}, {state})"
        case Segment(name):
            return f"segment({_quoted(name)})"
        case Sample(fraction, salt):
            number = str(fraction).removesuffix(".0")
            return f"sample({number}{f', {_quoted(salt)}' if salt else ''})"
    return "all"


def _inside(term: Audience, weaker: tuple[type, ...]) -> str:
    return f"({to_text(term)})" if isinstance(term, weaker) else to_text(term)


def _quoted(name: str) -> str:
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
