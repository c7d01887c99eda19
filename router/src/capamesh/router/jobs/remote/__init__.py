"""Places of data that are not on this machine: object stores, HTTP servers, and what fsspec has; and that nothing outlives its time there."""
