"""The messages of the Open Inference Protocol over gRPC, with Triton's extensions, as classes of protobuf. Pure.

Their fields stand here as in the protocol's own files, with its numbers, as far as this router reads or writes them;
protobuf skips all others. The classes are in a pool of their own, so that no program's other copies are in the way.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Message: TypeAlias = Any
"""A class of protobuf, or a message of one; nothing is known of its fields before it is made."""

_INFERENCE: Final = """
message ServerLiveRequest { }
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest { }
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest { }
message ServerMetadataResponse { string name = 1; string version = 2; repeated string extensions = 3; }
message ModelMetadataRequest { string name = 1; string version = 2; }
message TensorMetadata { string name = 1; string datatype = 2; repeated int64 shape = 3; }
message ModelMetadataResponse {
  string name = 1; repeated string versions = 2; string platform = 3;
  repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5;
}
message InferParameter {
  choice bool bool_param = 1; choice int64 int64_param = 2; choice string string_param = 3;
  choice double double_param = 4; choice uint64 uint64_param = 5;
}
message InferTensorContents {
  repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64 int64_contents = 3;
  repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6;
  repeated double fp64_contents = 7; repeated bytes bytes_contents = 8;
}
message InferInputTensor {
  string name = 1; string datatype = 2; repeated int64 shape = 3; map<string, InferParameter> parameters = 4;
  InferTensorContents contents = 5;
}
message InferRequestedOutputTensor { string name = 1; map<string, InferParameter> parameters = 2; }
message ModelInferRequest {
  string model_name = 1; string model_version = 2; string id = 3; map<string, InferParameter> parameters = 4;
  repeated InferInputTensor inputs = 5; repeated InferRequestedOutputTensor outputs = 6;
  repeated bytes raw_input_contents = 7;
}
message InferOutputTensor { string name = 1; string datatype = 2; repeated int64 shape = 3; }
message ModelInferResponse {
  string model_name = 1; string model_version = 2; string id = 3; map<string, InferParameter> parameters = 4;
  repeated InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6;
}
message ModelConfigRequest { string name = 1; string version = 2; }
enum DataType {
  TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64
  TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16
}
enum Format { FORMAT_NONE FORMAT_NHWC FORMAT_NCHW }
message ModelInput { string name = 1; DataType data_type = 2; Format format = 3; repeated int64 dims = 4; }
message ModelOutput { string name = 1; DataType data_type = 2; repeated int64 dims = 3; string label_filename = 4; }
message ModelTransactionPolicy { bool decoupled = 1; }
message ModelSequenceBatching { }
message ModelConfig {
  string name = 1; string platform = 2; int32 max_batch_size = 4; repeated ModelInput input = 5;
  repeated ModelOutput output = 6; ModelSequenceBatching sequence_batching = 13; string backend = 17;
  ModelTransactionPolicy model_transaction_policy = 19;
}
message ModelConfigResponse { ModelConfig config = 1; }
message ModelStatisticsRequest { string name = 1; string version = 2; }
message StatisticDuration { uint64 count = 1; uint64 ns = 2; }
message InferStatistics {
  StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3;
  StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6;
  StatisticDuration cache_hit = 7; StatisticDuration cache_miss = 8;
}
message InferBatchStatistics { uint64 batch_size = 1; }
message ModelStatistics {
  string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4;
  uint64 execution_count = 5; InferStatistics inference_stats = 6; repeated InferBatchStatistics batch_stats = 7;
}
message ModelStatisticsResponse { repeated ModelStatistics model_stats = 1; }
message RepositoryIndexRequest { string repository_name = 1; bool ready = 2; }
message ModelIndex { string name = 1; string version = 2; string state = 3; string reason = 4; }
message RepositoryIndexResponse { repeated ModelIndex models = 1; }
message ModelRepositoryParameter {
  choice bool bool_param = 1; choice int64 int64_param = 2; choice string string_param = 3; choice bytes bytes_param = 4;
}
message RepositoryModelLoadRequest {
  string repository_name = 1; string model_name = 2; map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelLoadResponse { }
message RepositoryModelUnloadRequest {
  string repository_name = 1; string model_name = 2; map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelUnloadResponse { }
message ModelStreamInferResponse { string error_message = 1; ModelInferResponse infer_response = 2; }
service GRPCInferenceService {
  rpc ServerLive(ServerLiveRequest) returns (ServerLiveResponse);
  rpc ServerReady(ServerReadyRequest) returns (ServerReadyResponse);
  rpc ModelReady(ModelReadyRequest) returns (ModelReadyResponse);
  rpc ServerMetadata(ServerMetadataRequest) returns (ServerMetadataResponse);
  rpc ModelMetadata(ModelMetadataRequest) returns (ModelMetadataResponse);
  rpc ModelInfer(ModelInferRequest) returns (ModelInferResponse);
  rpc ModelStreamInfer(stream ModelInferRequest) returns (stream ModelStreamInferResponse);
  rpc ModelConfig(ModelConfigRequest) returns (ModelConfigResponse);
  rpc ModelStatistics(ModelStatisticsRequest) returns (ModelStatisticsResponse);
  rpc RepositoryIndex(RepositoryIndexRequest) returns (RepositoryIndexResponse);
  rpc RepositoryModelLoad(RepositoryModelLoadRequest) returns (RepositoryModelLoadResponse);
  rpc RepositoryModelUnload(RepositoryModelUnloadRequest) returns (RepositoryModelUnloadResponse);
}
"""
_HEALTH: Final = """
message HealthCheckRequest { string service = 1; }
enum ServingStatus { UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN }
message HealthCheckResponse { ServingStatus status = 1; }
service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
}
"""
_REFLECTION: Final = """
message ServerReflectionRequest {
  string host = 1; choice string file_by_filename = 3; choice string file_containing_symbol = 4;
  choice ExtensionRequest file_containing_extension = 5; choice string all_extension_numbers_of_type = 6;
  choice string list_services = 7;
}
message ExtensionRequest { string containing_type = 1; int32 extension_number = 2; }
message ServerReflectionResponse {
  string valid_host = 1; ServerReflectionRequest original_request = 2;
  choice FileDescriptorResponse file_descriptor_response = 4;
  choice ExtensionNumberResponse all_extension_numbers_response = 5;
  choice ListServiceResponse list_services_response = 6; choice ErrorResponse error_response = 7;
}
message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
message ExtensionNumberResponse { string base_type_name = 1; repeated int32 extension_number = 2; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message ServiceResponse { string name = 1; }
message ErrorResponse { int32 error_code = 1; string error_message = 2; }
service ServerReflection {
  rpc ServerReflectionInfo(stream ServerReflectionRequest) returns (stream ServerReflectionResponse);
}
"""
_TEXTS: Final = {
    "inference": _INFERENCE,
    "grpc.health.v1": _HEALTH,
    "grpc.reflection.v1": _REFLECTION,
    "grpc.reflection.v1alpha": _REFLECTION,  # for older clients
}
"""The messages and services by their packages."""

_MESSAGE: Final = re.compile(r"message (\w+) \{([^}]*)\}")
_ENUM: Final = re.compile(r"enum (\w+) \{([^}]*)\}")
_SERVICE: Final = re.compile(r"service (\w+) \{([^}]*)\}")
_FIELD: Final = re.compile(r"(?:(repeated|choice) )?(\w+|map<string, \w+>) (\w+) = (\d+);")
_METHOD: Final = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);")
_Field: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def _file(package: str, text: str) -> descriptor_pb2.FileDescriptorProto:
    """Return the description of a package as protobuf takes it."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}.proto", package=package, syntax="proto3"
    )
    enums = _ENUM.findall(text)
    for name, names in enums:
        enum = file.enum_type.add(name=name)
        for number, each in enumerate(names.split()):
            enum.value.add(name=each, number=number)
    enum_names = {name for name, _ in enums}
    for name, body in _MESSAGE.findall(text):
        message = file.message_type.add(name=name)
        for mark, kind, field_name, number in _FIELD.findall(body):
            _add_field(message, package, enum_names, mark, kind, field_name, int(number))
    for name, body in _SERVICE.findall(text):
        service = file.service.add(name=name)
        for method, is_asked_often, asked, is_answered_often, answer in _METHOD.findall(body):
            service.method.add(
                name=method,
                input_type=f".{package}.{asked}",
                output_type=f".{package}.{answer}",
                client_streaming=bool(is_asked_often),
                server_streaming=bool(is_answered_often),
            )
    return file


def _add_field(
    message: descriptor_pb2.DescriptorProto,
    package: str,
    enum_names: set[str],
    mark: str,
    kind: str,
    name: str,
    number: int,
) -> None:
    """Add one field as `_FIELD` reads it; a map is the repeated message of entries that protobuf means by it."""
    of_map = kind.removeprefix("map<string, ").removesuffix(">") if kind.startswith("map") else ""
    field = message.field.add(
        name=name,
        number=number,
        label=_Field.LABEL_REPEATED if of_map or mark == "repeated" else _Field.LABEL_OPTIONAL,
    )
    if of_map:
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, package, enum_names, "", "string", "key", 1)
        _add_field(entry, package, enum_names, "", of_map, "value", 2)
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{package}.{message.name}.{entry.name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind in enum_names else _Field.TYPE_MESSAGE
        field.type_name = f".{package}.{kind}"
    if mark == "choice":
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0


FILES: Final = tuple(_file(package, text) for package, text in _TEXTS.items())
"""The descriptions of all packages."""


def _classes() -> dict[str, Message]:
    pool = descriptor_pool.DescriptorPool()
    for file in FILES:
        pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{file.package}.{message.name}")
        )
        for file in reversed(FILES)
        for message in file.message_type
    }


CLASSES: Final = _classes()
"""The classes of all messages by their names; of a name that stands in two packages, the class of the first."""
