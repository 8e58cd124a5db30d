"""Audiences in other services' spellings, read into the same tree.

Whoever moves here keeps requests as they are, so each spelling means what its own service's manual
says, including what it ignores; what has no meaning here is refused rather than left out.

- TPNS v3, `POST /v3/push/app`: `audience_type` with `tag_rules`, `tag_list`, `token_list`, `account_list`.
- JPush v3, `POST /v3/push`: `audience` with `tag`, `tag_and`, `tag_not`, `alias`, `registration_id`, `segment`.
- FCM v1, `messages:send`: `condition`, `topic` or `token`, in `message` or without it.

A token and a registration id are our device ids here, an alias is an account, a topic is a tag.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.audience import (
    Audience,
    AudienceError,
    Leaf,
    Tag,
    Which,
    all_of,
    any_of,
    check_limits,
    flaw,
    got,
    negate,
    shown,
)
from gateway.audience_json import Reading, non_empty_list, one_of
from gateway.audience_text import Parser, parse_text

_TPNS: Final = ("audience_type", "tag_rules", "tag_list", "token_list", "account_list")
_FCM: Final = ("condition", "topic", "token")
_JPUSH_LISTS: Final = ("tag", "tag_and", "tag_not", "alias", "registration_id", "segment")
_JPUSH_ELSEWHERE: Final = ("abtest", "live_activity_id", "file")


def from_request(body: Mapping[str, object], malformed: list[str] | None = None) -> Audience:
    """The audience of a decoded push request in any spelling; members that say no audience are ignored.

    Raises AudienceError, also for none and for more than one. `malformed`: see `from_json`.
    """
    read = Reading(malformed)
    ours = ["audience"] if body.get("audience") is not None else []
    tpns = [key for key in _TPNS if _is_given(body.get(key))]
    fcm = [(key, body, "") for key in _FCM if _is_given(body.get(key))]
    message = body.get("message")
    if isinstance(message, Mapping):
        fcm += [(key, message, "message.") for key in _FCM if _is_given(message.get(key))]
    found = ours + tpns[:1] + [f"{prefix}{key}" for key, _, prefix in fcm]
    if not found:
        raise AudienceError("audience", "expected an audience, got nothing")
    if len(found) > 1:
        listed = " and ".join(f"`{key}`" for key in found)
        raise AudienceError("audience", f"expected one audience, got {listed}")
    if ours:
        return _audience(body["audience"], read)
    if tpns:
        tree = _tpns(body, read)
    else:
        ((key, where, prefix),) = fcm
        tree = _fcm(key, where[key], f"{prefix}{key}", read)
    check_limits(tree, found[0])
    return tree


def _is_given(value: object) -> bool:
    # Client libraries write members that were not set as null or as empty lists.
    return value is not None and value not in ("", [], (), {})


def _audience(value: object, read: Reading) -> Audience:
    """`audience`: our text, our JSON, or JPush's object."""
    if isinstance(value, str):
        return parse_text(value, "audience")
    if isinstance(value, Mapping) and _is_jpush(value):
        tree = _jpush(value, read)
        check_limits(tree)
        return tree
    return read.tree(value, "audience")


# JPush


def _is_jpush(value: Mapping[str, object]) -> bool:
    """Some names are JPush's alone; `tag` and `segment` are ours too, but JPush has lists there."""
    alone = {*_JPUSH_LISTS, *_JPUSH_ELSEWHERE} - {"tag", "segment"}
    return any(key in value for key in alone) or any(
        isinstance(value.get(key), list | tuple) for key in ("tag", "segment")
    )


def _jpush(value: Mapping[str, object], read: Reading) -> Audience:
    """Each member an `or` of its entries, `tag_and` an `and`, `tag_not` none of them; all of that at once."""
    for key in value:
        if key not in _JPUSH_LISTS:
            raise AudienceError(
                "audience",
                f"expected JPush's {', '.join(_JPUSH_LISTS)}, got `{shown(key)}` among them",
            )
    members: list[Audience] = []
    for key in _JPUSH_LISTS:
        path = f"audience.{key}"
        entries = value.get(key)
        # The manual: "an array of length 0 means that the kind is not there".
        if entries is None or entries in ([], ()):
            continue
        listed = non_empty_list(entries, path)
        match key:
            case "registration_id":
                members.append(read.devices(listed, path))
                continue
            case "alias":
                leaf: Callable[[object, str], Leaf] = read.account
            case "segment":
                leaf = read.segment
            case _:
                leaf = read.tag
        terms = [leaf(entry, f"{path}[{i}]") for i, entry in enumerate(listed)]
        joined = all_of(terms) if key == "tag_and" else any_of(terms)
        members.append(negate(joined) if key == "tag_not" else joined)
    if not members:
        raise AudienceError("audience", "expected at least one entry, got only empty lists")
    return all_of(members)


# TPNS


_TPNS_LIST: Final[dict[str, tuple[str, ...]]] = {
    "all": (),
    "tag": ("tag_rules", "tag_list"),
    "token": ("token_list",),
    "token_list": ("token_list",),
    "account": ("account_list",),
    "account_list": ("account_list",),
}
"""audience_type -> the members that may come with it, the one that counts first."""

_TAG_TYPES: Final[dict[str, str]] = {
    "xg_user_define": "",
    "xg_auto_version": "version:",
    "xg_auto_sdkversion": "sdk:",
    "xg_auto_systemlanguage": "lang:",
    "xg_auto_country": "country:",
    "xg_auto_province": "province:",
    "xg_auto_devicebrand": "brand:",
    "xg_auto_deviceversion": "model:",
}
"""tag_type -> how the tag begins here. `xg_auto_active` is missing: it names days, and an unknown tag
would quietly be nobody, or everybody under `is_not`."""

_OPERATORS: Final = ("AND", "OR")


def _tpns(body: Mapping[str, object], read: Reading) -> Audience:
    kind = body.get("audience_type")
    if not isinstance(kind, str) or kind not in _TPNS_LIST:
        what = "nothing" if kind is None else got(kind)
        raise AudienceError("audience_type", f"expected one of {', '.join(_TPNS_LIST)}, got {what}")
    wanted = _TPNS_LIST[kind]
    given = [key for key in _TPNS[1:] if _is_given(body.get(key))]
    for key in given:
        # Somebody who lists devices beside "all" must not reach everybody.
        if key not in wanted:
            raise AudienceError(key, f'`{key}` does not belong to the audience_type "{kind}"')
    if not wanted:
        return read.tree("all", "audience_type")
    if not given:
        raise AudienceError(wanted[0], f'expected for the audience_type "{kind}", got nothing')
    # The manual: with both, tag_list is void. `wanted` has tag_rules first.
    key = next(key for key in wanted if key in given)
    if key == "tag_rules":
        return _tag_rules(body[key], read)
    if key == "tag_list":
        return _tag_list(body[key], read)
    listed = non_empty_list(body[key], key)
    # The manual: with a single kind and several entries, "messages are pushed to the first only".
    if kind in ("token", "account"):
        listed = listed[:1]
    if key == "token_list":
        return read.devices(listed, key)
    # The manual: 0 (or nothing) is the account's latest device, 1 is all of them.
    push_type = body.get("account_push_type")
    which: Which = (
        "all"
        if push_type is not None and one_of((0, 1), push_type, "account_push_type")
        else "latest"
    )
    return any_of(read.account(id, f"{key}[{i}]", which) for i, id in enumerate(listed))


def _tag_list(value: object, read: Reading) -> Audience:
    """`{"tags": [...], "op": "AND" or "OR"}`"""
    rule = _object(value, "tag_list")
    return _tags(rule, "op", "", "tag_list", read)


def _tag_rules(value: object, read: Reading) -> Audience:
    """Rules of items of tags, each level joined by operators and each possibly negated."""
    rules: list[Audience] = []
    joints: list[str] = []
    for i, entry in enumerate(non_empty_list(value, "tag_rules")):
        path = f"tag_rules[{i}]"
        rule = _object(entry, path)
        items: list[Audience] = []
        within: list[str] = []
        listed = non_empty_list(rule.get("tag_items"), f"{path}.tag_items")
        for j, inner in enumerate(listed):
            at = f"{path}.tag_items[{j}]"
            item = _object(inner, at)
            prefix = _prefix(item, at)
            tags = _tags(item, "tags_operator", prefix, at, read)
            items.append(_negated(item, tags, at))
            within.append(_joint(item, "items_operator", j, at))
        rules.append(_negated(rule, _joined(items, within), path))
        joints.append(_joint(rule, "operator", i, path))
    return _joined(rules, joints)


def _tags(
    rule: Mapping[str, object], operator: str, prefix: str, path: str, read: Reading
) -> Audience:
    names = non_empty_list(rule.get("tags"), f"{path}.tags")
    terms = [
        read.tag(prefix + name if isinstance(name, str) else name, f"{path}.tags[{i}]")
        for i, name in enumerate(names)
    ]
    if len(terms) == 1 and rule.get(operator) is None:
        return terms[0]
    join = all_of if _operator(rule, operator, path) == "AND" else any_of
    return join(terms)


def _prefix(item: Mapping[str, object], path: str) -> str:
    kind = item.get("tag_type")
    if kind == "xg_auto_active":
        raise AudienceError(
            f"{path}.tag_type",
            "xg_auto_active names days, which are not kept here; use the tag active:1d, active:7d or "
            "active:30d",
        )
    return "" if kind is None else _TAG_TYPES[one_of(tuple(_TAG_TYPES), kind, f"{path}.tag_type")]


def _joint(entry: Mapping[str, object], key: str, index: int, path: str) -> str:
    """The operator before an entry. The manual: the first one's is ignored."""
    return _operator(entry, key, path) if index else "OR"


def _operator(entry: Mapping[str, object], key: str, path: str) -> str:
    value = entry.get(key)
    if value is None:
        raise AudienceError(f"{path}.{key}", 'expected "AND" or "OR", got nothing')
    return one_of(_OPERATORS, value, f"{path}.{key}")


def _joined(terms: list[Audience], joints: list[str]) -> Audience:
    """Each joint stands before its term. The manual: AND binds before OR."""
    groups: list[list[Audience]] = []
    for term, joint in zip(terms, joints, strict=True):
        if joint == "OR":
            groups.append([term])
        else:
            groups[-1].append(term)
    return any_of(all_of(group) for group in groups)


def _negated(entry: Mapping[str, object], term: Audience, path: str) -> Audience:
    value = entry.get("is_not")
    if value is not None and not isinstance(value, bool):
        raise AudienceError(f"{path}.is_not", f"expected true or false, got {got(value)}")
    return negate(term) if value else term


def _object(value: object, path: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise AudienceError(path, f"expected an object, got {got(value)}")
    return value


# FCM


_TOPIC_PREFIX: Final = "/topics/"
"""Of the older API. Google's server libraries take it off, so it is still sent."""


def _fcm(key: str, value: object, path: str, read: Reading) -> Audience:
    if not isinstance(value, str):
        raise AudienceError(path, f"expected a string, got {got(value)}")
    if key == "token":
        return read.devices([value], path)
    if key == "topic":
        return read.tag(value.removeprefix(_TOPIC_PREFIX), path)
    return _Condition(value, path).whole()


class _Condition(Parser):
    """`'a' in topics && ('b' in topics || !('c' in topics))`

    The manual says that after parentheses it is read "from left to right", everybody else binds && before
    ||. The two differ in `a || b && c` only; there parentheses are asked for, since either reading
    would send to people whom the other leaves out.
    """

    pattern = re.compile(
        r"""(?P<quoted>'[^']*+'|"[^"]*+")|(?P<word>\w++)|(?P<sign>&&|\|\||[!()])"""
    )
    and_signs = frozenset({"&&"})
    or_signs = frozenset({"||"})
    not_signs = frozenset({"!"})
    quotes = "'\""
    primary = "'topic' in topics, `(` or `!`"

    def either(self, depth: int) -> Audience:
        terms = [self.both(depth)]
        while self.took(self.or_signs):
            terms.append(self.negation(depth))
            if self.token.kind == "sign" and self.token.text in self.and_signs:
                self.fail("parentheses that say whether `||` or `&&` comes first")
        return any_of(terms)

    def leaf(self) -> Leaf:
        topic = self.next()
        if topic.kind != "quoted":
            self.fail("a topic in quotes", topic)
        wrong = flaw(topic.text)
        if wrong is not None:
            self.fail(f"a topic of {wrong}", topic)
        for word in ("in", "topics"):
            if self.token.kind != "word" or self.token.text != word:
                self.fail(f"`{word}`")
            self.next()
        return Tag(topic.text)
