from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Deliver(_message.Message):
    __slots__ = ("partition", "fence", "deliveries", "priority")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    partition: int
    fence: int
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    priority: int
    def __init__(self, partition: _Optional[int] = ..., fence: _Optional[int] = ..., deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ..., priority: _Optional[int] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("frame", "index", "bitmap", "push_id", "restart")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    frame: bytes
    index: _containers.RepeatedScalarFieldContainer[int]
    bitmap: bytes
    push_id: int
    restart: bool
    def __init__(self, frame: _Optional[bytes] = ..., index: _Optional[_Iterable[int]] = ..., bitmap: _Optional[bytes] = ..., push_id: _Optional[int] = ..., restart: bool = ...) -> None: ...

class Delivered(_message.Message):
    __slots__ = ("refused",)
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    refused: _containers.RepeatedCompositeFieldContainer[Refused]
    def __init__(self, refused: _Optional[_Iterable[_Union[Refused, _Mapping]]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("delivery", "gone", "slow")
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    delivery: int
    gone: _containers.RepeatedScalarFieldContainer[int]
    slow: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, delivery: _Optional[int] = ..., gone: _Optional[_Iterable[int]] = ..., slow: _Optional[_Iterable[int]] = ...) -> None: ...

class Recalls(_message.Message):
    __slots__ = ("pushes",)
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    pushes: _containers.RepeatedCompositeFieldContainer[RecalledPush]
    def __init__(self, pushes: _Optional[_Iterable[_Union[RecalledPush, _Mapping]]] = ...) -> None: ...

class RecalledPush(_message.Message):
    __slots__ = ("push_id", "app", "until_ms")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    app: int
    until_ms: int
    def __init__(self, push_id: _Optional[int] = ..., app: _Optional[int] = ..., until_ms: _Optional[int] = ...) -> None: ...

class Replaced(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[ReplacedSession]
    def __init__(self, sessions: _Optional[_Iterable[_Union[ReplacedSession, _Mapping]]] = ...) -> None: ...

class ReplacedSession(_message.Message):
    __slots__ = ("partition", "index", "epoch")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    partition: int
    index: int
    epoch: int
    def __init__(self, partition: _Optional[int] = ..., index: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class CountsRequest(_message.Message):
    __slots__ = ("push_id",)
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    def __init__(self, push_id: _Optional[int] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("partitions", "known", "app", "accepted_ms", "ttl_s", "targeted", "received", "failed", "recalled", "replaced", "overflowed", "stopped", "expired", "pending", "displayed", "clicked", "dismissed", "held_out", "paused")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    TARGETED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RECALLED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    OVERFLOWED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    DISPLAYED_FIELD_NUMBER: _ClassVar[int]
    CLICKED_FIELD_NUMBER: _ClassVar[int]
    DISMISSED_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedScalarFieldContainer[int]
    known: bool
    app: int
    accepted_ms: int
    ttl_s: int
    targeted: int
    received: int
    failed: int
    recalled: int
    replaced: int
    overflowed: int
    stopped: int
    expired: int
    pending: int
    displayed: int
    clicked: int
    dismissed: int
    held_out: int
    paused: bool
    def __init__(self, partitions: _Optional[_Iterable[int]] = ..., known: bool = ..., app: _Optional[int] = ..., accepted_ms: _Optional[int] = ..., ttl_s: _Optional[int] = ..., targeted: _Optional[int] = ..., received: _Optional[int] = ..., failed: _Optional[int] = ..., recalled: _Optional[int] = ..., replaced: _Optional[int] = ..., overflowed: _Optional[int] = ..., stopped: _Optional[int] = ..., expired: _Optional[int] = ..., pending: _Optional[int] = ..., displayed: _Optional[int] = ..., clicked: _Optional[int] = ..., dismissed: _Optional[int] = ..., held_out: _Optional[int] = ..., paused: bool = ...) -> None: ...

class DeviceRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: int
    def __init__(self, device_id: _Optional[int] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("known", "app", "edge", "pending", "tags", "epoch", "account")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    known: bool
    app: int
    edge: int
    pending: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    epoch: int
    account: str
    def __init__(self, known: bool = ..., app: _Optional[int] = ..., edge: _Optional[int] = ..., pending: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., epoch: _Optional[int] = ..., account: _Optional[str] = ...) -> None: ...

class AudienceRequest(_message.Message):
    __slots__ = ("app", "audience", "explain")
    APP_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    app: int
    audience: bytes
    explain: bool
    def __init__(self, app: _Optional[int] = ..., audience: _Optional[bytes] = ..., explain: bool = ...) -> None: ...

class AudienceReply(_message.Message):
    __slots__ = ("partitions", "terms", "sample")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionCount]
    terms: _containers.RepeatedCompositeFieldContainer[TermCount]
    sample: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, partitions: _Optional[_Iterable[_Union[PartitionCount, _Mapping]]] = ..., terms: _Optional[_Iterable[_Union[TermCount, _Mapping]]] = ..., sample: _Optional[_Iterable[int]] = ...) -> None: ...

class PartitionCount(_message.Message):
    __slots__ = ("partition", "devices", "seconds")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    devices: int
    seconds: float
    def __init__(self, partition: _Optional[int] = ..., devices: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class TermCount(_message.Message):
    __slots__ = ("term", "devices", "seconds")
    TERM_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    term: str
    devices: int
    seconds: float
    def __init__(self, term: _Optional[str] = ..., devices: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class TagRequest(_message.Message):
    __slots__ = ("partition", "app", "items")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    app: int
    items: _containers.RepeatedCompositeFieldContainer[TagItem]
    def __init__(self, partition: _Optional[int] = ..., app: _Optional[int] = ..., items: _Optional[_Iterable[_Union[TagItem, _Mapping]]] = ...) -> None: ...

class TagItem(_message.Message):
    __slots__ = ("index", "add", "remove")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    index: int
    add: _containers.RepeatedScalarFieldContainer[str]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., add: _Optional[_Iterable[str]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class TagReply(_message.Message):
    __slots__ = ("errors",)
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    errors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, errors: _Optional[_Iterable[str]] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("push_id", "app", "action", "until_ms")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    app: int
    action: int
    until_ms: int
    def __init__(self, push_id: _Optional[int] = ..., app: _Optional[int] = ..., action: _Optional[int] = ..., until_ms: _Optional[int] = ...) -> None: ...

class ControlReply(_message.Message):
    __slots__ = ("partitions",)
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, partitions: _Optional[_Iterable[int]] = ...) -> None: ...

class AccountRequest(_message.Message):
    __slots__ = ("partition", "app", "items")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    app: int
    items: _containers.RepeatedCompositeFieldContainer[AccountItem]
    def __init__(self, partition: _Optional[int] = ..., app: _Optional[int] = ..., items: _Optional[_Iterable[_Union[AccountItem, _Mapping]]] = ...) -> None: ...

class AccountItem(_message.Message):
    __slots__ = ("account", "remove", "device", "binding", "only")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    ONLY_FIELD_NUMBER: _ClassVar[int]
    account: str
    remove: bool
    device: int
    binding: int
    only: bool
    def __init__(self, account: _Optional[str] = ..., remove: bool = ..., device: _Optional[int] = ..., binding: _Optional[int] = ..., only: bool = ...) -> None: ...

class AccountReply(_message.Message):
    __slots__ = ("errors", "beside")
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    errors: _containers.RepeatedScalarFieldContainer[str]
    beside: _containers.RepeatedCompositeFieldContainer[Bindings]
    def __init__(self, errors: _Optional[_Iterable[str]] = ..., beside: _Optional[_Iterable[_Union[Bindings, _Mapping]]] = ...) -> None: ...

class Bindings(_message.Message):
    __slots__ = ("device", "binding")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    device: _containers.RepeatedScalarFieldContainer[int]
    binding: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, device: _Optional[_Iterable[int]] = ..., binding: _Optional[_Iterable[int]] = ...) -> None: ...

class HolderRequest(_message.Message):
    __slots__ = ("partition", "app", "items")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    app: int
    items: _containers.RepeatedCompositeFieldContainer[HolderItem]
    def __init__(self, partition: _Optional[int] = ..., app: _Optional[int] = ..., items: _Optional[_Iterable[_Union[HolderItem, _Mapping]]] = ...) -> None: ...

class HolderItem(_message.Message):
    __slots__ = ("index", "account", "was", "binding")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    WAS_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    index: int
    account: str
    was: str
    binding: int
    def __init__(self, index: _Optional[int] = ..., account: _Optional[str] = ..., was: _Optional[str] = ..., binding: _Optional[int] = ...) -> None: ...

class HolderReply(_message.Message):
    __slots__ = ("errors", "was", "binding")
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    WAS_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    errors: _containers.RepeatedScalarFieldContainer[str]
    was: _containers.RepeatedScalarFieldContainer[str]
    binding: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, errors: _Optional[_Iterable[str]] = ..., was: _Optional[_Iterable[str]] = ..., binding: _Optional[_Iterable[int]] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("partition", "app", "accounts", "index")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    partition: int
    app: int
    accounts: _containers.RepeatedScalarFieldContainer[str]
    index: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, partition: _Optional[int] = ..., app: _Optional[int] = ..., accounts: _Optional[_Iterable[str]] = ..., index: _Optional[_Iterable[int]] = ...) -> None: ...

class LookupReply(_message.Message):
    __slots__ = ("lists", "holders", "known")
    LISTS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    lists: _containers.RepeatedCompositeFieldContainer[Bindings]
    holders: _containers.RepeatedScalarFieldContainer[str]
    known: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, lists: _Optional[_Iterable[_Union[Bindings, _Mapping]]] = ..., holders: _Optional[_Iterable[str]] = ..., known: _Optional[_Iterable[bool]] = ...) -> None: ...

class PermitRequest(_message.Message):
    __slots__ = ("push_id", "speed", "wanted", "asker")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    ASKER_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    speed: int
    wanted: int
    asker: int
    def __init__(self, push_id: _Optional[int] = ..., speed: _Optional[int] = ..., wanted: _Optional[int] = ..., asker: _Optional[int] = ...) -> None: ...

class PermitReply(_message.Message):
    __slots__ = ("granted",)
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    granted: int
    def __init__(self, granted: _Optional[int] = ...) -> None: ...

class LedgerRequest(_message.Message):
    __slots__ = ("push_id", "device_id")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    device_id: int
    def __init__(self, push_id: _Optional[int] = ..., device_id: _Optional[int] = ...) -> None: ...

class LedgerReply(_message.Message):
    __slots__ = ("device_known", "push_known", "app", "state", "why", "steps", "terms", "edge", "notes")
    DEVICE_KNOWN_FIELD_NUMBER: _ClassVar[int]
    PUSH_KNOWN_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    device_known: bool
    push_known: bool
    app: int
    state: str
    why: str
    steps: _containers.RepeatedCompositeFieldContainer[LedgerStep]
    terms: _containers.RepeatedCompositeFieldContainer[LedgerTerm]
    edge: int
    notes: str
    def __init__(self, device_known: bool = ..., push_known: bool = ..., app: _Optional[int] = ..., state: _Optional[str] = ..., why: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[LedgerStep, _Mapping]]] = ..., terms: _Optional[_Iterable[_Union[LedgerTerm, _Mapping]]] = ..., edge: _Optional[int] = ..., notes: _Optional[str] = ...) -> None: ...

class LedgerStep(_message.Message):
    __slots__ = ("at_ms", "event", "edge", "attempt")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    event: str
    edge: int
    attempt: int
    def __init__(self, at_ms: _Optional[int] = ..., event: _Optional[str] = ..., edge: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class LedgerTerm(_message.Message):
    __slots__ = ("term", "matches")
    TERM_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    term: str
    matches: bool
    def __init__(self, term: _Optional[str] = ..., matches: bool = ...) -> None: ...

class CutRequest(_message.Message):
    __slots__ = ("push_id", "by")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, push_id: _Optional[int] = ..., by: _Optional[_Iterable[str]] = ...) -> None: ...

class CutReply(_message.Message):
    __slots__ = ("partitions", "known", "app", "cuts")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedScalarFieldContainer[int]
    known: bool
    app: int
    cuts: _containers.RepeatedCompositeFieldContainer[Cut]
    def __init__(self, partitions: _Optional[_Iterable[int]] = ..., known: bool = ..., app: _Optional[int] = ..., cuts: _Optional[_Iterable[_Union[Cut, _Mapping]]] = ...) -> None: ...

class Cut(_message.Message):
    __slots__ = ("tag", "counts")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TAG_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    tag: str
    counts: _containers.ScalarMap[str, int]
    def __init__(self, tag: _Optional[str] = ..., counts: _Optional[_Mapping[str, int]] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("app", "audience", "devices", "content", "ttl_s", "idempotency_key", "holdout", "speed", "priority", "collapse_key")
    APP_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    COLLAPSE_KEY_FIELD_NUMBER: _ClassVar[int]
    app: str
    audience: bytes
    devices: _containers.RepeatedScalarFieldContainer[int]
    content: bytes
    ttl_s: int
    idempotency_key: str
    holdout: float
    speed: int
    priority: int
    collapse_key: str
    def __init__(self, app: _Optional[str] = ..., audience: _Optional[bytes] = ..., devices: _Optional[_Iterable[int]] = ..., content: _Optional[bytes] = ..., ttl_s: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., holdout: _Optional[float] = ..., speed: _Optional[int] = ..., priority: _Optional[int] = ..., collapse_key: _Optional[str] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("push_id", "accepted", "unknown", "unknown_accounts")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    accepted: int
    unknown: _containers.RepeatedScalarFieldContainer[int]
    unknown_accounts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, push_id: _Optional[int] = ..., accepted: _Optional[int] = ..., unknown: _Optional[_Iterable[int]] = ..., unknown_accounts: _Optional[_Iterable[str]] = ...) -> None: ...

class DepartRequest(_message.Message):
    __slots__ = ("drain", "undo", "over_s", "targets")
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    OVER_S_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    drain: bool
    undo: bool
    over_s: float
    targets: _containers.RepeatedCompositeFieldContainer[DepartTarget]
    def __init__(self, drain: bool = ..., undo: bool = ..., over_s: _Optional[float] = ..., targets: _Optional[_Iterable[_Union[DepartTarget, _Mapping]]] = ...) -> None: ...

class DepartTarget(_message.Message):
    __slots__ = ("address", "sessions")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    address: str
    sessions: int
    def __init__(self, address: _Optional[str] = ..., sessions: _Optional[int] = ...) -> None: ...

class DepartReply(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    def __init__(self, sessions: _Optional[int] = ...) -> None: ...

class Stats(_message.Message):
    __slots__ = ("role", "samples")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    role: str
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    def __init__(self, role: _Optional[str] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("name", "labels", "value")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.ScalarMap[str, str]
    value: float
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., value: _Optional[float] = ...) -> None: ...
