from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMAL: _ClassVar[Priority]
    HIGH: _ClassVar[Priority]
    LOW: _ClassVar[Priority]

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NO_ACTION: _ClassVar[Action]
    PAUSE: _ClassVar[Action]
    RESUME: _ClassVar[Action]
    STOP: _ClassVar[Action]
    RECALL: _ClassVar[Action]
NORMAL: Priority
HIGH: Priority
LOW: Priority
NO_ACTION: Action
PAUSE: Action
RESUME: Action
STOP: Action
RECALL: Action

class Record(_message.Message):
    __slots__ = ("sessions", "receipts", "profiles", "pushes", "edges_down", "due", "taggings", "controls", "accounts", "holders")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    EDGES_DOWN_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    TAGGINGS_FIELD_NUMBER: _ClassVar[int]
    CONTROLS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    sessions: Sessions
    receipts: _containers.RepeatedCompositeFieldContainer[Receipts]
    profiles: _containers.RepeatedCompositeFieldContainer[Profile]
    pushes: _containers.RepeatedCompositeFieldContainer[Push]
    edges_down: _containers.RepeatedCompositeFieldContainer[EdgeDown]
    due: Due
    taggings: _containers.RepeatedCompositeFieldContainer[Tagging]
    controls: _containers.RepeatedCompositeFieldContainer[Control]
    accounts: _containers.RepeatedCompositeFieldContainer[AccountChange]
    holders: _containers.RepeatedCompositeFieldContainer[Holder]
    def __init__(self, sessions: _Optional[_Union[Sessions, _Mapping]] = ..., receipts: _Optional[_Iterable[_Union[Receipts, _Mapping]]] = ..., profiles: _Optional[_Iterable[_Union[Profile, _Mapping]]] = ..., pushes: _Optional[_Iterable[_Union[Push, _Mapping]]] = ..., edges_down: _Optional[_Iterable[_Union[EdgeDown, _Mapping]]] = ..., due: _Optional[_Union[Due, _Mapping]] = ..., taggings: _Optional[_Iterable[_Union[Tagging, _Mapping]]] = ..., controls: _Optional[_Iterable[_Union[Control, _Mapping]]] = ..., accounts: _Optional[_Iterable[_Union[AccountChange, _Mapping]]] = ..., holders: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ...) -> None: ...

class Sessions(_message.Message):
    __slots__ = ("edge", "up", "app", "epoch", "down")
    EDGE_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    edge: int
    up: _containers.RepeatedScalarFieldContainer[int]
    app: _containers.RepeatedScalarFieldContainer[int]
    epoch: _containers.RepeatedScalarFieldContainer[int]
    down: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, edge: _Optional[int] = ..., up: _Optional[_Iterable[int]] = ..., app: _Optional[_Iterable[int]] = ..., epoch: _Optional[_Iterable[int]] = ..., down: _Optional[_Iterable[int]] = ...) -> None: ...

class Receipts(_message.Message):
    __slots__ = ("push_id", "state", "index")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    state: int
    index: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, push_id: _Optional[int] = ..., state: _Optional[int] = ..., index: _Optional[_Iterable[int]] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("index", "change", "tags")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    index: int
    change: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., change: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class Push(_message.Message):
    __slots__ = ("push_id", "app", "ttl_s", "audience", "accepted_ms", "home", "content", "index", "holdout", "speed", "priority", "collapse_key", "inbox_cap")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_MS_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    COLLAPSE_KEY_FIELD_NUMBER: _ClassVar[int]
    INBOX_CAP_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    app: int
    ttl_s: int
    audience: bytes
    accepted_ms: int
    home: int
    content: bytes
    index: _containers.RepeatedScalarFieldContainer[int]
    holdout: float
    speed: int
    priority: Priority
    collapse_key: str
    inbox_cap: int
    def __init__(self, push_id: _Optional[int] = ..., app: _Optional[int] = ..., ttl_s: _Optional[int] = ..., audience: _Optional[bytes] = ..., accepted_ms: _Optional[int] = ..., home: _Optional[int] = ..., content: _Optional[bytes] = ..., index: _Optional[_Iterable[int]] = ..., holdout: _Optional[float] = ..., speed: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., collapse_key: _Optional[str] = ..., inbox_cap: _Optional[int] = ...) -> None: ...

class Control(_message.Message):
    __slots__ = ("push_id", "app", "action", "until_ms")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    app: int
    action: Action
    until_ms: int
    def __init__(self, push_id: _Optional[int] = ..., app: _Optional[int] = ..., action: _Optional[_Union[Action, str]] = ..., until_ms: _Optional[int] = ...) -> None: ...

class AccountChange(_message.Message):
    __slots__ = ("app", "account", "remove", "device", "binding")
    APP_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    app: int
    account: str
    remove: bool
    device: _containers.RepeatedScalarFieldContainer[int]
    binding: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, app: _Optional[int] = ..., account: _Optional[str] = ..., remove: bool = ..., device: _Optional[_Iterable[int]] = ..., binding: _Optional[_Iterable[int]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("app", "account", "index", "was", "binding")
    APP_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WAS_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    app: int
    account: str
    index: _containers.RepeatedScalarFieldContainer[int]
    was: str
    binding: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, app: _Optional[int] = ..., account: _Optional[str] = ..., index: _Optional[_Iterable[int]] = ..., was: _Optional[str] = ..., binding: _Optional[_Iterable[int]] = ...) -> None: ...

class Tagging(_message.Message):
    __slots__ = ("app", "tag", "remove", "index")
    APP_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    app: int
    tag: str
    remove: bool
    index: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, app: _Optional[int] = ..., tag: _Optional[str] = ..., remove: bool = ..., index: _Optional[_Iterable[int]] = ...) -> None: ...

class EdgeDown(_message.Message):
    __slots__ = ("edge", "start")
    EDGE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    edge: int
    start: int
    def __init__(self, edge: _Optional[int] = ..., start: _Optional[int] = ...) -> None: ...

class Due(_message.Message):
    __slots__ = ("expired", "forgotten", "shrunk")
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    SHRUNK_FIELD_NUMBER: _ClassVar[int]
    expired: _containers.RepeatedScalarFieldContainer[int]
    forgotten: _containers.RepeatedScalarFieldContainer[int]
    shrunk: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, expired: _Optional[_Iterable[int]] = ..., forgotten: _Optional[_Iterable[int]] = ..., shrunk: _Optional[_Iterable[int]] = ...) -> None: ...

class CampaignState(_message.Message):
    __slots__ = ("push_id", "app", "ttl_s", "accepted_ms", "home", "in_record", "order", "targeted", "marks", "counts", "held_out", "speed", "priority", "collapse_key")
    class MarksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_MS_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    IN_RECORD_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TARGETED_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    COLLAPSE_KEY_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    app: int
    ttl_s: int
    accepted_ms: int
    home: int
    in_record: bool
    order: int
    targeted: bytes
    marks: _containers.ScalarMap[int, bytes]
    counts: _containers.ScalarMap[str, int]
    held_out: bytes
    speed: int
    priority: int
    collapse_key: str
    def __init__(self, push_id: _Optional[int] = ..., app: _Optional[int] = ..., ttl_s: _Optional[int] = ..., accepted_ms: _Optional[int] = ..., home: _Optional[int] = ..., in_record: bool = ..., order: _Optional[int] = ..., targeted: _Optional[bytes] = ..., marks: _Optional[_Mapping[int, bytes]] = ..., counts: _Optional[_Mapping[str, int]] = ..., held_out: _Optional[bytes] = ..., speed: _Optional[int] = ..., priority: _Optional[int] = ..., collapse_key: _Optional[str] = ...) -> None: ...

class SingleStates(_message.Message):
    __slots__ = ("push_id", "app", "ttl_s", "accepted_ms", "order", "index", "marks", "priority", "collapse_key")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_MS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    COLLAPSE_KEY_FIELD_NUMBER: _ClassVar[int]
    push_id: _containers.RepeatedScalarFieldContainer[int]
    app: _containers.RepeatedScalarFieldContainer[int]
    ttl_s: _containers.RepeatedScalarFieldContainer[int]
    accepted_ms: _containers.RepeatedScalarFieldContainer[int]
    order: _containers.RepeatedScalarFieldContainer[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    marks: _containers.RepeatedScalarFieldContainer[int]
    priority: _containers.RepeatedScalarFieldContainer[int]
    collapse_key: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, push_id: _Optional[_Iterable[int]] = ..., app: _Optional[_Iterable[int]] = ..., ttl_s: _Optional[_Iterable[int]] = ..., accepted_ms: _Optional[_Iterable[int]] = ..., order: _Optional[_Iterable[int]] = ..., index: _Optional[_Iterable[int]] = ..., marks: _Optional[_Iterable[int]] = ..., priority: _Optional[_Iterable[int]] = ..., collapse_key: _Optional[_Iterable[str]] = ...) -> None: ...
