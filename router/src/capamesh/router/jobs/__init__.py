"""Batch jobs: a data set in, exactly one result a row out, whatever dies meanwhile (docs/decisions/0062)."""
