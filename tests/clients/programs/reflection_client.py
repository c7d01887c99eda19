"""What grpcurl does, by the reflection client of gRPC's authors: `ADDRESS MODEL ROWS.json INPUT`. Prints JSON.

It has no file of the protocol: it lists the services, describes one, and calls its methods with what it has learnt.
"""

import json
import sys
from pathlib import Path

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "inference.GRPCInferenceService"


def main(address: str, model: str, file: str, name: str) -> None:
    """List, describe and call."""
    rows = json.loads(Path(file).read_text())
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        service = pool.FindServiceByName(SERVICE)

        def call(method: str, **request: object) -> dict[str, object]:
            found = service.FindMethodByName(method)
            asked = ParseDict(request, GetMessageClass(found.input_type)())
            answer = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(found.output_type).FromString,
            )(asked)
            return MessageToDict(answer, preserving_proto_field_name=True)

        tensor = {
            "name": name,
            "datatype": "FP32",
            "shape": [len(rows), len(rows[0])],
            "contents": {"fp32_contents": [number for row in rows for number in row]},
        }
        told = {
            "services": sorted(database.get_services()),
            "methods": sorted(method.name for method in service.methods),
            "ready": call("ModelReady", name=model),
            "metadata": call("ModelMetadata", name=model),
            "answer": call("ModelInfer", model_name=model, id="seven", inputs=[tensor]),
        }
    sys.stdout.write(json.dumps(told))


main(*sys.argv[1:])
