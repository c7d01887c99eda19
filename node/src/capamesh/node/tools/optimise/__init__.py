"""Tools for a model before it is served: look at it, check it, time it, make it smaller. Reads and writes files.

`finding` says which models a path means; `trial` makes or reads inputs to run them with, of numbers that
`number_ranges` found to be allowed. `structure` reads what a model is, `checking` whether a node would host it,
`timing` how fast it is. `optimising` makes a smaller or faster one with `conversions` and keeps it only when
`comparing` shows, by `agreement`, that it still decides as before.

`structure` and `optimising` need the `onnx` package, which serving does not: it is an extra, `onnx_files` says.
"""
