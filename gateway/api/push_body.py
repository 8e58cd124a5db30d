"""The body of a push request: decoded, checked, and turned into an Order. No I/O."""

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.audiences import AudienceBody, encoded, read_audience
from gateway.api.bodies import decoded
from gateway.api.errors import ApiError, Errno
from gateway.api.order import Order, digest_of
from gateway.api.shape import MAX_SPEED, PRIORITIES, Shape
from gateway.audience import Audience, Devices, got
from gateway.config import Api
from gateway.store.apps import App
from protocol.codes import MAX_CONTENT
from protocol.schema import device_pb2

MAX_KEY: Final = 128
"""Characters of an idempotency key."""
_U64: Final = 1 << 64
_U64_DIGITS: Final = 20
_SHOWN: Final = 64
"""Characters of a malformed id that are repeated in the answer."""
_AUTO: Final = "auto"
_SPEED: Final[dict[str, Any]] = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_SPEED}, {"enum": [_AUTO]}]
}
_HOLDOUT: Final[dict[str, Any]] = {"minimum": 0, "exclusiveMaximum": 1}


class Notification(Struct, frozen=True, forbid_unknown_fields=True):
    """What the device shows. At least one field has text."""

    title: str = ""
    body: str = ""
    url: Annotated[str, Meta(description="Opened on click.")] = ""
    image: Annotated[str, Meta(description="Address of a picture.")] = ""


class PushBody(AudienceBody, frozen=True, forbid_unknown_fields=True):
    """A push: to whom, what, and for how long."""

    notification: Notification | None = None
    data: Annotated[
        dict[str, str] | None, Meta(description="Handed to the app on the device as it is.")
    ] = None
    ttl: Annotated[
        int | UnsetType,
        Meta(
            description="Seconds after which the push is worth nothing. "
            "0: only for devices that are connected now."
        ),
    ] = UNSET
    speed: Annotated[
        int | str,
        Meta(
            description='Devices a second that it is sent to; "auto": as fast as it goes.',
            extra_json_schema=_SPEED,
        ),
    ] = _AUTO
    holdout: Annotated[
        float,
        Meta(
            description="Part of the audience, drawn by lot, that deliberately does not get it.",
            extra_json_schema=_HOLDOUT,
        ),
    ] = 0.0
    priority: Annotated[
        Literal["high", "normal", "low"],
        Meta(description="Order is kept within a priority; a high push overtakes others."),
    ] = "normal"
    collapse_key: Annotated[
        str,
        Meta(
            description="Of the pushes of an app with the same key a device keeps the newest; up to "
            "64 bytes. Empty: none."
        ),
    ] = ""
    idempotency_key: Annotated[
        str | None,
        Meta(
            description="The same key gives the same answer and no second push. 1 to 128 characters."
        ),
    ] = None
    validate_only: Annotated[
        bool, Meta(description="Check everything, look up the devices, push nothing.")
    ] = False


class Request(NamedTuple):
    """What a push request asks for."""

    order: Order
    malformed: list[str]
    """Device ids that are no u64."""
    validate_only: bool
    tree: Audience | None = None
    """The audience as it was written; None where devices are listed."""


_decoder: Final = msgspec.json.Decoder(PushBody)
_FOREIGN: Final = [name for name in AudienceBody.__struct_fields__ if name != "audience"]


def parse(raw: bytes, header_key: str | None, app: App, limits: Api) -> Request:
    """Raises ApiError that says where it is wrong and what was expected."""
    body = decoded(_decoder, raw)
    tree, devices, malformed = _targets(body, limits.max_devices)
    content = _content(body)
    ttl_s = limits.default_ttl_s if body.ttl is UNSET else body.ttl
    if not 0 <= ttl_s <= limits.max_ttl_s:
        raise ApiError(
            Errno.TTL,
            f"ttl is {ttl_s}: from 0 to {limits.max_ttl_s} seconds are allowed - at `$.ttl`",
        )
    shape = _shape(body, ttl_s)
    key = _key(body.idempotency_key, header_key)
    audience = encoded(tree) if tree is not None else b""
    digest = ""
    if key:
        digest = digest_of(
            audience=tree,
            devices=devices,
            malformed=malformed,
            content=content,
            ttl_s=ttl_s,
            shape=shape,
        )
    order = Order(
        app, audience, devices, content, ttl_s, key, digest, options=shape.options(limits.inbox_cap)
    )
    return Request(order, malformed, body.validate_only, tree)


def _content(body: PushBody) -> bytes:
    """columba.device.Content, encoded. Deterministic, because digests are made of it."""
    content = device_pb2.Content(data=body.data or {})
    said = body.notification
    if said is not None and (said.title or said.body or said.url or said.image):
        content.notification.MergeFrom(
            device_pb2.Notification(
                title=said.title, body=said.body, url=said.url, image=said.image
            )
        )
    elif not body.data:
        raise ApiError(Errno.NO_CONTENT)
    encoded = content.SerializeToString(deterministic=True)
    if len(encoded) > MAX_CONTENT:
        raise ApiError(
            Errno.CONTENT_TOO_LARGE,
            f"notification and data take {len(encoded)} bytes encoded, at most {MAX_CONTENT} are "
            "allowed; put large data behind a link",
        )
    return encoded


def _shape(body: PushBody, ttl_s: int) -> Shape:
    speed = 0 if body.speed == _AUTO else body.speed
    if isinstance(speed, str) or body.speed == 0:
        said = got(body.speed)
        raise ApiError(Errno.SHAPE, f'Expected `int` >= 1 or "auto", got {said} - at `$.speed`')
    shape = Shape(speed, body.holdout, PRIORITIES[body.priority], body.collapse_key)
    flaw = shape.flaw(ttl_s)
    if flaw is not None:
        raise ApiError(Errno.SHAPE, f"{flaw.text} - at `$.{flaw.field}`")
    return shape


def _key(in_body: str | None, in_header: str | None) -> str:
    key = in_header if in_body is None else in_body
    if key is None:
        return ""
    if not 1 <= len(key) <= MAX_KEY:
        raise ApiError(
            Errno.IDEMPOTENCY_KEY,
            f"the idempotency key has {len(key)} characters, 1 to {MAX_KEY} are allowed",
        )
    if in_header is not None and in_header != key:
        raise ApiError(
            Errno.IDEMPOTENCY_KEY,
            "idempotency_key and the header Idempotency-Key differ; give one of them, or the same",
        )
    return key


def _targets(body: PushBody, limit: int) -> tuple[Audience | None, list[int], list[str]]:
    """(tree, no devices) or (None, devices), and what was malformed; each once, in their order."""
    audience = body.audience
    if _is_list(audience) and all(getattr(body, name) is None for name in _FOREIGN):
        return None, *_devices(audience["devices"], limit)
    malformed: list[str] = []
    tree = read_audience(body, malformed)
    malformed = list(dict.fromkeys(malformed))
    if isinstance(tree, Devices):
        # Another spelling of a list.
        _check_count(len(tree.ids) + len(malformed), limit)
        return None, list(tree.ids), malformed
    return tree, [], malformed


def _is_list(audience: object) -> bool:
    return type(audience) is dict and len(audience) == 1 and type(audience.get("devices")) is list


def _check_count(named: int, limit: int) -> None:
    if not 1 <= named <= limit:
        raise ApiError(
            Errno.DEVICES,
            f"{named} devices are named, 1 to {limit} are allowed - at `$.audience.devices`",
        )


def _devices(named: list[object], limit: int) -> tuple[list[int], list[str]]:
    """(ids, malformed ones)"""
    _check_count(len(named), limit)
    devices: dict[int, None] = {}
    malformed: dict[str, None] = {}
    for i, device in enumerate(named):
        if isinstance(device, bool) or not isinstance(device, str | int):
            raise ApiError(
                Errno.FIELD,
                f"Expected `int | str`, got {got(device)} - at `$.audience.devices[{i}]`",
            )
        number = parse_u64(device) if isinstance(device, str) else device
        if number is None or not 0 <= number < _U64:
            malformed[str(device)[:_SHOWN]] = None
        else:
            devices[number] = None
    return list(devices), list(malformed)


def parse_u64(text: str) -> int | None:
    """A decimal u64 in plain digits, or None."""
    # isdigit alone takes other scripts' digits and superscripts; int() also takes "1_0" and " 1".
    if not (text.isascii() and text.isdigit() and len(text) <= _U64_DIGITS):
        return None
    number = int(text)
    return number if number < _U64 else None
