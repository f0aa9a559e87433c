from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_FLOAT32: _ClassVar[Codec]
    CODEC_FLOAT16: _ClassVar[Codec]
    CODEC_ANS: _ClassVar[Codec]
    CODEC_PACKED: _ClassVar[Codec]
    CODEC_ZSTD: _ClassVar[Codec]
CODEC_UNSPECIFIED: Codec
CODEC_FLOAT32: Codec
CODEC_FLOAT16: Codec
CODEC_ANS: Codec
CODEC_PACKED: Codec
CODEC_ZSTD: Codec

class FeatureTensor(_message.Message):
    __slots__ = ("codec", "shape", "payload")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    codec: Codec
    shape: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    def __init__(self, codec: _Optional[_Union[Codec, str]] = ..., shape: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("bundle_id", "request_ids", "next_block", "thetas", "feature", "images", "pixels", "timeout_ms", "traceparent")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_BLOCK_FIELD_NUMBER: _ClassVar[int]
    THETAS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    next_block: int
    thetas: _containers.RepeatedScalarFieldContainer[float]
    feature: FeatureTensor
    images: _containers.RepeatedScalarFieldContainer[bytes]
    pixels: _containers.RepeatedScalarFieldContainer[bytes]
    timeout_ms: int
    traceparent: str
    def __init__(self, bundle_id: _Optional[str] = ..., request_ids: _Optional[_Iterable[str]] = ..., next_block: _Optional[int] = ..., thetas: _Optional[_Iterable[float]] = ..., feature: _Optional[_Union[FeatureTensor, _Mapping]] = ..., images: _Optional[_Iterable[bytes]] = ..., pixels: _Optional[_Iterable[bytes]] = ..., timeout_ms: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class InferResponse(_message.Message):
    __slots__ = ("answers", "times", "behind", "refusal")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    times: _containers.RepeatedCompositeFieldContainer[TierTime]
    behind: Behind
    refusal: Refusal
    def __init__(self, answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., times: _Optional[_Iterable[_Union[TierTime, _Mapping]]] = ..., behind: _Optional[_Union[Behind, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("status", "reason")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    status: int
    reason: str
    def __init__(self, status: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("request_id", "probabilities", "confidence", "exit_number", "tier", "degraded_reason", "passed", "unfamiliar")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    EXIT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASON_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    UNFAMILIAR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    probabilities: bytes
    confidence: float
    exit_number: int
    tier: str
    degraded_reason: str
    passed: _containers.RepeatedScalarFieldContainer[float]
    unfamiliar: bool
    def __init__(self, request_id: _Optional[str] = ..., probabilities: _Optional[bytes] = ..., confidence: _Optional[float] = ..., exit_number: _Optional[int] = ..., tier: _Optional[str] = ..., degraded_reason: _Optional[str] = ..., passed: _Optional[_Iterable[float]] = ..., unfamiliar: _Optional[bool] = ...) -> None: ...

class Behind(_message.Message):
    __slots__ = ("target", "up", "reason")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    target: str
    up: bool
    reason: str
    def __init__(self, target: _Optional[str] = ..., up: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class TierTime(_message.Message):
    __slots__ = ("tier", "queue_ms", "compute_ms")
    TIER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    tier: str
    queue_ms: float
    compute_ms: float
    def __init__(self, tier: _Optional[str] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("bundle_id", "tier", "first_block", "last_block", "codecs", "max_pixels", "max_samples", "takes_pixels", "max_bytes", "behind", "streams")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    LAST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TAKES_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    tier: str
    first_block: int
    last_block: int
    codecs: _containers.RepeatedScalarFieldContainer[Codec]
    max_pixels: int
    max_samples: int
    takes_pixels: bool
    max_bytes: int
    behind: Behind
    streams: bool
    def __init__(self, bundle_id: _Optional[str] = ..., tier: _Optional[str] = ..., first_block: _Optional[int] = ..., last_block: _Optional[int] = ..., codecs: _Optional[_Iterable[_Union[Codec, str]]] = ..., max_pixels: _Optional[int] = ..., max_samples: _Optional[int] = ..., takes_pixels: _Optional[bool] = ..., max_bytes: _Optional[int] = ..., behind: _Optional[_Union[Behind, _Mapping]] = ..., streams: _Optional[bool] = ...) -> None: ...
