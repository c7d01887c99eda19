"""Send one picture of a digit to a local network (`capamesh dev up`) and print what it is."""

import os

import numpy as np

from capamesh.client import Client

SEVEN = np.array(
    [
        [0, 0, 7, 16, 16, 15, 2, 0],
        [0, 0, 8, 11, 8, 16, 5, 0],
        [0, 0, 0, 0, 4, 15, 1, 0],
        [0, 0, 4, 8, 13, 13, 5, 0],
        [0, 0, 12, 16, 16, 10, 3, 0],
        [0, 0, 0, 10, 10, 0, 0, 0],
        [0, 0, 3, 15, 3, 0, 0, 0],
        [0, 0, 10, 11, 0, 0, 0, 0],
    ],
    np.float32,
)

with Client(os.environ.get("CAPAMESH_ROUTER", "http://127.0.0.1:8000")) as client:
    outputs = client.infer("digits", {"X": SEVEN.reshape(1, 64)})
    print("it is a", int(outputs["label"][0]))
