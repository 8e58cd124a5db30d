from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Deliver(_message.Message):
    __slots__ = ("partition", "fence", "deliveries")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    partition: int
    fence: int
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    def __init__(self, partition: _Optional[int] = ..., fence: _Optional[int] = ..., deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("frame", "index", "bitmap")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    frame: bytes
    index: _containers.RepeatedScalarFieldContainer[int]
    bitmap: bytes
    def __init__(self, frame: _Optional[bytes] = ..., index: _Optional[_Iterable[int]] = ..., bitmap: _Optional[bytes] = ...) -> None: ...

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
    __slots__ = ("partitions", "known", "app", "accepted_ms", "ttl_s", "targeted", "received", "failed", "recalled", "replaced", "overflowed", "stopped", "expired", "pending", "displayed", "clicked", "dismissed")
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
    def __init__(self, partitions: _Optional[_Iterable[int]] = ..., known: bool = ..., app: _Optional[int] = ..., accepted_ms: _Optional[int] = ..., ttl_s: _Optional[int] = ..., targeted: _Optional[int] = ..., received: _Optional[int] = ..., failed: _Optional[int] = ..., recalled: _Optional[int] = ..., replaced: _Optional[int] = ..., overflowed: _Optional[int] = ..., stopped: _Optional[int] = ..., expired: _Optional[int] = ..., pending: _Optional[int] = ..., displayed: _Optional[int] = ..., clicked: _Optional[int] = ..., dismissed: _Optional[int] = ...) -> None: ...

class DeviceRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: int
    def __init__(self, device_id: _Optional[int] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("known", "app", "edge", "pending", "tags", "epoch")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    known: bool
    app: int
    edge: int
    pending: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    epoch: int
    def __init__(self, known: bool = ..., app: _Optional[int] = ..., edge: _Optional[int] = ..., pending: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., epoch: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("app", "audience", "devices", "content", "ttl_s", "idempotency_key")
    APP_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    app: str
    audience: bytes
    devices: _containers.RepeatedScalarFieldContainer[int]
    content: bytes
    ttl_s: int
    idempotency_key: str
    def __init__(self, app: _Optional[str] = ..., audience: _Optional[bytes] = ..., devices: _Optional[_Iterable[int]] = ..., content: _Optional[bytes] = ..., ttl_s: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("push_id", "accepted", "unknown")
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    push_id: int
    accepted: int
    unknown: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, push_id: _Optional[int] = ..., accepted: _Optional[int] = ..., unknown: _Optional[_Iterable[int]] = ...) -> None: ...

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
