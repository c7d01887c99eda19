"""The parts that keep faults away from callers: health, budgets, hedging, ejection. Pure."""
