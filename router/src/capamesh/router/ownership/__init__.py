"""Which file a model's version is, and which versions a model's owner has brought: pins, trust, and who decides. Pure but for `pin_file`."""
