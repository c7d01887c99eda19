"""The operator's rules of how requests are routed, as values; `process.rules_keys` reads them."""
