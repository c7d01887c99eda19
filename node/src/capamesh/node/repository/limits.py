"""The limits of what a model's rules may ask for, whichever file says them. Pure constants.

Where no source stands, a limit is a guess: generous for people, small against what a node bears.
"""

from __future__ import annotations

from typing import Final

MAX_MANIFEST_BYTES: Final = 64 * 1024  # a decoder's 512 states take some 100 bytes each
MAX_DESCRIPTION_CHARS: Final = 1024  # a paragraph
MAX_PROVIDER_CHARS: Final = 80  # guess: ONNX Runtime's longest is 28
MAX_PROVIDERS: Final = 8  # ONNX Runtime's builds carry two or three
MAX_QUEUE_LIMIT: Final = 1_000_000  # far over what any deadline lets a queue hold

MAX_PRIORITY_LEVELS: Final = 255  # what a request's priority may be
MAX_TIMEOUT_US: Final = 24 * 3600 * 1_000_000  # no caller waits a day

MAX_INSTANCES: Final = 64  # runs at a time on one device, which share its cores or streams
MAX_ROWS: Final = 2**20  # a row of one FP32 fills 4 MiB then
MAX_DELAY_US: Final = 10_000_000  # nobody waits longer for company
MAX_RAGGED: Final = 64
MAX_BUCKETS: Final = 64
MAX_AXIS: Final = 31  # tensors.Limits.max_dims is 32
MAX_DIM: Final = 2**31 - 1  # a JSON reader that knows only doubles keeps it exact
MAX_PAD: Final = 2**53 - 1  # whole numbers up to here are told apart as a double
MAX_NAME_CHARS: Final = 256  # what an advert carries
MAX_NAMES: Final = 1024  # tensors of a model in an advert

MAX_STATES: Final = 512  # a decoder has two a layer; the largest have 128 layers
MIN_IDLE_S: Final = 0.001
MAX_IDLE_S: Final = 7 * 24 * 3600.0
MAX_STATE_BYTES: Final = 256 * 2**30  # as a model's files: more than any one device's memory

MAX_LOOP_STEPS: Final = 1_000_000  # an hour of steps of 4 ms
MAX_LOOP_BYTES: Final = 64 * 2**30  # no caller reads more from one answer

MAX_WARM_UPS: Final = 64
MAX_WARM_UP_COUNT: Final = 1000
MAX_WARM_UP_ELEMENTS: Final = (
    256 * 2**20
)  # the bytes of one message, and an element has one or more
MAX_FILE_NAME_CHARS: Final = 255  # Linux's NAME_MAX, in bytes

MAX_STEPS: Final = 64
MAX_VERSIONS: Final = 1000
MAX_VERSION: Final = 10**18 - 1  # 18 digits fit a signed 64-bit number

MAX_TEXT_TOKENS: Final = 131_072  # the longest contexts of text encoders are 32,768
MAX_TEXT_CHARS: Final = 2**20
MAX_IMAGE_SIDE: Final = 4096  # pixels that a model takes; most take 224 to 1,024
MAX_IMAGE_BYTES: Final = 64 * 2**20
MAX_IMAGE_PIXELS: Final = 2**26  # 192 MiB while it is decoded
MAX_PIXEL_VALUE: Final = 1e6
MIN_DEVIATION: Final = 1e-6
MAX_FILE_BLOCK_BYTES: Final = 65_536  # a client sends no more of a large file's ends
MAX_LOOKUP_TOKENS: Final = 15  # with the token before them a run of 16
