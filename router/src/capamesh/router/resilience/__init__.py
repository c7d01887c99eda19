"""What keeps faults away from callers: health, budgets, hedging, ejection. Pure."""
