"""The options that all sessions of ONNX Runtime are made with. Pure but for the library."""

from __future__ import annotations

from capamesh.node.runtime.onnxruntime.binding import LOG_FATAL, ort


def session_options(threads: int) -> object:
    """Return options of a session of which `threads` share a run's work on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = LOG_FATAL
    # Within a run threads spin for their next share of work (measured: a run of a MiniLM takes 6.6 ms
    # instead of 8.9 on two cores); between runs they leave the cores to other models and the links.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The store has read the file as ONNX; another format in it must not be tried.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options
