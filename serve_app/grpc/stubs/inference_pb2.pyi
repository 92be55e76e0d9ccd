from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamReply(_message.Message):
    __slots__ = ("chunk", "response")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    chunk: Chunk
    response: InferResponse
    def __init__(self, chunk: _Optional[_Union[Chunk, _Mapping]] = ..., response: _Optional[_Union[InferResponse, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("text", "index", "logprobs", "segments", "prompt_logprobs")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    text: str
    index: int
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    segments: _containers.RepeatedCompositeFieldContainer[SpeechSegment]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[PromptToken]
    def __init__(self, text: _Optional[str] = ..., index: _Optional[int] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[SpeechSegment, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[PromptToken, _Mapping]]] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("image_classification", "text_generation", "object_detection", "text_embedding", "speech_to_text", "other")
    IMAGE_CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    OBJECT_DETECTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    SPEECH_TO_TEXT_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    image_classification: ImageClassification
    text_generation: TextGeneration
    object_detection: ObjectDetection
    text_embedding: TextEmbedding
    speech_to_text: SpeechToText
    other: bytes
    def __init__(self, image_classification: _Optional[_Union[ImageClassification, _Mapping]] = ..., text_generation: _Optional[_Union[TextGeneration, _Mapping]] = ..., object_detection: _Optional[_Union[ObjectDetection, _Mapping]] = ..., text_embedding: _Optional[_Union[TextEmbedding, _Mapping]] = ..., speech_to_text: _Optional[_Union[SpeechToText, _Mapping]] = ..., other: _Optional[bytes] = ...) -> None: ...

class ImageClassification(_message.Message):
    __slots__ = ("model_id", "image_data", "top_k")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DATA_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    image_data: bytes
    top_k: int
    def __init__(self, model_id: _Optional[str] = ..., image_data: _Optional[bytes] = ..., top_k: _Optional[int] = ...) -> None: ...

class TextGeneration(_message.Message):
    __slots__ = ("model_id", "prompt", "max_tokens", "tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt", "markup", "messages", "prompt_ids", "control_tokens", "suffix", "stream", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "logit_bias", "min_tokens", "stop_token_ids", "ignore_eos", "logprobs", "prompt_logprobs", "json_schema", "seed")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_KWARGS_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_FINAL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    MARKUP_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SUFFIX_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    prompt: str
    max_tokens: int
    tools: str
    chat_template_kwargs: str
    continue_final_message: bool
    add_generation_prompt: bool
    markup: bool
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    control_tokens: bool
    suffix: str
    stream: bool
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: _containers.RepeatedScalarFieldContainer[str]
    logit_bias: _containers.ScalarMap[int, float]
    min_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    logprobs: int
    prompt_logprobs: bool
    json_schema: str
    seed: int
    def __init__(self, model_id: _Optional[str] = ..., prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., tools: _Optional[str] = ..., chat_template_kwargs: _Optional[str] = ..., continue_final_message: _Optional[bool] = ..., add_generation_prompt: _Optional[bool] = ..., markup: _Optional[bool] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., control_tokens: _Optional[bool] = ..., suffix: _Optional[str] = ..., stream: _Optional[bool] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., stop: _Optional[_Iterable[str]] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., min_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: _Optional[bool] = ..., logprobs: _Optional[int] = ..., prompt_logprobs: _Optional[bool] = ..., json_schema: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class ObjectDetection(_message.Message):
    __slots__ = ("model_id", "image_data", "threshold", "top_k")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DATA_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    image_data: bytes
    threshold: float
    top_k: int
    def __init__(self, model_id: _Optional[str] = ..., image_data: _Optional[bytes] = ..., threshold: _Optional[float] = ..., top_k: _Optional[int] = ...) -> None: ...

class SpeechToText(_message.Message):
    __slots__ = ("model_id", "audio_data", "language", "task", "timestamps", "stream")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIO_DATA_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    audio_data: bytes
    language: str
    task: str
    timestamps: str
    stream: bool
    def __init__(self, model_id: _Optional[str] = ..., audio_data: _Optional[bytes] = ..., language: _Optional[str] = ..., task: _Optional[str] = ..., timestamps: _Optional[str] = ..., stream: _Optional[bool] = ...) -> None: ...

class TextEmbedding(_message.Message):
    __slots__ = ("model_id", "texts", "token_ids", "dimensions", "normalize", "input_type", "truncate")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    INPUT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    token_ids: _containers.RepeatedCompositeFieldContainer[Uint32s]
    dimensions: int
    normalize: bool
    input_type: str
    truncate: bool
    def __init__(self, model_id: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., token_ids: _Optional[_Iterable[_Union[Uint32s, _Mapping]]] = ..., dimensions: _Optional[int] = ..., normalize: _Optional[bool] = ..., input_type: _Optional[str] = ..., truncate: _Optional[bool] = ...) -> None: ...

class InferResponse(_message.Message):
    __slots__ = ("image_classification_result", "text_generation_result", "error", "object_detection_result", "text_embedding_result", "speech_to_text_result", "other")
    IMAGE_CLASSIFICATION_RESULT_FIELD_NUMBER: _ClassVar[int]
    TEXT_GENERATION_RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OBJECT_DETECTION_RESULT_FIELD_NUMBER: _ClassVar[int]
    TEXT_EMBEDDING_RESULT_FIELD_NUMBER: _ClassVar[int]
    SPEECH_TO_TEXT_RESULT_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    image_classification_result: ImageClassificationResult
    text_generation_result: TextGenerationResult
    error: Error
    object_detection_result: ObjectDetectionResult
    text_embedding_result: TextEmbeddingResult
    speech_to_text_result: SpeechToTextResult
    other: bytes
    def __init__(self, image_classification_result: _Optional[_Union[ImageClassificationResult, _Mapping]] = ..., text_generation_result: _Optional[_Union[TextGenerationResult, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., object_detection_result: _Optional[_Union[ObjectDetectionResult, _Mapping]] = ..., text_embedding_result: _Optional[_Union[TextEmbeddingResult, _Mapping]] = ..., speech_to_text_result: _Optional[_Union[SpeechToTextResult, _Mapping]] = ..., other: _Optional[bytes] = ...) -> None: ...

class ImageClassificationResult(_message.Message):
    __slots__ = ("model_id", "class_labels", "probabilities")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_LABELS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    class_labels: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, model_id: _Optional[str] = ..., class_labels: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class TextGenerationResult(_message.Message):
    __slots__ = ("model_id", "generated_text", "finish_reason", "usage", "logprobs", "prompt_logprobs", "markup")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MARKUP_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    generated_text: str
    finish_reason: str
    usage: Usage
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[PromptToken]
    markup: Markup
    def __init__(self, model_id: _Optional[str] = ..., generated_text: _Optional[str] = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[PromptToken, _Mapping]]] = ..., markup: _Optional[_Union[Markup, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("message", "code", "retryable", "retry_after_ms", "request_id")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    message: str
    code: str
    retryable: bool
    retry_after_ms: int
    request_id: str
    def __init__(self, message: _Optional[str] = ..., code: _Optional[str] = ..., retryable: _Optional[bool] = ..., retry_after_ms: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class ObjectDetectionResult(_message.Message):
    __slots__ = ("model_id", "class_labels", "scores", "boxes")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_LABELS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    class_labels: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    boxes: _containers.RepeatedCompositeFieldContainer[Floats]
    def __init__(self, model_id: _Optional[str] = ..., class_labels: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., boxes: _Optional[_Iterable[_Union[Floats, _Mapping]]] = ...) -> None: ...

class SpeechToTextResult(_message.Message):
    __slots__ = ("model_id", "text", "segments", "words", "language", "duration_s")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    text: str
    segments: _containers.RepeatedCompositeFieldContainer[SpeechSegment]
    words: _containers.RepeatedCompositeFieldContainer[SpeechSegment]
    language: str
    duration_s: float
    def __init__(self, model_id: _Optional[str] = ..., text: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[SpeechSegment, _Mapping]]] = ..., words: _Optional[_Iterable[_Union[SpeechSegment, _Mapping]]] = ..., language: _Optional[str] = ..., duration_s: _Optional[float] = ...) -> None: ...

class TextEmbeddingResult(_message.Message):
    __slots__ = ("model_id", "embeddings", "usage")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    embeddings: _containers.RepeatedCompositeFieldContainer[Floats]
    usage: Usage
    def __init__(self, model_id: _Optional[str] = ..., embeddings: _Optional[_Iterable[_Union[Floats, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    REASONING_CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    name: str
    tool_calls: _containers.RepeatedCompositeFieldContainer[ToolCall]
    tool_call_id: str
    reasoning_content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., name: _Optional[str] = ..., tool_calls: _Optional[_Iterable[_Union[ToolCall, _Mapping]]] = ..., tool_call_id: _Optional[str] = ..., reasoning_content: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token", "logprob", "utf8", "top")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    UTF8_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    token: str
    logprob: float
    utf8: _containers.RepeatedScalarFieldContainer[int]
    top: _containers.RepeatedCompositeFieldContainer[Alternative]
    def __init__(self, token: _Optional[str] = ..., logprob: _Optional[float] = ..., utf8: _Optional[_Iterable[int]] = ..., top: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ...) -> None: ...

class PromptToken(_message.Message):
    __slots__ = ("token", "utf8", "top", "logprob")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    UTF8_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token: str
    utf8: _containers.RepeatedScalarFieldContainer[int]
    top: _containers.RepeatedCompositeFieldContainer[Alternative]
    logprob: float
    def __init__(self, token: _Optional[str] = ..., utf8: _Optional[_Iterable[int]] = ..., top: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ..., logprob: _Optional[float] = ...) -> None: ...

class Markup(_message.Message):
    __slots__ = ("tool_calls", "reasoning", "in_reasoning")
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    IN_REASONING_FIELD_NUMBER: _ClassVar[int]
    tool_calls: str
    reasoning: _containers.RepeatedScalarFieldContainer[str]
    in_reasoning: bool
    def __init__(self, tool_calls: _Optional[str] = ..., reasoning: _Optional[_Iterable[str]] = ..., in_reasoning: _Optional[bool] = ...) -> None: ...

class SpeechSegment(_message.Message):
    __slots__ = ("start_s", "end_s", "text")
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    start_s: float
    end_s: float
    text: str
    def __init__(self, start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class ToolCall(_message.Message):
    __slots__ = ("function", "id", "type")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    function: Function
    id: str
    type: str
    def __init__(self, function: _Optional[_Union[Function, _Mapping]] = ..., id: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class Alternative(_message.Message):
    __slots__ = ("token", "logprob", "utf8")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    UTF8_FIELD_NUMBER: _ClassVar[int]
    token: str
    logprob: float
    utf8: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token: _Optional[str] = ..., logprob: _Optional[float] = ..., utf8: _Optional[_Iterable[int]] = ...) -> None: ...

class Function(_message.Message):
    __slots__ = ("name", "arguments")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    arguments: str
    def __init__(self, name: _Optional[str] = ..., arguments: _Optional[str] = ...) -> None: ...

class Uint32s(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class Floats(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...
