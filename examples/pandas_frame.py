"""Have a network classify the rows of a table of pandas, as a job, and put the answers beside them."""

import os

import numpy as np
import pandas as pd

from capamesh.client import Client

frame = pd.DataFrame(np.eye(64, dtype=np.float32)[:20], columns=[f"p{n}" for n in range(64)])
frame["name"] = [f"picture {n}" for n in range(len(frame))]

with Client(os.environ.get("CAPAMESH_ROUTER", "http://127.0.0.1:8000")) as client:
    job = client.jobs.submit(
        frame,
        model="digits",
        columns={
            "X": [f"p{n}" for n in range(64)]
        },  # 64 columns side by side are a row of the input
        id_column="name",
    )
    print("job", job.id, "is", job.wait().state)
    answers = job.results_table().to_pandas().set_index("id")
    print(frame.join(answers["label"], on="name")[["name", "label"]].to_string(index=False))
    for row in job.errors():
        print("row", row.id, "has no answer:", row.message)
