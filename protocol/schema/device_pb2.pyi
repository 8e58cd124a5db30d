from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Permission(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PERMISSION_UNKNOWN: _ClassVar[Permission]
    PERMISSION_GRANTED: _ClassVar[Permission]
    PERMISSION_DENIED: _ClassVar[Permission]

class ReceiptState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECEIPT_STATE_UNSPECIFIED: _ClassVar[ReceiptState]
    RECEIVED: _ClassVar[ReceiptState]
    DISPLAYED: _ClassVar[ReceiptState]
    CLICKED: _ClassVar[ReceiptState]
    DISMISSED: _ClassVar[ReceiptState]
    FAILED: _ClassVar[ReceiptState]
PERMISSION_UNKNOWN: Permission
PERMISSION_GRANTED: Permission
PERMISSION_DENIED: Permission
RECEIPT_STATE_UNSPECIFIED: ReceiptState
RECEIVED: ReceiptState
DISPLAYED: ReceiptState
CLICKED: ReceiptState
DISMISSED: ReceiptState
FAILED: ReceiptState

class Hello(_message.Message):
    __slots__ = ("version_min", "version_max", "app", "token", "registration", "heartbeat_s", "connection", "config_version", "permission", "sdk")
    VERSION_MIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_MAX_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    PERMISSION_FIELD_NUMBER: _ClassVar[int]
    SDK_FIELD_NUMBER: _ClassVar[int]
    version_min: int
    version_max: int
    app: str
    token: bytes
    registration: Registration
    heartbeat_s: int
    connection: int
    config_version: int
    permission: Permission
    sdk: str
    def __init__(self, version_min: _Optional[int] = ..., version_max: _Optional[int] = ..., app: _Optional[str] = ..., token: _Optional[bytes] = ..., registration: _Optional[_Union[Registration, _Mapping]] = ..., heartbeat_s: _Optional[int] = ..., connection: _Optional[int] = ..., config_version: _Optional[int] = ..., permission: _Optional[_Union[Permission, str]] = ..., sdk: _Optional[str] = ...) -> None: ...

class Registration(_message.Message):
    __slots__ = ("installation_id", "time_ms", "nonce", "proof")
    INSTALLATION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    installation_id: bytes
    time_ms: int
    nonce: bytes
    proof: bytes
    def __init__(self, installation_id: _Optional[bytes] = ..., time_ms: _Optional[int] = ..., nonce: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "epoch", "heartbeat_s", "limits", "backoff", "probing", "server_time_ms", "device_id", "token", "config_version", "config", "recalled")
    class ConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    PROBING_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    RECALLED_FIELD_NUMBER: _ClassVar[int]
    version: int
    epoch: int
    heartbeat_s: int
    limits: Limits
    backoff: Backoff
    probing: Probing
    server_time_ms: int
    device_id: int
    token: bytes
    config_version: int
    config: _containers.ScalarMap[str, str]
    recalled: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., epoch: _Optional[int] = ..., heartbeat_s: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., backoff: _Optional[_Union[Backoff, _Mapping]] = ..., probing: _Optional[_Union[Probing, _Mapping]] = ..., server_time_ms: _Optional[int] = ..., device_id: _Optional[int] = ..., token: _Optional[bytes] = ..., config_version: _Optional[int] = ..., config: _Optional[_Mapping[str, str]] = ..., recalled: _Optional[_Iterable[int]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_body_up", "max_body_down", "max_receipts")
    MAX_BODY_UP_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_DOWN_FIELD_NUMBER: _ClassVar[int]
    MAX_RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    max_body_up: int
    max_body_down: int
    max_receipts: int
    def __init__(self, max_body_up: _Optional[int] = ..., max_body_down: _Optional[int] = ..., max_receipts: _Optional[int] = ...) -> None: ...

class Backoff(_message.Message):
    __slots__ = ("base_ms", "factor", "max_ms")
    BASE_MS_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    base_ms: int
    factor: float
    max_ms: int
    def __init__(self, base_ms: _Optional[int] = ..., factor: _Optional[float] = ..., max_ms: _Optional[int] = ...) -> None: ...

class Probing(_message.Message):
    __slots__ = ("start_s", "step_s", "max_s", "successes", "failures", "back_s")
    START_S_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    MAX_S_FIELD_NUMBER: _ClassVar[int]
    SUCCESSES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BACK_S_FIELD_NUMBER: _ClassVar[int]
    start_s: int
    step_s: int
    max_s: int
    successes: int
    failures: int
    back_s: int
    def __init__(self, start_s: _Optional[int] = ..., step_s: _Optional[int] = ..., max_s: _Optional[int] = ..., successes: _Optional[int] = ..., failures: _Optional[int] = ..., back_s: _Optional[int] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("push_id", "ttl_s", "content", "collapse_key")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    COLLAPSE_KEY_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    ttl_s: int
    content: Content
    collapse_key: str
    def __init__(self, push_id: _Optional[int] = ..., ttl_s: _Optional[int] = ..., content: _Optional[_Union[Content, _Mapping]] = ..., collapse_key: _Optional[str] = ...) -> None: ...

class Content(_message.Message):
    __slots__ = ("notification", "data")
    class DataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NOTIFICATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    notification: Notification
    data: _containers.ScalarMap[str, str]
    def __init__(self, notification: _Optional[_Union[Notification, _Mapping]] = ..., data: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Notification(_message.Message):
    __slots__ = ("title", "body", "url", "image")
    TITLE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    title: str
    body: str
    url: str
    image: str
    def __init__(self, title: _Optional[str] = ..., body: _Optional[str] = ..., url: _Optional[str] = ..., image: _Optional[str] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ("push_id",)
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    push_id: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, push_id: _Optional[_Iterable[int]] = ...) -> None: ...

class Receipts(_message.Message):
    __slots__ = ("seq", "receipts")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, seq: _Optional[int] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("push_id", "state", "at_ms", "reason", "clock_offset_ms")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CLOCK_OFFSET_MS_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    state: ReceiptState
    at_ms: int
    reason: str
    clock_offset_ms: int
    def __init__(self, push_id: _Optional[int] = ..., state: _Optional[_Union[ReceiptState, str]] = ..., at_ms: _Optional[int] = ..., reason: _Optional[str] = ..., clock_offset_ms: _Optional[int] = ...) -> None: ...

class ReceiptAck(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("change", "tags", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    change: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, change: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ProfileAck(_message.Message):
    __slots__ = ("change",)
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    change: int
    def __init__(self, change: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("heartbeat_s",)
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    heartbeat_s: int
    def __init__(self, heartbeat_s: _Optional[int] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("code", "retry_after_ms", "address", "detail", "version_min", "version_max", "server_time_ms", "connection")
    CODE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    VERSION_MIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_MAX_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    code: int
    retry_after_ms: int
    address: str
    detail: str
    version_min: int
    version_max: int
    server_time_ms: int
    connection: int
    def __init__(self, code: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., address: _Optional[str] = ..., detail: _Optional[str] = ..., version_min: _Optional[int] = ..., version_max: _Optional[int] = ..., server_time_ms: _Optional[int] = ..., connection: _Optional[int] = ...) -> None: ...
