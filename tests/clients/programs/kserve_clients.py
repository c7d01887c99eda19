"""What KServe's own clients get: `WIRE ADDRESS MODEL ROWS.npy INPUT`; WIRE is json, binary or grpc. Prints JSON."""

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(wire: str, address: str, model: str, file: str, name: str) -> None:
    """Ask the same over one wire."""
    rows = np.load(file)
    tensor = InferInput(
        name, list(rows.shape), {"float32": "FP32", "int32": "INT32"}[str(rows.dtype)]
    )
    tensor.set_data_from_numpy(rows, binary_data=wire != "json")
    request = InferRequest(model, [tensor], request_id="seven")
    told = {}
    if wire == "grpc":
        async with InferenceGRPCClient(address) as client:
            told["live"] = await client.is_server_live()
            told["ready"] = await client.is_server_ready()
            told["model_ready"] = await client.is_model_ready(model)
            response = await client.infer(request)
            try:
                await client.infer(InferRequest("nonesuch", [tensor]))
            except grpc.RpcError as error:
                told["error"] = str(error)
    else:
        url = f"http://{address}"
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            told["live"] = await client.is_server_live(url)
            told["ready"] = await client.is_server_ready(url)
            told["model_ready"] = await client.is_model_ready(url, model)
            response = await client.infer(url, request, model_name=model)
            try:
                await client.infer(url, InferRequest("nonesuch", [tensor]), model_name="nonesuch")
            except httpx.HTTPStatusError as error:
                told["error"] = str(error)
    told["id"] = response.id
    told["version"] = response.model_version
    told["outputs"] = {
        output.name: [str(output.as_numpy().dtype), output.as_numpy().tolist()]
        for output in response.outputs
    }
    sys.stdout.write(json.dumps(told))


asyncio.run(main(*sys.argv[1:]))
