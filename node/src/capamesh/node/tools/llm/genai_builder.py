"""Has onnxruntime-genai's model builder make a folder out of one of Hugging Face. Starts a process.

The builder knows some twenty architectures and needs PyTorch, which nothing else here does: it is called where it is installed.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from capamesh.node.tools.llm.quantising import WeightKind
from capamesh.protocol.errors import ConfigError, ModelInvalid

MODULE: Final = "onnxruntime_genai"
NEEDED: Final = (MODULE, "onnx_ir", "torch", "transformers")
"""The modules that the builder needs."""
INSTALL: Final = (
    "pip install torch transformers && pip install --no-deps onnxruntime-genai onnx_ir ml_dtypes"
)
"""The line that installs it beside the runtime that a node has: with its own dependencies it would bring another one."""
_BUILT: Final = {
    WeightKind.Q4: ("int4", "cpu"),
    WeightKind.Q8: ("int8", "cpu"),
    WeightKind.FP16: ("fp16", "cuda"),
    WeightKind.FP32: ("fp32", "cpu"),
}
"""The builder's words for each kind: the precision, and the provider. Of 16 bits it makes an attention that keeps sequences apart for CUDA
alone; the CPU runs that, too."""
_SHOWN_CHARS: Final = 1000  # guess: the last lines of a traceback

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - this interpreter, and a module of it


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def build(
    source: Path,
    folder: Path,
    kind: WeightKind | None,
    *,
    run: Run = _run,
    is_installed: Callable[[str], bool] = _installed,
) -> None:
    """Let the builder write a folder of onnxruntime-genai out of `source`, a folder of Hugging Face, into `folder`.

    Raises:
        ConfigError: the builder is not installed, or no kind of weights was named that it knows.
        ModelInvalid: the builder fails, or the model's weights are no safetensors.
    """
    if kind is None or kind not in _BUILT:
        raise ConfigError(
            f"onnxruntime-genai's builder makes {', '.join(_BUILT)} of a folder of Hugging Face: give --weights with one of these;"
            f" {WeightKind.W8A8} is made of a GGUF file"
        )
    missing = [module for module in NEEDED if not is_installed(module)]
    if missing:
        raise ConfigError(
            f"a folder of Hugging Face is converted by onnxruntime-genai's builder, and {', '.join(missing)} is not"
            f" installed; run: {INSTALL}; or give the model as a GGUF file"
        )
    if not any(source.glob("*.safetensors")):
        raise ModelInvalid(
            f"{source} has no weights as .safetensors; other forms may run code as they are read: convert them first"
        )
    command = [sys.executable, "-m", f"{MODULE}.models.builder", "-i", str(source)]
    precision, provider = _BUILT[kind]
    command += ["-o", str(folder), "-p", precision, "-e", provider]
    command += ["-c", str(folder / ".cache"), "--extra_options", "prune_lm_head=true"]
    done = run(command)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-_SHOWN_CHARS:]
        raise ModelInvalid(f"onnxruntime-genai's builder fails on {source}: {said}")
    for licence in sorted(source.glob("LICEN[CS]E*")):
        if licence.is_file() and not (folder / licence.name).exists():
            shutil.copyfile(licence, folder / licence.name)
